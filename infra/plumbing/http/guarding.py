"""Connections that waste a process's room: heads that do not end, and silence. Both are closed and counted.

A request's head must be whole within HEAD_S of its first byte (a sender that drips it is a slow loris), and a
connection on which nothing was asked for IDLE_S is given up. Bodies have their own time-outs where they are read.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

HEAD_S = 10.0
IDLE_S = 75.0
LOOK_EVERY_S = 1.0


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
    while True:
        await asyncio.sleep(look_every_s)
        for handler in server.connections:
            if isinstance(handler, GuardedHandler):
                why = handler.outstayed(loop.time(), head_s=head_s, idle_s=idle_s)
                if why is not None:
                    counted(why)
                    handler.force_close()
