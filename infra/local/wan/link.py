"""One link: accepts connections, passes bytes on in both directions, records each, applies the shape.

Per connection two lanes (out, back); each lane is a reader that records and queues chunks with their moment of
arrival, and a writer that passes them on. The queue between them is bounded, so a slow receiver slows the sender down.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from infra.local.wan.capture import CaptureRecord, CaptureWriter, Direction
from infra.local.wan.securing import SecuredEnds, accept, listen
from infra.local.wan.settings import LinkSettings
from infra.local.wan.shaping import Lane, LinkMode, LinkShape, losses_of
from infra.plumbing.clock import Clock
from infra.plumbing.errors import SettingsError
from infra.plumbing.ids import uniform

CHUNK_BYTES = 64 << 10
CHUNKS_QUEUED_MAX = 32
CONNECT_TIMEOUT_S = 3.0
BACKLOG = 256
CLOSE_TIMEOUT_S = 5.0

_ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_LINGER_NOT = struct.pack("ii", 1, 0)
_Chunk = tuple[float, bytes]


@dataclass(slots=True)
class LinkCounters:
    """What happened on a link since its process started."""

    connections: int = 0
    refused: int = 0
    """The target did not accept, was not known, or the link was full."""
    bytes_out: int = 0
    bytes_back: int = 0


class Link:
    """A listening proxy for one (origin, destination)."""

    def __init__(
        self, *, settings: LinkSettings, host: str, capture: CaptureWriter, clock: Clock, connections_max: int,
        chance: Callable[[], float] = lambda: uniform(0.0, 1.0), secured: SecuredEnds | None = None,
    ) -> None:  # fmt: skip
        self.settings = settings
        self.shape = LinkShape()
        self.counters = LinkCounters()
        self.capture = capture
        self._host = host
        self._target = (settings.target_host, settings.target_port)
        self._clock = clock
        self._connections_max = connections_max
        self._chance = chance
        self._secured = secured
        self._open: set[asyncio.WriteTransport] = set()
        self._handling: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._listening: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._securing: set[asyncio.Task[None]] = set()
        self._stopping = False

    @property
    def target(self) -> tuple[str, int]:
        """Where connections go; port 0 means nowhere yet."""
        return self._target

    def aim(self, host: str, port: int) -> None:
        """Send new connections to another target."""
        self._target = (host, port)

    async def start(self) -> None:
        """Listen.

        Raises:
            SettingsError: the port is taken.
        """
        try:
            if self._secured is None:
                self._server = await asyncio.start_server(
                    self._accept, self._host, self.settings.port, limit=CHUNK_BYTES, backlog=BACKLOG
                )
            else:
                self._listening = listen(self._host, self.settings.port, backlog=BACKLOG)
                self._accepting = asyncio.create_task(accept(self._listening, self._begin))
        except OSError as error:
            raise SettingsError(
                f"port {self.settings.port} of the link {self.settings.name} cannot be used: {error.strerror}.",
                fix="Stop what uses it, or start the world with other ports.",
            ) from error

    async def stop(self) -> None:
        """Close everything and wait until it is closed."""
        self._stopping = True
        if self._server:
            self._server.close()
        if self._accepting and self._listening:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
            self._listening.close()
        ending = [*self._handling, *self._securing]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        self.capture.close()

    def change(self, shape: LinkShape) -> None:
        """Apply another shape from now on; RESET ends what is open, and so does leaving BLACK_HOLE.

        After a black hole the two ends disagree about what was sent, as behind a real partition; they must reconnect.
        """
        left_hole = self.shape.mode is LinkMode.BLACK_HOLE and shape.mode is not LinkMode.BLACK_HOLE
        self.shape = shape
        # What is open goes to the far end past this link's answers.
        if shape.mode in (LinkMode.RESET, LinkMode.ERRORS) or left_hole:
            for transport in list(self._open):
                reset(transport)

    def _begin(self, accepted: socket.socket) -> None:
        """Handle a connection of a link with TLS."""
        if len(self._securing) >= self._connections_max:
            self.counters.refused += 1
            accepted.close()
            return
        task = asyncio.create_task(self._secure(accepted))
        self._securing.add(task)
        task.add_done_callback(self._securing.discard)

    async def _secure(self, accepted: socket.socket) -> None:
        plain = self.shape.mode in (LinkMode.BLACK_HOLE, LinkMode.RESET)
        try:
            if self._secured is None:
                raise RuntimeError("a link without TLS does not secure")
            reader, writer = await self._secured.take(accepted, plain=plain, limit=CHUNK_BYTES)
        except OSError:
            self.counters.refused += 1
            accepted.close()
            return
        await self._accept(reader, writer)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a connection is handled outside a task")
        self._handling.add(task)
        try:
            await self._handle(reader, writer)
        except asyncio.CancelledError:
            if not self._stopping:
                raise
        finally:
            self._handling.discard(task)
            if not writer.is_closing():
                reset(writer.transport)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counters.connections += 1
        number = self.counters.connections
        if len(self._handling) > self._connections_max or self.shape.mode is LinkMode.RESET:
            self.counters.refused += 1
            return
        self._record(Direction.OPENED, number, b"")
        with self._tracked(writer):
            if self.shape.mode is LinkMode.BLACK_HOLE:
                await self._swallow(reader, number)
                return
            if self.shape.mode is LinkMode.ERRORS:
                await self._answer_errors(reader, writer, number)
                return
            far = await self._connect()
            if far is None:
                self.counters.refused += 1
                return
            far_reader, far_writer = far
            with self._tracked(far_writer):
                await self._carry((reader, writer), (far_reader, far_writer), number)

    @contextlib.contextmanager
    def _tracked(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        self._open.add(writer.transport)
        try:
            yield
        finally:
            self._open.discard(writer.transport)
            if not writer.is_closing():
                reset(writer.transport)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        host, port = self._target
        if port == 0:
            return None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                tls = None if self._secured is None else self._secured.far
                return await asyncio.open_connection(host, port, limit=CHUNK_BYTES, ssl=tls)
        except (OSError, TimeoutError):
            return None

    async def _carry(
        self,
        near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        number: int,
    ) -> None:
        out: asyncio.Queue[_Chunk] = asyncio.Queue(CHUNKS_QUEUED_MAX)
        back: asyncio.Queue[_Chunk] = asyncio.Queue(CHUNKS_QUEUED_MAX)
        try:
            async with asyncio.TaskGroup() as lanes:
                lanes.create_task(self._read(near[0], out, Direction.OUT, number))
                lanes.create_task(self._write(out, far[1]))
                lanes.create_task(self._read(far[0], back, Direction.BACK, number))
                lanes.create_task(self._write(back, near[1]))
        except* OSError:
            # One end reset: so does the link, towards both.
            reset(near[1].transport)
            reset(far[1].transport)
        await _close(far[1])
        await _close(near[1])

    async def _read(
        self, reader: asyncio.StreamReader, queue: asyncio.Queue[_Chunk], direction: Direction, number: int
    ) -> None:
        """Raises OSError (which ends the connection's other lanes) when the sender resets."""
        lane = Lane()
        while chunk := await reader.read(CHUNK_BYTES):
            self._count(direction, len(chunk))
            # Recorded before it is shaped: what the origin sent has left it, whether or not it arrives.
            self._record(direction, number, chunk)
            if self.shape.mode is not LinkMode.BLACK_HOLE:
                losses = losses_of(self.shape, self._chance) if self.shape.loss > 0 else 0
                await queue.put((lane.arrival_s(self.shape, len(chunk), self._clock.monotonic_s(), losses), chunk))
        await queue.put((self._clock.monotonic_s(), b""))

    async def _write(self, queue: asyncio.Queue[_Chunk], writer: asyncio.StreamWriter) -> None:
        while True:
            arrival_s, chunk = await queue.get()
            wait_s = arrival_s - self._clock.monotonic_s()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            if not chunk:
                if writer.can_write_eof():
                    writer.write_eof()
                else:  # TLS has no half-closed connections: who says no more is not listened for either.
                    writer.close()
                return
            writer.write(chunk)
            await writer.drain()

    async def _swallow(self, reader: asyncio.StreamReader, number: int) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                self._count(Direction.OUT, len(chunk))
                if self._secured is None:  # The greeting of a handshake that nobody answers says nothing.
                    self._record(Direction.OUT, number, chunk)

    async def _answer_errors(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            request = await reader.readuntil(b"\r\n\r\n")
            self._count(Direction.OUT, len(request))
            self._record(Direction.OUT, number, request)
            writer.write(_ERROR)
            await _close(writer)

    def _count(self, direction: Direction, length: int) -> None:
        if direction is Direction.OUT:
            self.counters.bytes_out += length
        else:
            self.counters.bytes_back += length

    def _record(self, direction: Direction, number: int, chunk: bytes) -> None:
        self.capture.write(CaptureRecord(direction, self._clock.now_ms(), number, chunk))


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close after what is buffered has left; an end that does not read it in time is cut off."""
    writer.close()
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        reset(writer.transport)


def reset(transport: asyncio.WriteTransport) -> None:
    """Close at once, so that the peer sees a reset (RFC 9293, 3.10.5) and not an orderly end."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    transport.abort()
