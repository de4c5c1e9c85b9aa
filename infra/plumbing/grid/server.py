"""The embedded grid's server: one process a region, on one machine. Losing it loses nothing but speed.

Every bound: connections, topics per connection, frames, keys, values, bytes of the map, messages that wait for a
slow subscriber. A peer that does not speak the protocol loses its connection and disturbs nobody else. A peer that
does not read is not read from either, so what it asks cannot pile up here.
"""

import asyncio
import errno
import os
import socket
from collections import deque
from functools import partial
from pathlib import Path
from typing import cast

from prometheus_client import CollectorRegistry, Counter, Gauge

from infra.plumbing.clock import Clock
from infra.plumbing.errors import InvalidInputError, SettingsError
from infra.plumbing.grid.bounded_map import BoundedMap
from infra.plumbing.grid.frames import Call, FrameReader, Operation, Reply, decode_call, encode_frame
from infra.plumbing.grid.limits import check_key, check_value

CONNECTIONS_MAX = 256
TOPICS_PER_CONNECTION_MAX = 64
WAITING_MESSAGES_MAX = 4096
WAITING_BYTES_MAX = 4 << 20
SOCKET_PATH_BYTES_MAX = 107
"""Longest path of a Unix socket on Linux (`sun_path` less its end)."""
_WRITE_BUFFER_BYTES = 1 << 20
_WRITE_TOGETHER_BYTES = 1 << 18
_SWEEP_INTERVAL_S = 1.0
_SWEEP_MAX = 10_000


class GridMetrics:
    """What the server says about itself."""

    def __init__(self, registry: CollectorRegistry, entries: BoundedMap) -> None:
        self.calls = Counter("atoll_grid_calls", "Calls by operation.", ("operation",), registry=registry)
        self.refused = Counter(
            "atoll_grid_refused", "Calls and connections refused, by cause.", ("cause",), registry=registry
        )
        self.messages = Counter("atoll_grid_messages", "Topic messages sent to subscribers.", registry=registry)
        self.overflows = Counter(
            "atoll_grid_overflows", "Queues of slow subscribers that were dropped.", registry=registry
        )
        self.connections = Gauge("atoll_grid_connections", "Open connections.", registry=registry)
        for name in ("hits", "misses", "evictions", "expirations"):
            what = f"{name.capitalize()} of the map since the start."
            gauge = Gauge(f"atoll_grid_map_{name}", what, registry=registry)
            gauge.set_function(partial(_count, entries, name))
        size = Gauge("atoll_grid_map_bytes", "Bytes that the map's entries cost.", registry=registry)
        size.set_function(lambda: float(entries.bytes_used))


class GridServer:
    """A map and topics behind a Unix socket.

    Args:
        bytes_max: bound of the map.
        clock: for times to live.
        registry: for the metrics.
    """

    def __init__(self, *, bytes_max: int, clock: Clock, registry: CollectorRegistry | None = None) -> None:
        self.map = BoundedMap(bytes_max=bytes_max)
        self.metrics = GridMetrics(registry if registry is not None else CollectorRegistry(), self.map)
        self._clock = clock
        self._connections: set[_Connection] = set()
        self._subscribers: dict[str, set[_Connection]] = {}
        self._server: asyncio.AbstractServer | None = None
        self._path: Path | None = None
        self._closed = False
        self._all_gone = asyncio.Event()
        self._sweep: asyncio.TimerHandle | None = None

    async def start(self, path: Path) -> None:
        """Listen on `path`, readable and writable by its owner only.

        Raises:
            SettingsError: another process listens there, or the path cannot be used.
        """
        check_socket_path(path)
        loop = asyncio.get_running_loop()
        try:
            listening = await asyncio.to_thread(_bind, path)
            self._server = await loop.create_unix_server(lambda: _Connection(self), sock=listening, backlog=128)
        except OSError as error:
            raise SettingsError(
                f"the grid cannot listen on {path}: {error.strerror}.", fix="Check that its directory can be written."
            ) from error
        self._path = path
        self._sweep_soon()

    async def close(self) -> None:
        """Stop listening and drop every connection."""
        if self._sweep is not None:
            self._sweep.cancel()
        if self._server is not None:
            self._server.close()
        self._closed = True
        for connection in list(self._connections):
            connection.abort()
        if self._connections:
            await self._all_gone.wait()
        if self._server is not None and self._path is not None:
            await self._server.wait_closed()
            self._path.unlink(missing_ok=True)

    def admit(self, connection: "_Connection") -> bool:
        """Whether one more connection fits."""
        if self._closed or len(self._connections) >= CONNECTIONS_MAX:
            self.metrics.refused.labels("connections").inc()
            return False
        self._connections.add(connection)
        self.metrics.connections.set(len(self._connections))
        return True

    def forget(self, connection: "_Connection") -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        self.metrics.connections.set(len(self._connections))
        if self._closed and not self._connections:
            self._all_gone.set()
        for topic in connection.topics:
            subscribers = self._subscribers[topic]
            subscribers.discard(connection)
            if not subscribers:
                del self._subscribers[topic]

    def answer(self, connection: "_Connection", call: Call) -> Reply:
        """Do what a call asks."""
        self.metrics.calls.labels(call.operation.name.lower()).inc()
        try:
            return Reply(call.id, self._do(connection, call))
        except InvalidInputError as error:
            self.metrics.refused.labels("call").inc()
            return Reply(call.id, error=str(error))

    def _do(self, connection: "_Connection", call: Call) -> bytes | None:
        if call.operation is Operation.PING:
            return None
        check_key(call.key)
        check_value(call.value)
        now_s = self._clock.monotonic_s()
        match call.operation:
            case Operation.GET:
                return self.map.get(call.key, now_s=now_s)
            case Operation.PUT:
                self.map.put(call.key, call.value, ttl_s=call.ttl_s, now_s=now_s)
            case Operation.DELETE:
                self.map.delete(call.key)
            case Operation.PUBLISH:
                self._publish(call.key, call.value)
            case Operation.SUBSCRIBE:
                self._subscribe(connection, call.key)
        return None

    def _publish(self, topic: str, message: bytes) -> None:
        subscribers = self._subscribers.get(topic)
        if subscribers:
            frame = encode_frame(Reply(0, message, topic))
            for connection in subscribers:
                connection.push(frame)
            self.metrics.messages.inc(len(subscribers))

    def _subscribe(self, connection: "_Connection", topic: str) -> None:
        if topic not in connection.topics and len(connection.topics) >= TOPICS_PER_CONNECTION_MAX:
            raise InvalidInputError(f"a connection may listen to {TOPICS_PER_CONNECTION_MAX} topics.")
        connection.topics.add(topic)
        self._subscribers.setdefault(topic, set()).add(connection)

    def _sweep_soon(self) -> None:
        self.map.sweep(now_s=self._clock.monotonic_s(), limit=_SWEEP_MAX)
        self._sweep = asyncio.get_running_loop().call_later(_SWEEP_INTERVAL_S, self._sweep_soon)


