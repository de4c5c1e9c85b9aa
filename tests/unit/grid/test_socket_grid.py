"""Server and client against what goes wrong: garbage, slow readers, dead and frozen peers, every bound."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from infra.plumbing.clock import ManualClock, SystemClock
from infra.plumbing.errors import SettingsError
from infra.plumbing.grid import client as client_module
from infra.plumbing.grid import server as server_module
from infra.plumbing.grid.client import SocketGrid
from infra.plumbing.grid.connect import connect_grid
from infra.plumbing.grid.frames import (
    FRAME_BYTES_MAX,
    Call,
    FrameReader,
    Operation,
    Reply,
    decode_call,
    decode_reply,
    encode_frame,
)
from infra.plumbing.grid.memory import MemoryGrid
from infra.plumbing.grid.port import KEY_BYTES_MAX, GridUnavailableError
from infra.plumbing.grid.process import GridOptions, run_grid
from infra.plumbing.grid.server import SOCKET_PATH_BYTES_MAX, GridServer

LONG_S = 10.0


@pytest.fixture(autouse=True)
async def limit() -> AsyncIterator[None]:
    async with asyncio.timeout(30):
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "grid.sock"


@pytest.fixture
async def server(path: Path) -> AsyncIterator[GridServer]:
    started = GridServer(bytes_max=64 << 20, clock=SystemClock(), registry=CollectorRegistry())
    await started.start(path)
    yield started
    await started.close()


@pytest.fixture
async def grid(path: Path) -> AsyncIterator[SocketGrid]:
    opened = a_client(path)
    yield opened
    await opened.close()


def a_client(path: Path, *, timeout_s: float = LONG_S, registry: CollectorRegistry | None = None) -> SocketGrid:
    return SocketGrid(
        path, clock=SystemClock(), call_timeout_s=timeout_s, publish_timeout_s=timeout_s, registry=registry
    )


def counted(registry: CollectorRegistry, cause: str) -> float:
    return registry.get_sample_value("atoll_grid_client_failures_total", {"cause": cause}) or 0.0


class Raw:
    """A peer that says what it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer, self._frames = reader, writer, FrameReader()

    @classmethod
    async def connect(cls, path: Path) -> "Raw":
        return cls(*await asyncio.open_unix_connection(str(path)))

    async def say(self, *calls: Call) -> None:
        self.writer.write(b"".join(encode_frame(call) for call in calls))
        await self.writer.drain()

    async def hear(self) -> Reply:
        while (body := self._frames.take()) is None:
            piece = await self.reader.read(65_536)
            assert piece, "the server hung up"
            self._frames.feed(piece)
        return decode_reply(body)

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except (ConnectionError, BrokenPipeError):
            return


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        (FRAME_BYTES_MAX + 1).to_bytes(4, "big"),
        b"\x00\x00\x00\x03abc",
        b"\x00\x00\x00\x00",
        encode_frame(Reply(7, b"not a call")),
        b"\x00\x00\x00\x03\x92\x01\x63",
    ],
)
async def test_garbage_costs_its_sender_the_connection_and_nobody_else(
    server: GridServer, grid: SocketGrid, path: Path, garbage: bytes
) -> None:
    await grid.put("k", b"v", ttl_s=60)
    raw = await Raw.connect(path)
    raw.writer.write(garbage)
    with suppress(ConnectionResetError):  # dropped with something unread: the same to the sender
        assert await raw.reader.read() == b""
    await raw.close()
    assert await grid.get("k") == b"v"
    assert server.metrics.refused.labels("garbage")._value.get() == 1


async def test_a_call_beyond_the_limits_is_refused_and_the_connection_lives(server: GridServer, path: Path) -> None:
    raw = await Raw.connect(path)
    await raw.say(Call(1, Operation.GET, "k" * (KEY_BYTES_MAX + 1)), Call(2, Operation.PUBLISH, ""))
    assert [(await raw.hear()).error != "" for _ in range(2)] == [True, True]
    for number in range(server_module.TOPICS_PER_CONNECTION_MAX):
        await raw.say(Call(3, Operation.SUBSCRIBE, f"t{number}"))
        assert (await raw.hear()).error == ""
    await raw.say(Call(4, Operation.SUBSCRIBE, "one more"), Call(5, Operation.SUBSCRIBE, "t0"), Call(6, Operation.PING))
    assert [(await raw.hear()).error == "" for _ in range(3)] == [False, True, True]
    await raw.close()


async def test_connections_are_bounded(server: GridServer, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "CONNECTIONS_MAX", 2)
    first, second = await Raw.connect(path), await Raw.connect(path)
    for raw in (first, second):
        await raw.say(Call(1, Operation.PING))
        assert (await raw.hear()).id == 1
    third = await Raw.connect(path)
    assert await third.reader.read() == b""
    await first.close()
    await third.close()
    await second.say(Call(2, Operation.PING))
    assert (await second.hear()).id == 2
    await second.close()


