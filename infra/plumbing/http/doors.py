"""Which paths a certificate opens, and telling of connections that were refused."""

from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import Counter

from infra.plumbing.clock import Clock
from infra.plumbing.errors import ForbiddenError
from infra.plumbing.http.identity import is_one_of, name_of
from infra.plumbing.http.tls import Door
from infra.plumbing.telemetry import Telemetry

TELL_EVERY_S = 1.0


def is_open_to(doors: tuple[Door, ...], path: str, name: str) -> bool:
    """Whether who is called `name` (empty: shows no certificate) may call a route at `path`."""
    door = next((door for door in doors if path.startswith(door.prefix)), None)
    return door is not None and (not door.names or is_one_of(name, door.names))


def keep_doors(doors: tuple[Door, ...]) -> Middleware:
    """The middleware that refuses what a caller's certificate does not open. Its place is behind `frame`."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        # The route and not the path: what is refused and what is answered must be the same thing.
        resource = request.match_info.route.resource
        path = resource.canonical if resource is not None else request.path
        if not is_open_to(doors, path, peer_name(request)):
            raise ForbiddenError(
                "this certificate does not open this door.", fix="Call with that of a process that may."
            )
        return await handler(request)

    return middleware


def peer_name(request: web.Request) -> str:
    """The name in the certificate that the caller showed; empty without one."""
    certificate: dict[str, Any] | None = request.get_extra_info("peercert")
    return name_of(certificate)


def tell_refused(telemetry: Telemetry, clock: Clock) -> Callable[[str, str], None]:
    """Counts refused connections and writes them down; of a flood one line a second.

    Returns:
        What `listen_context` calls with why and who.
    """
    counted = Counter(
        "atoll_tls_refused", "Connections refused in the handshake.", ("why",), registry=telemetry.registry
    )  # fmt: skip
    told_s: dict[str, float] = {}

    def refused(why: str, who: str) -> None:
        counted.labels(why).inc()
        now_s = clock.monotonic_s()
        if now_s - told_s.get(why, -TELL_EVERY_S) >= TELL_EVERY_S:
            told_s[why] = now_s
            telemetry.logger.warning("a connection was refused", extra={"fields": {"why": why, "who": who}})

    return refused
