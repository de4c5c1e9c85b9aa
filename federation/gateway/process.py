"""One device gateway as a process."""

import asyncio
import secrets
from pathlib import Path

from federation.gateway.app import build_app
from federation.settings import GatewaySettings
from infra.plumbing.clock import SystemClock
from infra.plumbing.http.serving import serve
from infra.plumbing.keys import LiveTrust, RegionKeys
from infra.plumbing.memory import settle
from infra.plumbing.telemetry import start_telemetry


async def run(settings: GatewaySettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set.

    Raises:
        SettingsError: a file that the settings name cannot be used, or the port is taken.
    """
    clock = SystemClock()
    telemetry = start_telemetry(
        service="gateway", region=settings.region, node=settings.node, settings=settings.telemetry
    )
    try:
        app = build_app(
            settings=settings, keys=RegionKeys.load(Path(settings.keys_file)),
            trust=LiveTrust(Path(settings.trust_file), clock=clock), telemetry=telemetry, clock=clock,
            entropy=secrets.token_bytes,
        )  # fmt: skip
        settle()
        await serve(app, host=settings.host, port=settings.port, stop=stop, telemetry=telemetry, tls=settings.tls)
    finally:
        telemetry.close()
