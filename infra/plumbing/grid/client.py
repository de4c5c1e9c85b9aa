"""The embedded grid's client: pipelined calls over one connection, each with its time; none waits for a reconnect."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import cast

from prometheus_client import CollectorRegistry, Counter

from infra.plumbing.clock import Clock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.grid.frames import Call, FrameReader, Operation, Reply, decode_reply, encode_frame
from infra.plumbing.grid.limits import check_key, check_value
from infra.plumbing.grid.port import GridUnavailableError
from infra.plumbing.grid.server import check_socket_path
from infra.plumbing.grid.topics import Subscription, Topics

IN_FLIGHT_MAX = 4096
"""Calls that may wait for their answers on one connection."""
STALL_S = 1.0
"""A connection on which nothing is heard for so long, while something is asked, is given up."""
_CONNECT_TIMEOUT_S = 1.0
_BACKOFF_MIN_S = 0.02
_BACKOFF_MAX_S = 1.0
_WRITE_BUFFER_BYTES = 4 << 20


class _NotServedError(GridUnavailableError):
    """A call that failed, with its cause in a word for the metrics."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class SocketGrid:
    """`infra.plumbing.grid.port.Grid` over a Unix socket. Connects at the first use, inside a running loop.

    While there is no connection every call fails at once; only the calls that come before the very first attempt
    has ended wait for it, within their time.

    Args:
        path: the server's socket.
        clock: to tell a stalled connection.
        call_timeout_s: time of a get, put or delete.
        publish_timeout_s: time of a publish.
        registry: where failed calls and reconnects are counted.

    Raises:
        SettingsError: no socket can have that path.
    """

    def __init__(
        self, path: Path, *, clock: Clock, call_timeout_s: float = 0.005, publish_timeout_s: float = 0.25,
        registry: CollectorRegistry | None = None,
    ) -> None:  # fmt: skip
        check_socket_path(path)
        registry = registry if registry is not None else CollectorRegistry()
        self._path = path
        self._clock = clock
        self._call_timeout_s = call_timeout_s
        self._publish_timeout_s = publish_timeout_s
        self._topics = Topics()
        self._link: _Link | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._first_attempt = asyncio.Event()
        self._closed = False
        self._failures = Counter(
            "atoll_grid_client_failures", "Calls that the grid did not serve, by cause.", ("cause",), registry=registry
        )
        self._connects = Counter("atoll_grid_client_connects", "Connections made.", registry=registry)

    async def get(self, key: str) -> bytes | None:
        """The value, or None."""
        check_key(key)
        return await self._call(Operation.GET, key, timeout_s=self._call_timeout_s)

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        """Keep `value` for at most `ttl_s` seconds."""
        check_key(key)
        check_value(value)
        await self._call(Operation.PUT, key, value, ttl_s=ttl_s, timeout_s=self._call_timeout_s)

    async def delete(self, key: str) -> None:
        """Forget `key`."""
        check_key(key)
        await self._call(Operation.DELETE, key, timeout_s=self._call_timeout_s)

    async def publish(self, topic: str, message: bytes) -> None:
        """Tell every subscriber of `topic`."""
        check_key(topic)
        check_value(message)
        await self._call(Operation.PUBLISH, topic, message, timeout_s=self._publish_timeout_s)

    def subscribe(self, topic: str) -> AsyncIterator[bytes | None]:
        """None as soon as the server has noted the subscription, then messages; None again after every reconnect."""
        check_key(topic)
        subscription = Subscription()
        self._topics.add(topic, subscription)
        self._start()
        if self._link is not None:
            if topic in self._link.noted:
                subscription.offer(None)
            self._ask_for_topics(self._link)
        return subscription

    async def close(self) -> None:
        """Drop the connection and end every subscription."""
        self._closed = True
        self._topics.close()
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper

    async def _call(
        self, operation: Operation, key: str, value: bytes = b"", *, ttl_s: float = 0.0, timeout_s: float
    ) -> bytes | None:
        try:
            link = self._link if self._link is not None else await self._first_link(timeout_s)
            reply = await link.ask(operation, key, value, ttl_s=ttl_s, timeout_s=timeout_s)
            if reply.error:
                raise _NotServedError("refused", f"the grid refused the call: {reply.error}")
        except _NotServedError as error:
            self._failures.labels(error.cause).inc()
            raise
        return reply.value

    async def _first_link(self, timeout_s: float) -> "_Link":
        self._start()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._first_attempt.wait()
        if self._link is None:
            raise _NotServedError("disconnected", "the grid is not connected.")
        return self._link

    def _start(self) -> None:
        if self._keeper is None and not self._closed:
            self._keeper = asyncio.get_running_loop().create_task(self._keep_connected())

    async def _keep_connected(self) -> None:
        backoff_s = _BACKOFF_MIN_S
        while True:
            link = _Link(self._topics, self._clock)
            try:
                await self._connect(link)
                backoff_s = _BACKOFF_MIN_S
                self._first_attempt.set()
                await link.lost.wait()
            except (OSError, TimeoutError, GridUnavailableError):
                backoff_s = min(_BACKOFF_MAX_S, 2 * backoff_s)
            finally:
                self._link = None
                self._first_attempt.set()
                link.abort()
                await link.lost.wait()
            await asyncio.sleep(backoff_s)

    async def _connect(self, link: "_Link") -> None:
        """Connected is who answers: a frozen server's socket still accepts."""
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            await asyncio.get_running_loop().create_unix_connection(lambda: link, str(self._path))
        await link.ask(Operation.PING, timeout_s=_CONNECT_TIMEOUT_S)
        self._connects.inc()
        self._link = link
        self._ask_for_topics(link)

    def _ask_for_topics(self, link: "_Link") -> None:
        for topic in self._topics:
            if topic not in link.asked:
                link.asked.add(topic)
                link.listen(topic)


