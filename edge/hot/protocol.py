"""aiohttp's connection handler with a short cut in front of its parser.

A request is answered past the parser only while all of this holds; otherwise its bytes go to aiohttp untouched:

- the handler is *parked*: `_waiter` is there and not done. It is done as soon as a parsed message waits to be handled
  and when the connection is being closed (aiohttp cancels it), and it is not there while a handler runs, nor for a
  turn of the loop after the handler's answer is out. A busy client's next request comes just then, so what is read
  while nobody is parked is put aside for one turn. Otherwise a connection that once went the long way would stay on it
  for as long as both sides are busy, and with it all others: the long way is what keeps them busy;
- the parser holds nothing: `_owed` is 0 (`edge.hot.framing`);
- the transport takes bytes: a client that does not read its answers pauses writing, and aiohttp's own back-pressure
  (a handler that waits in `drain`) takes over from there.

The interleaving that decides the first two::

    read 1: POST /v1/events, head and half the body   -> aiohttp; parked? no, the handler runs; owed: 500
    read 2: the rest of the body + "GET ..."          -> owed would be negative: UNKNOWN, this connection is aiohttp's
    read 2': exactly the rest of the body             -> owed: 0; parked again once the answer is out
    read 3: "GET ..."                                 -> parked, nothing owed: the hot path may answer

aiohttp offers no hook for this, so the handler reads fields that are not part of its interface (NEEDED). If a version
comes without one of them, the edge says so and serves without the short cut (`edge.app.runner_of`).
"""

import asyncio
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from edge.hot.framing import ASIDE, UNKNOWN, owed_after
from edge.hot.path import HotPath
from infra.plumbing.http.guarding import GuardedHandler, GuardedServer

NEEDED = ("_waiter", "_paused", "_next_keepalive_close_time", "_keepalive_timeout")
CALLED = ("_process_keepalive",)


class HotHandler(GuardedHandler):
    """One connection."""

    __slots__ = ("_answer", "_answered_before", "_aside", "_hot", "_owed", "_peer", "_write")

    def __init__(self, hot: HotPath, manager: web.Server, *, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(manager, loop=loop, **options)
        self._hot = hot
        self._answer = hot.answer
        self._owed = 0
        self._aside = b""
        self._peer = ""
        self._answered_before = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol.connection_made`."""
        super().connection_made(transport)
        self._write = transport.write  # type: ignore[attr-defined]
        name = transport.get_extra_info("peername")
        # As in `aiohttp.web.BaseRequest.remote`, which is what the long way limits by.
        self._peer = str(name[0]) if isinstance(name, (list, tuple)) else str(name or "")

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol.data_received`."""
        waiter = self._waiter
        if self._owed == 0:
            if waiter is None:
                if data:
                    self._aside, self._owed = data, ASIDE
                    self._loop.call_soon(self._take_up)
                    return
            elif not self._paused and not waiter.done():
                decide, write = self._answer, self._write
                answer = decide(data, self._peer)
                if answer is not None:
                    write(answer)
                    self.answered += 1
                    return
        elif self._owed == ASIDE:
            self._hand_over(self._taken())
        self._hand_over(data)

    def eof_received(self) -> None:
        """See `asyncio.Protocol.eof_received`."""
        if self._owed == ASIDE:
            self._hand_over(self._taken())
        super().eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        """See `asyncio.Protocol.connection_lost`."""
        if self._owed == ASIDE:
            self._taken()
        super().connection_lost(exc)

    def _take_up(self) -> None:
        if self._owed == ASIDE:
            data = self._taken()
            if self._waiter is None:  # a handler that takes its time: its answer goes out first
                self._hand_over(data)
            else:
                self.data_received(data)

    def _taken(self) -> bytes:
        data, self._aside, self._owed = self._aside, b"", 0
        return data

    def _hand_over(self, data: bytes) -> None:
        if self._owed != UNKNOWN:
            self._owed = owed_after(self._owed, data)
        self._hot.handed_over.count += 1
        super().data_received(data)

    def _process_keepalive(self) -> None:
        # aiohttp closes a connection on which nothing was asked since the last request that it handled itself.
        if self.answered != self._answered_before:
            self._answered_before = self.answered
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()


class HotServer(GuardedServer):
    """Makes `HotHandler`s where aiohttp's own server makes `RequestHandler`s."""

    def __init__(self, server: web.Server, hot: HotPath) -> None:
        super().__init__(server)
        self._hot = hot

    def __call__(self) -> RequestHandler:
        """The handler of a new connection."""
        return HotHandler(self._hot, self, loop=self._loop, **self._kwargs)


class HotRunner(web.AppRunner):
    """`aiohttp.web.AppRunner` whose connections have the short cut."""

    __slots__ = ("_hot",)

    def __init__(self, app: web.Application, hot: HotPath, **options: Any) -> None:
        super().__init__(app, **options)
        self._hot = hot

    async def _make_server(self) -> web.Server:
        return HotServer(await super()._make_server(), self._hot)


def is_supported() -> bool:
    """Whether this version of aiohttp has what the short cut needs."""
    names = {name for kind in RequestHandler.__mro__ for name in getattr(kind, "__slots__", ())}
    called = all(hasattr(RequestHandler, name) for name in CALLED)
    return called and names.issuperset(NEEDED) and hasattr(web.AppRunner, "_make_server")
