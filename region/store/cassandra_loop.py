"""The Cassandra driver's connections on the loop that asks, instead of on a thread of the driver's own.

The driver's usual reactor (libev) reads and writes on a thread. Beside a loop that is busy this costs every row two
hand-overs of the interpreter, a wake-up of each side, a system call for every request and one for every 4 KB that come
back. Here a request goes out with all others of the same turn of the loop, and an answer completes its future in the
turn that read it.

What holds, and must:

* The driver opens connections on threads of its own and waits there for the first answers, so the loop has to run
  meanwhile. Nothing that it calls on the loop waits for an answer: it promises that of its event thread, which the
  loop now is.
* Sockets, watchers and handles of timers are touched on the loop only; whatever comes from another thread goes there
  by `call_soon_threadsafe`.
* A loop that was busy for longer than a timeout finds the answer beside it: a timer that is due lets the loop read
  once before it speaks. A heartbeat, which a thread of the driver's counts out, is judged on the loop, which may not
  have sent it yet: whoever was held up must not take nodes for dead because it had not listened.
"""

import asyncio
import logging
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

from cassandra import OperationTimedOut
from cassandra.connection import Connection, ConnectionShutdown

_log = logging.getLogger(__name__)
READ_BYTES = 65_536
READS_A_TURN = 16
"""So much is read from one connection before others have their turn: 1 MB."""
SLOT_S = 0.01
UNSENT_BYTES_MAX = 8 << 20
"""Beyond it a connection says that it is busy, and the driver tries another or fails the request."""
LISTEN_S = 0.5
"""A node whose heartbeat was missed has so long to be heard, from when the loop is there again."""
_LOOK_FIRST_S = 0.001


class LoopTimer:
    """One of the driver's timers. May be cancelled from any thread."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[], Any]) -> None:
        self._callback: Callable[[], Any] | None = callback

    def cancel(self) -> None:
        """It will not speak, unless it does just now; and holds on to nobody."""
        self._callback = None

    def speak(self) -> None:
        """It is due."""
        if (callback := self._callback) is not None:
            callback()


class TimerWheel:
    """Timers of one loop by the slot that they end in: nearly all are cancelled, so the loop is told of slots only.

    Touched on the loop only.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, list[LoopTimer]] = {}

    def add(self, timer: LoopTimer, timeout_s: float) -> None:
        """Have it speak after `timeout_s`, SLOT_S later at most (and whatever the loop was busy for)."""
        slot = int((self._loop.time() + timeout_s) / SLOT_S) + 1
        try:
            self._slots[slot].append(timer)
        except KeyError:
            self._slots[slot] = [timer]
            self._loop.call_at(slot * SLOT_S, self._due, slot)

    def _due(self, slot: int) -> None:
        self._loop.call_later(_LOOK_FIRST_S, self._speak, slot)

    def _speak(self, slot: int) -> None:
        for timer in self._slots.pop(slot):
            # One that fails must not keep the others from speaking.
            self._loop.call_soon(timer.speak)