async def test_a_subscriber_that_does_not_read_loses_messages_and_is_told(
    server: GridServer, grid: SocketGrid, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "WAITING_MESSAGES_MAX", 4)
    slow = await Raw.connect(path)
    await slow.say(Call(1, Operation.SUBSCRIBE, "t"))
    assert (await slow.hear()).id == 1
    slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
    published = 0
    while not server.metrics.overflows._value.get():
        await grid.publish("t", published.to_bytes(4, "big") + bytes(200_000))
        published += 1
    assert published < 100, "what waits for a slow reader is bounded"
    slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
    heard: list[int | None] = []
    while None not in heard:
        reply = await slow.hear()
        heard.append(None if reply.value is None else int.from_bytes(reply.value[:4], "big"))
    assert heard[:-1] == list(range(len(heard) - 1)), "in order until the loss"
    await grid.publish("t", b"after")
    while (await slow.hear()).value != b"after":
        pass
    await slow.close()


async def test_a_client_that_asks_and_does_not_read_is_not_read_from(
    server: GridServer, grid: SocketGrid, path: Path
) -> None:
    await grid.put("large", bytes(1_000_000), ttl_s=60)
    greedy = await Raw.connect(path)
    greedy.writer.transport.pause_reading()  # type: ignore[attr-defined]
    calls = [Call(number, Operation.GET, "large") for number in range(1, 301)]
    greedy.writer.write(b"".join(encode_frame(call) for call in calls))
    for _ in range(20):
        assert await grid.get("absent") is None  # the server has had its turns
    assert server.metrics.calls.labels("get")._value.get() < 100, "300 MB of answers must not pile up"
    greedy.writer.transport.resume_reading()  # type: ignore[attr-defined]
    for number in range(1, 301):
        assert (await greedy.hear()).id == number
    await greedy.close()


async def test_down_fails_at_once_and_comes_back_with_a_none(path: Path) -> None:
    registry = CollectorRegistry()
    grid = a_client(path, registry=registry)
    with pytest.raises(GridUnavailableError, match="not connected"):
        await grid.get("k")
    started_s = SystemClock().monotonic_s()
    with pytest.raises(GridUnavailableError):
        await grid.get("k")
    assert SystemClock().monotonic_s() - started_s < 1.0
    subscription = grid.subscribe("t")
    for turn in range(2):
        server = GridServer(bytes_max=1 << 20, clock=SystemClock())
        await server.start(path)
        assert await anext(subscription) is None, "after every connect"
        await grid.put("k", b"v", ttl_s=60)
        await grid.publish("t", str(turn).encode())
        assert await anext(subscription) == str(turn).encode()
        await server.close()
    assert counted(registry, "disconnected") == 2
    assert registry.get_sample_value("atoll_grid_client_connects_total") == 2
    await grid.close()


async def test_calls_in_flight_fail_when_the_server_dies(path: Path) -> None:
    asked = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = FrameReader()
        raw.feed(await reader.read(100))
        body = raw.take()
        assert body is not None
        writer.write(encode_frame(Reply(decode_call(body).id)))
        await reader.read(100)
        asked.set()
        writer.close()

    server = await asyncio.start_unix_server(mute, str(path))
    grid = a_client(path)
    with pytest.raises(GridUnavailableError, match="went away"):
        await grid.get("k")
    assert asked.is_set()
    await grid.close()
    server.close()
    await server.wait_closed()


class Frozen:
    """A server that answers the first `answers` calls and then nothing."""

    def __init__(self, answers: int) -> None:
        self.answers = answers
        self.connections = 0
        self.connected = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def start(self, path: Path) -> None:
        self._server = await asyncio.start_unix_server(self._serve, str(path))

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.connected.set()
        frames = FrameReader()
        while piece := await reader.read(65_536):
            frames.feed(piece)
            while (body := frames.take()) is not None:
                if self.answers > 0:
                    self.answers -= 1
                    writer.write(encode_frame(Reply(decode_call(body).id)))
        writer.close()


async def test_an_answer_that_does_not_come_costs_the_time_of_the_call_only(path: Path) -> None:
    frozen = Frozen(answers=1)
    await frozen.start(path)
    registry = CollectorRegistry()
    grid = SocketGrid(path, clock=SystemClock(), call_timeout_s=0.05, registry=registry)
    outcomes = await asyncio.gather(*(grid.get(f"k{number}") for number in range(20)), return_exceptions=True)
    assert all(isinstance(outcome, GridUnavailableError) for outcome in outcomes)
    assert counted(registry, "timeout") >= 1
    await grid.close()
    await frozen.close()


