"""The driver's connections on a loop: what is sent together, what waits, who is told, and timers that look first."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cassandra import OperationTimedOut
from cassandra.cluster import NoHostAvailable
from cassandra.connection import ConnectionShutdown

from infra.plumbing.addresses import parse_address
from region.store import cassandra_link, cassandra_loop
from region.store.cassandra_link import CassandraLink
from region.store.cassandra_loop import LoopConnection, LoopTimer, TimerWheel
from region.store.port import StoreUnavailableError


class _Pair:
    """A connection and the node's end of it; what comes is kept as bytes."""

    def __init__(self) -> None:
        ours, self.node = socket.socketpair()
        self.node.setblocking(False)
        self.came = bytearray()
        self.told: list[object] = []
        pair = self

        class Connection(LoopConnection):
            def _connect_socket(self) -> None:
                self._socket = ours

            def _send_options_message(self) -> None:
                """Nobody answers here."""

            def process_io_buffer(self) -> None:
                pair.came += self._iobuf.getvalue()
                self._io_buffer.reset_io_buffer()

        self.connection: Any = Connection.on(asyncio.get_running_loop())("127.0.0.1", connect_timeout=5)
        self.connection._requests[1] = (self.told.append, None, None)

    async def read(self, count: int) -> bytes:
        loop, read = asyncio.get_running_loop(), bytearray()
        while len(read) < count:
            read += await loop.sock_recv(self.node, 1 << 20)
        return bytes(read)


@pytest.fixture
async def pair() -> AsyncIterator[_Pair]:
    made = _Pair()
    yield made
    made.connection.close()
    await asyncio.sleep(0)
    made.node.close()


async def until(done: Any) -> None:
    while not done():  # noqa: ASYNC110 - what is waited for tells nobody
        await asyncio.sleep(0.001)


async def test_requests_of_one_turn_go_out_together_and_in_order(pair: _Pair) -> None:
    flushes = 0
    flush = pair.connection._flush

    def counted() -> None:
        nonlocal flushes
        flushes += 1
        flush()

    pair.connection._flush = counted
    for number in range(10):
        pair.connection.push(b"%d" % number)
    assert await pair.read(10) == b"0123456789"
    assert flushes == 1
    pair.connection.push(b"next")
    assert await pair.read(4) == b"next"


async def test_another_thread_may_send(pair: _Pair) -> None:
    await asyncio.to_thread(pair.connection.push, b"heartbeat")
    assert await pair.read(9) == b"heartbeat"


async def test_what_the_node_does_not_take_yet_waits_and_is_bounded(
    pair: _Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cassandra_loop, "UNSENT_BYTES_MAX", 4 << 20)
    pair.connection.push(b"x" * (6 << 20))
    assert not pair.connection._socket_writable, "the driver asks somebody else meanwhile"
    pair.connection.push(b"y")
    assert await pair.read((6 << 20) + 1) == b"x" * (6 << 20) + b"y"
    assert pair.connection._socket_writable
    await until(lambda: not pair.connection._waits_to_write)


async def test_what_comes_is_read_whole(pair: _Pair) -> None:
    sent = bytes(range(256)) * 8192
    await asyncio.get_running_loop().sock_sendall(pair.node, sent)
    await until(lambda: len(pair.came) == len(sent))
    assert pair.came == sent


async def test_the_end_of_the_node_is_told_behind_what_it_said(pair: _Pair) -> None:
    await asyncio.get_running_loop().sock_sendall(pair.node, b"last words")
    pair.node.close()
    await until(lambda: pair.told)
    assert pair.came == b"last words"
    assert isinstance(pair.told[0], ConnectionShutdown)
    assert pair.connection.is_defunct
    assert pair.connection.connected_event.is_set(), "whoever waits for the connection need not go on"


async def test_closing_tells_who_waits(pair: _Pair) -> None:
    pair.connection.close()
    pair.connection.close()
    assert isinstance(pair.told[0], ConnectionShutdown)
    await until(lambda: pair.connection._socket.fileno() == -1)


