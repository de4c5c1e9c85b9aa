"""One edge as a process: settings in, a serving application out, everything closed at the end."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from aiohttp import web

from edge.app import DRAIN, Outside, make_app, runner_of
from edge.settings import EdgeSettings
from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import SettingsError
from infra.plumbing.grid.connect import connect_grid
from infra.plumbing.http.serving import serve
from infra.plumbing.ids import uniform
from infra.plumbing.keys import LiveTrust, RegionKeys
from infra.plumbing.large_pages import large_pages
from infra.plumbing.memory import settle
from infra.plumbing.service_keys import KeyRing
from infra.plumbing.telemetry import start_telemetry
from infra.plumbing.tuf_client.client import ReleaseClient


async def run(settings: EdgeSettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set.

    Raises:
        SettingsError: a file that the settings name cannot be used, or the port is taken.
    """
    clock = SystemClock()
    keys, trust = RegionKeys.load(Path(settings.keys_file)), LiveTrust(Path(settings.trust_file), clock=clock)
    root = _trusted_root(settings)
    if keys.region != settings.region:
        raise SettingsError("keys_file belongs to another region.", fix="Name the key file of this edge's region.")

    def open_source() -> ReleaseClient:
        directory = Path(settings.state_directory) / "tuf"
        return ReleaseClient(
            repository_url=settings.repository_url, trusted_root=root, metadata_dir=directory, clock=clock,
            tls=settings.repository_tls,
        )  # fmt: skip

    async with AsyncExitStack() as stack:
        telemetry = start_telemetry(
            service="edge", region=settings.region, node=settings.node, settings=settings.telemetry
        )
        stack.callback(telemetry.close)
        grid = connect_grid(settings.grid, clock=clock, registry=telemetry.registry)
        stack.push_async_callback(grid.close)
        service_keys = KeyRing(Path(settings.service_keys_file) if settings.service_keys_file else None, clock=clock)
        outside = Outside(
            settings=settings, keys=keys, trust=trust, service_keys=service_keys, telemetry=telemetry,
            clock=clock, uniform=uniform, grid=grid, open_source=open_source,
        )  # fmt: skip
        app = await make_app(outside, stack)
        if settings.large_pages:
            await stack.enter_async_context(large_pages())
        settle()
        await serve(
            app, host=settings.host, port=settings.port, stop=stop, telemetry=telemetry,
            make_runner=runner_of(app, settings, telemetry), tls=settings.tls,
            before_end=lambda: _drained(app, settings),
        )  # fmt: skip


async def _drained(app: web.Application, settings: EdgeSettings) -> None:
    app[DRAIN].announced = True
    await asyncio.sleep(settings.drain_notice_s)
    app[DRAIN].begun = True
    await asyncio.sleep(settings.drain_s)


def _trusted_root(settings: EdgeSettings) -> bytes:
    try:
        return Path(settings.trusted_root).read_bytes()
    except OSError as error:
        raise SettingsError(
            f"cannot read trusted_root: {error.strerror}.", fix="It is the TUF root that came with the installation."
        ) from error
