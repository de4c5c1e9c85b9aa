"""Connections that waste a process's room: heads that do not end, silence, what is not HTTP. All closed and counted.

A request's head must be whole within HEAD_S of its first byte (a sender that drips it is a slow loris), and a
connection on which nothing was asked for IDLE_S is given up. Bodies have their own time-outs where they are read.

What cannot be parsed is answered with a problem document. aiohttp's own answer quotes the bytes that it stumbled over,
to the sender and, with the sender's address, into the log; they may well be a token.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.web_protocol import RequestHandler

from infra.plumbing.http.problems import kind_of_status, problem_response
from infra.plumbing.ids import new_request_id

HEAD_S = 10.0
IDLE_S = 75.0
LOOK_EVERY_S = 1.0
_NOT_HTTP = "The head of the request, or the framing of its body, is not HTTP/1.1 as this service takes it."


class GuardedHandler(RequestHandler):
    """One connection that knows since when a head is incomplete, and since when nothing was asked."""

    __slots__ = ("answered", "head_since_s", "idle_mark", "idle_since_s")

    def __init__(self, manager: web.Server, *, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(manager, loop=loop, **options)
        self.answered = 0
        """Requests that a handler of a kind of its own answered past aiohttp's parser."""
        self.head_since_s: float | None = None
        self.idle_mark: tuple[int, float] = (-1, 0.0)
        self.idle_since_s = 0.0

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol.data_received`."""
        super().data_received(data)
        # Still parked although bytes came: the parser holds a piece of a head.
        if not self.is_parked:
            self.head_since_s = None
        elif self.head_since_s is None:
            self.head_since_s = self._loop.time()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - quotes what was sent
    ) -> web.StreamResponse:
        """See `RequestHandler.handle_error`. Nothing of what was sent is said, neither back nor to the log."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer is out: only the connection's end can tell that no more comes")
        if isinstance(exc, HttpProcessingError):
            kind = kind_of_status(431 if isinstance(exc, LineTooLong) else 400)
            says = kind.means if kind.status == 431 else _NOT_HTTP
            if isinstance(self._manager, GuardedServer):
                self._manager.unreadable += 1
        else:
            kind = kind_of_status(status)
            says = kind.means
            self.log_exception("a request could not be answered", exc_info=exc)
        answer = problem_response(kind.status, kind.title, says, new_request_id())
        # The application's own hooks for headers are not asked for a request that never came to be.
        answer.headers.update({"Server": "atoll", "X-Content-Type-Options": "nosniff"})
        answer.force_close()
        return answer

    def log_exception(self, *args: Any, **options: Any) -> None:
        """See `RequestHandler.log_exception`. That a body broke was answered already, and is nobody's fault here."""
        if not isinstance(sys.exc_info()[1], web.RequestPayloadError):
            super().log_exception(*args, **options)

    @property
    def is_parked(self) -> bool:
        """Whether it waits for a request to be whole."""
        return self._waiter is not None and not self._waiter.done() and not self._messages

    def outstayed(self, now_s: float, *, head_s: float, idle_s: float) -> str | None:
        """Why the connection is to be closed; None when it may stay. To be asked about once a second."""
        if not self.is_parked:
            self.idle_mark = (-1, 0.0)
            return None
        if self.head_since_s is not None and now_s - self.head_since_s > head_s:
            return "slow-head"
        # Whatever answers a request moves one of them on.
        mark = (self._request_count + self.answered, self._next_keepalive_close_time)
        if mark != self.idle_mark:
            self.idle_mark, self.idle_since_s = mark, now_s
        return "idle" if now_s - self.idle_since_s > idle_s else None


class GuardedServer(web.Server):
    """Makes `GuardedHandler`s where aiohttp's own server makes `RequestHandler`s."""

    unreadable: int = 0
    """Requests that were not HTTP, since the start."""

    def __init__(self, server: web.Server) -> None:
        self.__dict__.update(server.__dict__)

    def __call__(self) -> RequestHandler:
        """The handler of a new connection."""
        return GuardedHandler(self, loop=self._loop, **self._kwargs)


class GuardedRunner(web.AppRunner):
    """`aiohttp.web.AppRunner` whose connections can be watched."""

    async def _make_server(self) -> web.Server:
        return GuardedServer(await super()._make_server())


async def guard(
    server: web.Server, *, counted: Callable[[str], None], head_s: float = HEAD_S, idle_s: float = IDLE_S,
    look_every_s: float = LOOK_EVERY_S,
) -> None:  # fmt: skip
    """Close what has outstayed, until cancelled. `counted` is told why."""
    loop = asyncio.get_running_loop()
    told = 0
    while True:
        await asyncio.sleep(look_every_s)
        if isinstance(server, GuardedServer):
            for _ in range(server.unreadable - told):
                counted("unreadable")
            told = server.unreadable
        for handler in server.connections:
            if isinstance(handler, GuardedHandler):
                why = handler.outstayed(loop.time(), head_s=head_s, idle_s=idle_s)
                if why is not None:
                    counted(why)
                    handler.force_close()
