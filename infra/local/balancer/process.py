"""The balancer as a process: its own pages, everything else to the proxy."""

import asyncio

from aiohttp import ClientSession, web

from infra.local.balancer.edges import EdgeBoard, any_up
from infra.local.balancer.proxy import Proxy, new_session
from infra.local.balancer.routing import build_routes
from infra.local.balancer.settings import BalancerSettings
from infra.plumbing.clock import Clock
from infra.plumbing.http.middleware import frame, operations_routes
from infra.plumbing.http.serving import serve
from infra.plumbing.http.tls import client_context
from infra.plumbing.telemetry import Telemetry


def build_app(
    *, settings: BalancerSettings, session: ClientSession, telemetry: Telemetry, clock: Clock
) -> tuple[web.Application, EdgeBoard]:
    """The application and the board of edges that its probes must keep true.

    Raises:
        SettingsError: the settings contradict themselves.
    """
    routes = build_routes(settings)
    board = EdgeBoard(settings=settings, telemetry=telemetry, clock=clock)
    proxy = Proxy(settings=settings, routes=routes, board=board, session=session, telemetry=telemetry)

    async def health(_request: web.Request) -> web.Response:
        return web.json_response({"edges": board.describe()})

    def ready() -> str | None:
        return None if any_up(board, board.edges) else "an edge that answers"

    app = web.Application(middlewares=[frame(telemetry, clock)], client_max_size=settings.request_bytes_max)
    app.add_routes(operations_routes(telemetry, ready))
    app.router.add_get("/health", health)
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    return app, board


async def run_balancer(settings: BalancerSettings, *, stop: asyncio.Event, telemetry: Telemetry, clock: Clock) -> None:
    """Serve until `stop` is set.

    Raises:
        SettingsError: the settings contradict themselves or the port is taken.
    """
    edges = [edge for region in settings.regions for edge in region.edges]
    tls = None if settings.edges_tls is None else client_context(settings.edges_tls, clock=clock)
    async with new_session(settings, edges, None if tls is None else tls.context) as session:
        app, board = build_app(settings=settings, session=session, telemetry=telemetry, clock=clock)
        beside = [asyncio.create_task(board.probe_for_ever(session))]
        if tls is not None:
            beside.append(asyncio.create_task(tls.follow()))
        try:
            await serve(
                app, host=settings.host, port=settings.port, stop=stop, telemetry=telemetry, tls=settings.tls
            )  # fmt: skip
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
