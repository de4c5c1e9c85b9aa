"""The embedded grid as a process. `__main__` only reads the command line."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from infra.plumbing.clock import Clock
from infra.plumbing.grid.server import GridServer
from infra.plumbing.http.middleware import frame, operations_routes
from infra.plumbing.http.serving import serve
from infra.plumbing.http.tls import ListenTls
from infra.plumbing.settings import load_settings
from infra.plumbing.telemetry import TelemetrySettings, start_telemetry


@dataclass(frozen=True, slots=True, kw_only=True)
class GridOptions:
    """What the command line says. `metrics_port` 0: no `/metrics`; `tls`: a file that holds a `ListenTls` for it."""

    socket: Path
    bytes_max: int
    region: str = ""
    node: str = "grid"
    host: str = "127.0.0.1"
    metrics_port: int = 0
    log_file: str = ""
    tls: Path | None = None


async def run_grid(options: GridOptions, *, stop: asyncio.Event, clock: Clock) -> None:
    """Serve the grid until `stop`.

    Raises:
        SettingsError: the socket, the port or a TLS file cannot be used.
    """
    async with AsyncExitStack() as stack:
        telemetry = start_telemetry(
            service="grid", region=options.region, node=options.node,
            settings=TelemetrySettings(log_file=options.log_file),
        )  # fmt: skip
        stack.callback(telemetry.close)
        server = GridServer(bytes_max=options.bytes_max, clock=clock, registry=telemetry.registry)
        stack.push_async_callback(server.close)
        await server.start(options.socket)
        telemetry.logger.info("grid ready", extra={"fields": {"socket": options.socket.name}})
        if not options.metrics_port:
            await stop.wait()
            return
        app = web.Application(middlewares=[frame(telemetry, clock)])
        app.add_routes(operations_routes(telemetry, lambda: None))
        tls = None if options.tls is None else load_settings(options.tls, ListenTls)
        await serve(app, host=options.host, port=options.metrics_port, stop=stop, telemetry=telemetry, tls=tls)
