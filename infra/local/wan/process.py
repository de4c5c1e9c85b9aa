"""All links of a world in one process, with a control socket, `/metrics` and health."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from infra.local.control import Request, number_field, serve_control, text_field
from infra.local.wan.capture import CaptureWriter
from infra.local.wan.link import Link
from infra.local.wan.securing import SecuredEnds
from infra.local.wan.settings import WanSettings
from infra.local.wan.shaping import LinkMode, LinkShape
from infra.plumbing.clock import Clock
from infra.plumbing.errors import InvalidInputError, NotFoundError
from infra.plumbing.http.doors import tell_refused
from infra.plumbing.http.identity import Refused, untold
from infra.plumbing.http.middleware import frame, operations_routes
from infra.plumbing.http.serving import serve
from infra.plumbing.telemetry import Telemetry

FLUSH_EVERY_S = 0.25
PORT_MAX = 65_535


class Wan:
    """The links by (origin, destination), and what the control socket can ask of them.

    Commands: ``status``; ``flush``; ``shape`` with `origin`, `destination` (either may be ``*``) and `mode`,
    `latency_ms`, `bandwidth_bytes_s`, `loss`; ``aim`` with `origin`, `destination`, `host`, `port`.
    """

    def __init__(self, *, settings: WanSettings, clock: Clock, refused: Refused = untold) -> None:
        self._secured = {
            link.name: SecuredEnds(link.tls, clock=clock, refused=refused)
            for link in settings.links
            if link.tls is not None
        }
        self.links = {
            (link.origin, link.destination): Link(
                settings=link,
                host=settings.host,
                capture=CaptureWriter(
                    Path(settings.capture_directory) / f"{link.name}.bin",
                    bytes_max=settings.capture_bytes_max if link.captured else 0,
                ),
                clock=clock,
                connections_max=settings.connections_max,
                secured=self._secured.get(link.name),
            )
            for link in settings.links
        }

    async def start(self) -> None:
        """Listen on every link."""
        for link in self.links.values():
            await link.start()

    async def stop(self) -> None:
        """Close every link."""
        for link in self.links.values():
            await link.stop()

    def refresh(self) -> None:
        """Take over certificates that changed."""
        for ends in self._secured.values():
            for context in ends.contexts:
                context.refresh()

    def flush(self) -> None:
        """Make everything that crossed so far readable in the capture files."""
        for link in self.links.values():
            link.capture.flush()

    async def command(self, request: Request) -> Any:
        """Carry out one command; see the class."""
        command = text_field(request, "command")
        if command == "status":
            return [describe(link) for link in self.links.values()]
        if command == "flush":
            self.flush()
            return None
        if command == "shape":
            return self._change(request)
        if command == "aim":
            return self._aim(request)
        raise InvalidInputError(f"there is no command {command!r}.", fix="Use status, flush, shape or aim.")

    def _change(self, request: Request) -> list[str]:
        mode = text_field(request, "mode", LinkMode.OPEN.value)
        if mode not in set(LinkMode):
            raise InvalidInputError(f"there is no mode {mode!r}.", fix=f"Use one of {', '.join(LinkMode)}.")
        shape = LinkShape(
            mode=LinkMode(mode),
            latency_ms=number_field(request, "latency_ms", 0.0),
            bandwidth_bytes_s=number_field(request, "bandwidth_bytes_s", 0.0),
            loss=number_field(request, "loss", 0.0),
        )
        chosen = self._chosen(request)
        for link in chosen:
            link.change(shape)
        return [link.settings.name for link in chosen]

    def _aim(self, request: Request) -> list[str]:
        host, port = text_field(request, "host", "127.0.0.1"), int(number_field(request, "port", 0))
        if not 1 <= port <= PORT_MAX:
            raise InvalidInputError(f"{port} is not a port.", fix=f"Use 1 to {PORT_MAX}.")
        chosen = self._chosen(request)
        for link in chosen:
            link.aim(host, port)
        return [link.settings.name for link in chosen]

    def _chosen(self, request: Request) -> list[Link]:
        origin, destination = text_field(request, "origin"), text_field(request, "destination")
        chosen = [
            link for (one, other), link in self.links.items() if origin in ("*", one) and destination in ("*", other)
        ]
        if not chosen:
            raise NotFoundError(f"there is no link {origin}--{destination}.", fix="See the command status.")
        return chosen


def describe(link: Link) -> dict[str, Any]:
    """A link now, for people and tests."""
    return {
        "origin": link.settings.origin,
        "destination": link.settings.destination,
        "port": link.settings.port,
        "target": "{}:{}".format(*link.target),
        "shape": msgspec.to_builtins(link.shape),
        "connections": link.counters.connections,
        "refused": link.counters.refused,
        "bytes_out": link.counters.bytes_out,
        "bytes_back": link.counters.bytes_back,
        "bytes_kept": link.capture.bytes_kept,
        "bytes_cut": link.capture.bytes_cut,
    }


class _LinkMetrics(Collector):
    """Counters of every link at the moment of the scrape."""

    def __init__(self, wan: Wan) -> None:
        self._wan = wan

    def collect(self) -> Iterable[Metric]:
        """One family per counter, labelled by link."""
        for name, help_text in (
            ("connections", "Connections accepted."),
            ("refused", "Connections that could not be passed on."),
            ("bytes_out", "Bytes from origin to destination."),
            ("bytes_back", "Bytes from destination to origin."),
            ("bytes_cut", "Bytes that were not kept because the capture is full."),
        ):
            family = CounterMetricFamily(f"atoll_link_{name}", help_text, labels=("origin", "destination"))
            for link in self._wan.links.values():
                state = describe(link)
                family.add_metric((state["origin"], state["destination"]), state[name])
            yield family


async def run_wan(settings: WanSettings, *, stop: asyncio.Event, telemetry: Telemetry, clock: Clock) -> None:
    """Serve all links until `stop` is set.

    Raises:
        SettingsError: a port is taken.
    """
    refused = tell_refused(telemetry, clock)
    wan = Wan(settings=settings, clock=clock, refused=refused)
    telemetry.registry.register(_LinkMetrics(wan))
    app = web.Application(middlewares=[frame(telemetry, clock)])
    app.add_routes(operations_routes(telemetry, lambda: None))
    control = Path(settings.control_socket)
    server = await serve_control(control, wan.command)
    flushing: asyncio.Task[None] | None = None
    try:
        await wan.start()
        flushing = asyncio.create_task(_flush_for_ever(wan))
        await serve(
            app, host=settings.host, port=settings.port, stop=stop, telemetry=telemetry, tls=settings.tls,
            refused=refused,
        )  # fmt: skip
    finally:
        if flushing:
            flushing.cancel()
        server.close()
        await wan.stop()
        control.unlink(missing_ok=True)  # noqa: ASYNC240 - once, at the end


async def _flush_for_ever(wan: Wan) -> None:
    while True:
        await asyncio.sleep(FLUSH_EVERY_S)
        wan.flush()
        wan.refresh()