async def test_a_connection_on_which_nothing_is_heard_is_given_up(path: Path) -> None:
    frozen = Frozen(answers=1)
    await frozen.start(path)
    clock = ManualClock()
    grid = SocketGrid(path, clock=clock, call_timeout_s=0.2)
    first = asyncio.create_task(grid.get("a"))
    await frozen.connected.wait()
    frozen.connected.clear()
    with pytest.raises(GridUnavailableError):
        await first
    clock.advance(2 * client_module.STALL_S)
    with pytest.raises(GridUnavailableError):
        await grid.get("b")
    await frozen.connected.wait()
    assert frozen.connections == 2
    await grid.close()
    await frozen.close()


async def test_calls_in_flight_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "IN_FLIGHT_MAX", 5)
    frozen = Frozen(answers=2)
    await frozen.start(path)
    registry = CollectorRegistry()
    grid = SocketGrid(path, clock=SystemClock(), call_timeout_s=0.5, registry=registry)
    await grid.delete("connected")
    outcomes = await asyncio.gather(*(grid.get(f"k{number}") for number in range(9)), return_exceptions=True)
    assert sum("too many" in str(outcome) for outcome in outcomes) == 4
    assert counted(registry, "overload") == 4
    await grid.close()
    await frozen.close()


async def test_a_caller_that_gives_up_leaves_nothing_behind(server: GridServer, grid: SocketGrid) -> None:
    await grid.put("k", b"v", ttl_s=60)
    waiting = asyncio.create_task(grid.get("k"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await grid.get("k") == b"v"
    assert grid._link is not None
    assert not grid._link._in_flight


async def test_garbage_from_a_server_drops_the_connection(path: Path) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"\xff" * 100)
        await reader.read(100)
        writer.close()

    server = await asyncio.start_unix_server(babble, str(path))
    grid = a_client(path)
    with pytest.raises(GridUnavailableError):
        await grid.get("k")
    await grid.close()
    server.close()
    await server.wait_closed()


async def test_a_refused_call_says_so(server: GridServer, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "check_key", lambda key: None)
    registry = CollectorRegistry()
    grid = a_client(path, registry=registry)
    with pytest.raises(GridUnavailableError, match="refused"):
        await grid.get("")
    assert counted(registry, "refused") == 1
    await grid.close()


async def test_a_refused_subscription_is_asked_for_again(server: GridServer, grid: SocketGrid) -> None:
    before = server_module.TOPICS_PER_CONNECTION_MAX
    kept = [grid.subscribe(f"t{number}") for number in range(before)]
    for subscription in kept:
        assert await anext(subscription) is None
    again = grid.subscribe("t1")
    assert await anext(again) is None
    del kept
    one_more = grid.subscribe("one more")  # refused on this connection; on the next there is room
    assert await anext(one_more) is None
    await grid.publish("one more", b"x")
    assert await anext(one_more) == b"x"


async def test_a_stale_socket_is_taken_over_and_a_live_one_is_not(path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    server = GridServer(bytes_max=1000, clock=SystemClock())
    await server.start(path)
    assert path.stat().st_mode & 0o777 == 0o600  # noqa: ASYNC240 - nobody waits
    with pytest.raises(SettingsError, match="another process listens"):
        await GridServer(bytes_max=1000, clock=SystemClock()).start(path)
    grid = a_client(path)
    assert await grid.get("k") is None
    await grid.close()
    await server.close()
    assert not path.exists()  # noqa: ASYNC240 - nobody waits


async def test_paths_that_cannot_be_used_are_settings_errors(tmp_path: Path) -> None:
    server = GridServer(bytes_max=1000, clock=SystemClock())
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(SettingsError, match="not a socket"):
        await server.start(file)
    assert file.read_text() == "mine"
    with pytest.raises(SettingsError, match="cannot listen"):
        await server.start(file / "below")
    with pytest.raises(SettingsError, match=str(SOCKET_PATH_BYTES_MAX)):
        await server.start(tmp_path / ("x" * SOCKET_PATH_BYTES_MAX))
    await server.close()


async def test_an_address_names_a_grid(tmp_path: Path) -> None:
    assert isinstance(connect_grid("memory", clock=SystemClock()), MemoryGrid)
    grid = connect_grid(str(tmp_path / "g.sock"), clock=SystemClock())
    assert isinstance(grid, SocketGrid)
    await grid.close()
    for address in ("", "x" * 200):
        with pytest.raises(SettingsError):
            connect_grid(address, clock=SystemClock())


@pytest.mark.parametrize("with_metrics", [False, True])
async def test_the_process_serves_until_it_is_stopped(path: Path, tmp_path: Path, with_metrics: bool) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1] if with_metrics else 0
    options = GridOptions(socket=path, bytes_max=1 << 20, metrics_port=port, log_file=str(tmp_path / "log"))
    stop = asyncio.Event()
    running = asyncio.create_task(run_grid(options, stop=stop, clock=SystemClock()))
    grid = a_client(path)
    assert await anext(grid.subscribe("t")) is None
    await grid.put("k", b"v", ttl_s=60)
    stop.set()
    await running
    await grid.close()
    assert "grid ready" in (tmp_path / "log").read_text()
    assert not path.exists()  # noqa: ASYNC240 - nobody waits