class LoopConnection(Connection):  # type: ignore[misc]  # the driver has no types
    """A connection of one loop; `on` makes the class of it, which the driver's `connection_class` takes."""

    loop: ClassVar[asyncio.AbstractEventLoop]
    thread: ClassVar[int]
    wheel: ClassVar[TimerWheel]

    @classmethod
    def on(cls, loop: asyncio.AbstractEventLoop) -> "type[LoopConnection]":
        """The class of connections on the running loop of this thread."""
        ours = {"loop": loop, "thread": threading.get_ident(), "wheel": TimerWheel(loop)}
        return type(cls.__name__, (cls,), ours)

    @classmethod
    def create_timer(cls, timeout: float, callback: Callable[[], Any]) -> LoopTimer:
        """The driver's way to be called later."""
        timer = LoopTimer(callback)
        if threading.get_ident() == cls.thread:
            cls.wheel.add(timer, timeout)
        else:
            cls._on_loop(cls.wheel.add, timer, timeout)
        return timer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_closed: bool = False
        self._outgoing = bytearray()
        self._outgoing_lock = threading.Lock()
        self._flush_due = False
        self._waits_to_write = False
        self._heard = 0
        self._connect_socket()
        self._socket.settimeout(0)
        if not self._on_loop(self._begin):
            self._socket.close()
            raise ConnectionShutdown("the loop of these connections has ended")
        self._send_options_message()

    def push(self, data: bytes) -> None:
        """Send bytes, of one whole message, in the order of the calls."""
        with self._outgoing_lock:
            self._outgoing += data
            due, self._flush_due = self._flush_due, True
            if len(self._outgoing) > UNSENT_BYTES_MAX:
                self._socket_writable = False
        if not due:
            if threading.get_ident() == self.thread:
                self.loop.call_soon(self._flush)
            else:
                self._on_loop(self._flush)

    def defunct(self, exc: Exception) -> Exception | None:
        """Give the connection up. One whose heartbeat a thread missed is listened to first; the driver hears later."""
        missed = isinstance(exc, OperationTimedOut) and threading.get_ident() != self.thread
        if missed and self._on_loop(self.loop.call_later, LISTEN_S, self._give_up_unheard, exc, self._heard):
            return None
        given_up: Exception | None = super().defunct(exc)
        return given_up

    def close(self) -> None:
        """Let go of the socket; whoever waits for an answer is told."""
        with self.lock:
            if self.is_closed:
                return
            self.is_closed = True
        if not self._on_loop(self._let_go):
            self._socket.close()
        if not self.is_defunct:
            self.error_all_requests(ConnectionShutdown(f"Connection to {self.endpoint} was closed"))
            self.connected_event.set()

    @classmethod
    def _on_loop(cls, call: Callable[..., Any], *args: Any) -> bool:
        """Have the loop call it; False when the loop has ended: then nobody waits any more."""
        with suppress(RuntimeError):
            cls.loop.call_soon_threadsafe(call, *args)
            return True
        return False

    def _begin(self) -> None:
        if not self.is_closed:
            self.loop.add_reader(self._socket.fileno(), self._readable)

    def _let_go(self) -> None:
        number = self._socket.fileno()
        if number >= 0:
            self.loop.remove_reader(number)
            self.loop.remove_writer(number)
        self._socket.close()

    def _flush(self) -> None:
        if self.is_closed:
            return
        with self._outgoing_lock:
            self._flush_due = False
            try:
                sent = self._socket.send(self._outgoing) if self._outgoing else 0
            except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                sent = 0  # TLS that wants to read first is tried again by `_readable`
            except OSError as error:
                self._broke(error)
                return
            del self._outgoing[:sent]
            waits = bool(self._outgoing)
            if len(self._outgoing) <= UNSENT_BYTES_MAX:
                self._socket_writable = True
        if waits != self._waits_to_write:
            self._waits_to_write = waits
            if waits:
                self.loop.add_writer(self._socket.fileno(), self._flush)
            else:
                self.loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        if self.is_closed:
            return
        ended = False
        try:
            for _ in range(READS_A_TURN):
                chunk = self._socket.recv(READ_BYTES)
                self._iobuf.write(chunk)
                self._heard += 1
                ended = not chunk
                if ended or (len(chunk) < READ_BYTES and self.ssl_context is None):
                    break
            else:
                # What TLS has decrypted already makes no socket readable.
                self.loop.call_soon(self._readable)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError as error:
            self._broke(error)
            return
        if self._iobuf.tell():
            self.process_io_buffer()
        if ended:
            self._broke(ConnectionShutdown(f"Connection to {self.endpoint} was closed by the node"))
        elif self._outgoing:
            self._flush()

    def _give_up_unheard(self, error: Exception, heard: int) -> None:
        """The verdict of a heartbeat, spoken LISTEN_S behind the turn in which the loop could send and read again.

        A loop that was held up has not even sent the heartbeat: its answer may come now. Whoever is given up here the
        driver finds at its next look, two seconds later at most; whose request is on the way is told at once.
        """
        if self._heard != heard:
            _log.info("a node answered a heartbeat that this process was too busy to hear: the connection stays")
        else:
            super().defunct(error)

    def _broke(self, error: Exception) -> None:
        # Not below the lock of what is outgoing: callers are told, and may ask again at once.
        self.loop.call_soon(self.defunct, error)