async def test_a_timer_speaks_unless_it_was_cancelled(pair: _Pair) -> None:
    loop, spoken = asyncio.get_running_loop(), list[str]()
    done = asyncio.Event()

    def broken() -> None:
        raise ValueError("the driver's own fault")

    faults = list[dict[str, Any]]()
    loop.set_exception_handler(lambda _loop, context: faults.append(context))
    kind = type(pair.connection)
    cancelled = kind.create_timer(0.02, lambda: spoken.append("cancelled"))
    kind.create_timer(0.02, broken)
    kind.create_timer(0.02, lambda: spoken.append("here"))
    await asyncio.to_thread(kind.create_timer, 0.02, lambda: spoken.append("from a thread"))
    canceller = threading.Thread(target=cancelled.cancel)
    canceller.start()
    canceller.join()
    kind.create_timer(0.2, done.set)
    await done.wait()
    assert sorted(spoken) == ["from a thread", "here"]
    assert [str(one["exception"]) for one in faults] == ["the driver's own fault"], "and it silenced nobody"
    assert not kind.wheel._slots, "what has spoken is forgotten"


async def test_a_timer_lets_a_loop_that_was_busy_read_first(pair: _Pair) -> None:
    loop, order, late = asyncio.get_running_loop(), list[str](), asyncio.Event()

    def answered() -> None:
        order.append("answer")
        pair.connection._io_buffer.reset_io_buffer()

    def timed_out() -> None:
        order.append("timeout")
        late.set()

    pair.connection.process_io_buffer = answered
    TimerWheel(loop).add(LoopTimer(timed_out), 0.001)
    await asyncio.sleep(0)
    pair.node.send(b"in time")
    busy_until = loop.time() + 3 * cassandra_loop.SLOT_S
    while loop.time() < busy_until:
        pass
    await late.wait()
    assert order == ["answer", "timeout"]


def miss_a_heartbeat(pair: _Pair) -> None:
    """As the driver's thread does while the loop is held up."""
    heartbeat = threading.Thread(target=pair.connection.defunct, args=(OperationTimedOut("no heartbeat"),))
    heartbeat.start()
    heartbeat.join()


async def test_a_heartbeat_that_a_busy_loop_did_not_even_send_costs_no_connection(
    pair: _Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody's clock decides here: the verdict is spoken below.
    monkeypatch.setattr(cassandra_loop, "LISTEN_S", 3600.0)
    heard = pair.connection._heard
    pair.connection.push(b"heartbeat")
    miss_a_heartbeat(pair)
    assert await pair.read(9) == b"heartbeat", "it is sent behind the verdict of the driver's thread"
    pair.node.send(b"supported")
    await until(lambda: pair.came == b"supported")
    pair.connection._give_up_unheard(OperationTimedOut("no heartbeat"), heard)
    assert not pair.connection.is_defunct
    assert not pair.told


async def test_a_node_that_does_not_answer_its_heartbeat_is_given_up(
    pair: _Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cassandra_loop, "LISTEN_S", 0.01)
    miss_a_heartbeat(pair)
    await until(lambda: pair.told)
    assert pair.connection.is_defunct
    assert isinstance(pair.told[0], ConnectionShutdown)


async def test_a_connection_outlives_its_loop_in_silence() -> None:
    class Ended:
        def call_soon_threadsafe(self, *_: object) -> None:
            raise RuntimeError("Event loop is closed")

    made = _Pair()
    await asyncio.sleep(0)
    asyncio.get_running_loop().remove_reader(made.connection._socket.fileno())
    type(made.connection).loop = Ended()
    made.connection.close()
    assert made.connection._socket.fileno() == -1
    assert made.told
    made.node.close()


async def test_nodes_that_take_no_session_are_tried_again_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = 0

    def connect(_link: CassandraLink, _connections: object) -> None:
        nonlocal tried
        tried += 1
        # As the driver tells it where it has reached a node and can open no connections for a session there.
        raise NoHostAvailable("Unable to connect to any servers", ["127.0.0.1"])

    monkeypatch.setattr(CassandraLink, "_connect", connect)
    monkeypatch.setattr(cassandra_link, "_BACKOFF_MIN_S", 0.001)
    text = "cassandra://127.0.0.1:1/k?data_center=d"
    link = CassandraLink(parse_address(text, scheme="cassandra", options=CassandraLink.OPTIONS))
    try:
        await until(lambda: tried > 2)
        with pytest.raises(StoreUnavailableError, match="no node takes a session"):
            await link.ask("read_subject", ("a",), timeout_s=1.0)
    finally:
        await link.close()