class _Connection(asyncio.Protocol):
    """One client: answers its calls in order and tells it its topics' messages."""

    def __init__(self, server: GridServer) -> None:
        self.topics: set[str] = set()
        self._server = server
        self._frames = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._missed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        if not self._server.admit(self):
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio names it
        self._transport = None
        self._server.forget(self)

    def data_received(self, data: bytes) -> None:
        self._frames.feed(data)
        self._answer()

    def pause_writing(self) -> None:
        self._paused = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        self._flush()
        self._answer()
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def push(self, frame: bytes) -> None:
        """Send a topic's message, now or when the peer reads again; too many make one "some were missed"."""
        if not self._paused:
            self._write(frame)
            return
        if len(self._waiting) >= WAITING_MESSAGES_MAX or self._waiting_bytes + len(frame) > WAITING_BYTES_MAX:
            self._waiting.clear()
            self._waiting_bytes = 0
            self._missed = True
            self._server.metrics.overflows.inc()
            return
        self._waiting.append(frame)
        self._waiting_bytes += len(frame)

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _answer(self) -> None:
        """Answer calls until none is complete, or the peer has too much to read already."""
        replies: list[bytes] = []
        size = 0
        try:
            while not self._paused and (body := self._frames.take()) is not None:
                reply = encode_frame(self._server.answer(self, decode_call(body)))
                replies.append(reply)
                size += len(reply)
                if size >= _WRITE_TOGETHER_BYTES:
                    self._write(b"".join(replies))
                    replies, size = [], 0
        except InvalidInputError:
            self._server.metrics.refused.labels("garbage").inc()
            self.abort()
            return
        if replies:
            self._write(b"".join(replies))

    def _flush(self) -> None:
        if self._missed:
            # What waits came after the loss; the subscriber is told of the loss first.
            self._missed = False
            self._write(b"".join(encode_frame(Reply(0, None, topic)) for topic in self.topics))
        while self._waiting and not self._paused:
            frame = self._waiting.popleft()
            self._waiting_bytes -= len(frame)
            self._write(frame)

    def _write(self, content: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(content)


def check_socket_path(path: Path) -> None:
    """Refuse a path that no Unix socket can have.

    Raises:
        SettingsError: it is too long.
    """
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise SettingsError(
            f"the grid's socket path has more than {SOCKET_PATH_BYTES_MAX} bytes: {path}.",
            fix="Name a shorter one, or a relative one.",
        )


def _count(entries: BoundedMap, name: str) -> float:
    return float(getattr(entries.counts, name))


def _bind(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # private from its first moment
    try:
        listening.bind(str(path))
    except OSError:
        listening.close()
        raise
    finally:
        os.umask(mask)
    return listening


def _remove_stale(path: Path) -> None:
    """Remove a socket that a killed server left behind; one that still answers, and any other file, is left alone."""
    if not path.exists():
        return
    if not path.is_socket():
        raise SettingsError(f"{path} is there and is not a socket.", fix="Name another path for the grid.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:
                path.unlink(missing_ok=True)
                return
    raise SettingsError(f"another process listens on {path}.", fix="Stop it, or name another path for the grid.")