class _Link(asyncio.Protocol):
    """One connection's life: calls in flight by id, and the topics asked for on it."""

    def __init__(self, topics: Topics, clock: Clock) -> None:
        self.asked: set[str] = set()
        self.noted: set[str] = set()
        self.lost = asyncio.Event()
        self._topics = topics
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._frames = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._last_id = 0
        self._in_flight: dict[int, asyncio.Future[Reply]] = {}
        self._unheard_since_s: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio names it
        self._transport = None
        self.lost.set()
        for future in self._in_flight.values():
            if not future.done():
                future.set_exception(_NotServedError("lost", "the grid went away."))
        self._in_flight.clear()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False

    def data_received(self, data: bytes) -> None:
        self._unheard_since_s = None
        self._frames.feed(data)
        try:
            while (body := self._frames.take()) is not None:
                self._take_reply(decode_reply(body))
        except InvalidInputError:
            self.abort()

    async def ask(
        self, operation: Operation, key: str = "", value: bytes = b"", *, ttl_s: float = 0.0, timeout_s: float
    ) -> Reply:
        """Send a call and wait for its reply, at most `timeout_s`.

        Raises:
            GridUnavailableError: no reply in time, too much in flight, or the connection is gone.
        """
        future = self._send(operation, key, value, ttl_s)
        number = self._last_id
        timer = self._loop.call_later(timeout_s, self._give_up, number)
        try:
            return await future
        finally:
            timer.cancel()
            self._in_flight.pop(number, None)

    def listen(self, topic: str) -> None:
        """Ask for a topic; its subscribers are told None when the server has noted it."""
        try:
            future = self._send(Operation.SUBSCRIBE, topic)
        except _NotServedError:
            self.abort()  # asked for again on the next connection
            return

        def noted(done: asyncio.Future[Reply]) -> None:
            if done.cancelled() or done.exception() is not None or done.result().error:
                self.abort()
                return
            self.noted.add(topic)
            self._topics.offer(topic, None)

        future.add_done_callback(noted)

    def abort(self) -> None:
        """Give the connection up."""
        if self._transport is not None:
            self._transport.abort()
        else:
            self.lost.set()

    def _send(self, operation: Operation, key: str, value: bytes = b"", ttl_s: float = 0.0) -> "asyncio.Future[Reply]":
        if self._transport is None or self._transport.is_closing():
            raise _NotServedError("lost", "the grid went away.")
        if self._paused or len(self._in_flight) >= IN_FLIGHT_MAX:
            raise _NotServedError("overload", "too many calls wait for the grid.")
        self._last_id += 1
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._in_flight[self._last_id] = future
        self._transport.write(encode_frame(Call(self._last_id, operation, key, value, ttl_s)))
        if self._unheard_since_s is None:
            self._unheard_since_s = self._clock.monotonic_s()
        return future

    def _give_up(self, number: int) -> None:
        future = self._in_flight.pop(number, None)
        if future is not None and not future.done():
            future.set_exception(_NotServedError("timeout", "the grid did not answer in time."))
        unheard_since_s = self._unheard_since_s
        if unheard_since_s is not None and self._clock.monotonic_s() - unheard_since_s > STALL_S:
            self.abort()

    def _take_reply(self, reply: Reply) -> None:
        if reply.id == 0:
            self._topics.offer(reply.topic, reply.value)
            return
        future = self._in_flight.pop(reply.id, None)
        if future is not None and not future.done():
            future.set_result(reply)
