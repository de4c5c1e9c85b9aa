"""Links between regions: every byte is passed on and recorded, within bounds; disturbances do what they say."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.local.configuration import PortsConfiguration
from infra.local.control import ControlRefusedError, call_control
from infra.local.ports import assign_ports, is_port_free
from infra.local.wan.capture import CaptureRecord, CaptureWriter, Direction, cut_count, read_capture
from infra.local.wan.link import Link
from infra.local.wan.process import Wan, run_wan
from infra.local.wan.settings import LinkSettings, WanSettings
from infra.local.wan.shaping import LOSSES_MAX, RETRANSMIT_S, Lane, LinkMode, LinkShape, losses_of
from infra.plumbing.clock import ManualClock, SystemClock
from infra.plumbing.errors import InvalidInputError, NotFoundError, SettingsError
from infra.plumbing.telemetry import TelemetrySettings, start_telemetry
from tests.unit.local.waiting import until

Server = Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]


@settings(deadline=None)  # a busy machine pauses for longer than any reading takes
@given(st.lists(st.tuples(st.sampled_from([Direction.OUT, Direction.BACK]), st.integers(0, 9), st.binary(max_size=99))))
def test_what_is_recorded_is_read(records: list[tuple[Direction, int, bytes]]) -> None:
    import tempfile  # noqa: PLC0415 - hypothesis and function fixtures do not mix

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a--b.bin"
        written = [CaptureRecord(direction, 7, number, payload) for direction, number, payload in records]
        for half in (written[: len(written) // 2], written[len(written) // 2 :]):
            writer = CaptureWriter(path, bytes_max=1 << 20)  # a process that starts again goes on in the same file
            for record in half:
                writer.write(record)
            writer.close()
        content = path.read_bytes()
    assert list(read_capture(content)) == written
    whole = list(read_capture(content[:-1]))  # a file that a crash cut ends with its last whole record
    assert whole == written[: len(whole)]


def test_a_killed_writer_leaves_half_a_record_and_the_next_one_drops_it(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    first, second = (CaptureRecord(Direction.OUT, 0, 1, payload) for payload in (b"first", b"second"))
    for cut in (0, 1, 7, 20):
        path.unlink(missing_ok=True)
        writer = CaptureWriter(path, bytes_max=1000)
        writer.write(first)
        writer.close()
        path.write_bytes(path.read_bytes()[: len(path.read_bytes()) - cut])
        writer = CaptureWriter(path, bytes_max=1000)
        writer.write(second)
        writer.close()
        assert list(read_capture(path.read_bytes())) == ([first, second] if cut == 0 else [second])
    path.write_bytes(b"ATOL")
    CaptureWriter(path, bytes_max=1000).close()
    assert list(read_capture(path.read_bytes())) == []


def test_a_full_capture_counts_what_it_does_not_keep(tmp_path: Path) -> None:
    writer = CaptureWriter(tmp_path / "x.bin", bytes_max=100)
    for _ in range(5):
        writer.write(CaptureRecord(Direction.OUT, 0, 1, b"x" * 40))
    writer.flush()
    writer.write(CaptureRecord(Direction.OUT, 0, 1, b"x" * 40))
    writer.close()
    records = list(read_capture((tmp_path / "x.bin").read_bytes()))
    kept = sum(len(record.payload) for record in records if record.direction is Direction.OUT)
    cut = sum(cut_count(record) for record in records if record.direction is Direction.CUT)
    assert (kept, cut) == (writer.bytes_kept, writer.bytes_cut) == (40, 200)


def test_a_full_disk_is_counted_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = CaptureWriter(Path("/dev/full"), bytes_max=1 << 30)
    for _ in range(4):
        writer.write(CaptureRecord(Direction.OUT, 0, 1, b"x" * 60_000))
    assert writer.bytes_cut > 0
    writer.flush()
    writer.close()


def test_other_files_are_no_captures() -> None:
    with pytest.raises(InvalidInputError, match="not a capture"):
        list(read_capture(b"PK"))


def test_chunks_arrive_in_order_after_bandwidth_and_latency() -> None:
    lane = Lane()
    shape = LinkShape(latency_ms=50, bandwidth_bytes_s=1000)
    assert lane.arrival_s(shape, 100, 0.0) == pytest.approx(0.15)
    assert lane.arrival_s(shape, 100, 0.0) == pytest.approx(0.25)
    assert lane.arrival_s(LinkShape(), 100, 5.0) == 5.0


def test_a_lost_packet_comes_later_and_holds_up_what_is_behind_it() -> None:
    lane, lossy = Lane(), LinkShape(loss=0.3)
    assert lane.arrival_s(lossy, 100, 1.0) == 1.0
    assert lane.arrival_s(lossy, 100, 1.0, losses=2) == pytest.approx(1.0 + 3 * RETRANSMIT_S)
    assert lane.arrival_s(lossy, 100, 1.0) == pytest.approx(1.0 + 3 * RETRANSMIT_S)
    draws = iter([0.1, 0.29, 0.31])
    assert losses_of(lossy, lambda: next(draws)) == 2
    assert losses_of(lossy, lambda: 0.0) == LOSSES_MAX


async def test_a_link_can_answer_errors_in_the_place_of_its_far_end(tmp_path: Path) -> None:
    async with link_to(tmp_path) as link:
        link.change(LinkShape(mode=LinkMode.ERRORS))
        reader, writer = await asyncio.open_connection("127.0.0.1", link.settings.port)
        writer.write(b"POST /v1/recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 500 ")
        writer.close()
        link.change(LinkShape())
        reader, writer = await asyncio.open_connection("127.0.0.1", link.settings.port)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def free_ports(tmp_path: Path, *names: str) -> dict[str, int]:
    return assign_ports(
        names, configured=PortsConfiguration(), previous={}, seed=str(tmp_path),
        is_free=lambda port: is_port_free("127.0.0.1", port),
    )  # fmt: skip


@asynccontextmanager
async def link_to(tmp_path: Path, target_port: int | None = None, *, connections_max: int = 10) -> AsyncIterator[Link]:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1] if target_port is None else target_port
    settings = LinkSettings(origin="a", destination="b", port=free_ports(tmp_path, "x")["x"], target_port=port)
    capture = CaptureWriter(tmp_path / "a--b.bin", bytes_max=64 << 20)
    link = Link(
        settings=settings, host="127.0.0.1", capture=capture, clock=SystemClock(), connections_max=connections_max
    )
    await link.start()
    try:
        yield link
    finally:
        await link.stop()
        server.close()


async def connect(link: Link) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", link.settings.port)


async def test_bytes_cross_both_ways_and_are_recorded(tmp_path: Path) -> None:
    sent = bytes(range(256)) * 4096
    async with asyncio.timeout(20), link_to(tmp_path) as link:
        reader, writer = await connect(link)
        writer.write(sent)
        writer.write_eof()
        assert await reader.read(-1) == sent
        writer.close()
    records = list(read_capture((tmp_path / "a--b.bin").read_bytes()))
    assert records[0].direction is Direction.OPENED
    for direction in (Direction.OUT, Direction.BACK):
        assert b"".join(record.payload for record in records if record.direction is direction) == sent
    assert (link.counters.bytes_out, link.counters.bytes_back) == (len(sent), len(sent))


async def test_a_link_without_a_target_or_to_a_dead_one_refuses_at_once(tmp_path: Path) -> None:
    async with asyncio.timeout(20), link_to(tmp_path, 0) as link:
        for port in (0, free_ports(tmp_path, "x", "dead")["dead"]):
            link.aim("127.0.0.1", port)
            reader, writer = await connect(link)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
        assert link.counters.refused == 2
        assert link.target[1] != 0


async def test_a_full_link_refuses_further_connections(tmp_path: Path) -> None:
    async with asyncio.timeout(20), link_to(tmp_path, connections_max=1) as link:
        reader, writer = await connect(link)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        second_reader, second_writer = await connect(link)
        with contextlib.suppress(ConnectionResetError):
            assert await second_reader.read() == b""
        second_writer.close()
        writer.close()
        assert link.counters.refused == 1


async def test_reset_ends_what_is_open_and_refuses_what_comes(tmp_path: Path) -> None:
    async with asyncio.timeout(20), link_to(tmp_path) as link:
        reader, writer = await connect(link)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        link.change(LinkShape(mode=LinkMode.RESET))
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()
        late_reader, late_writer = await connect(link)
        with contextlib.suppress(ConnectionResetError):
            assert await late_reader.read() == b""
        late_writer.close()
        link.change(LinkShape())
        reader, writer = await connect(link)
        writer.write(b"y")
        assert await reader.readexactly(1) == b"y"
        writer.close()


async def test_a_black_hole_takes_everything_and_gives_nothing(tmp_path: Path) -> None:
    async with asyncio.timeout(20), link_to(tmp_path) as link:
        old_reader, old_writer = await connect(link)
        old_writer.write(b"x")
        assert await old_reader.readexactly(1) == b"x"
        link.change(LinkShape(mode=LinkMode.BLACK_HOLE))
        new_reader, new_writer = await connect(link)
        for writer in (old_writer, new_writer):
            writer.write(b"lost")
        await until(lambda: link.counters.bytes_out == 1 + 2 * 4)
        assert link.counters.bytes_back == 1
        # What was swallowed had left its region all the same: it is in the capture.
        link.capture.flush()
        assert (tmp_path / "a--b.bin").read_bytes().count(b"lost") == 2
        link.change(LinkShape())
        for reader in (old_reader, new_reader):
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        old_writer.close()
        new_writer.close()


async def test_latency_delays_but_keeps_order(tmp_path: Path) -> None:
    async with asyncio.timeout(20), link_to(tmp_path) as link:
        link.change(LinkShape(latency_ms=60))
        reader, writer = await connect(link)
        started = asyncio.get_running_loop().time()
        writer.write(b"one")
        await writer.drain()
        writer.write(b"two")
        assert await reader.readexactly(6) == b"onetwo"
        assert asyncio.get_running_loop().time() - started >= 0.115
        writer.close()


async def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    async with link_to(tmp_path) as link:
        capture = CaptureWriter(tmp_path / "other.bin", bytes_max=1000)
        other = Link(settings=link.settings, host="127.0.0.1", capture=capture, clock=ManualClock(), connections_max=1)
        with pytest.raises(SettingsError, match="of the link a--b cannot be used"):
            await other.start()
        await other.stop()


async def test_the_process_obeys_its_control_socket_and_shows_metrics(tmp_path: Path) -> None:
    ports = free_ports(tmp_path, "http", "a--b", "a--c")
    settings = WanSettings(
        port=ports["http"],
        control_socket=str(tmp_path / "c"),
        capture_directory=str(tmp_path / "capture"),
        links=tuple(
            LinkSettings(origin="a", destination=name, port=ports[f"a--{name}"]) for name in ("b", "c")
        ),
    )  # fmt: skip
    telemetry = start_telemetry(
        service="wan", region="", node="wan", settings=TelemetrySettings(log_file=str(tmp_path / "log"))
    )
    stop = asyncio.Event()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    task = asyncio.create_task(run_wan(settings, stop=stop, telemetry=telemetry, clock=SystemClock()))

    async def call(**request: object) -> object:
        return await asyncio.to_thread(call_control, tmp_path / "c", request)

    try:
        async with asyncio.timeout(20), aiohttp.ClientSession() as session:
            await until(lambda: _answers(session, ports["http"]))
            port = server.sockets[0].getsockname()[1]
            assert await call(command="aim", origin="a", destination="c", port=port) == ["a--c"]
            reader, writer = await asyncio.open_connection("127.0.0.1", ports["a--c"])
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            await call(command="flush")
            assert b"hello" in (tmp_path / "capture" / "a--c.bin").read_bytes()
            assert await call(command="shape", origin="*", destination="*", mode="reset") == ["a--b", "a--c"]
            status = await call(command="status")
            assert isinstance(status, list)
            assert status[1]["shape"]["mode"] == "reset"
            assert status[1]["bytes_out"] == 5
            async with session.get(f"http://127.0.0.1:{ports['http']}/metrics") as answer:
                text = await answer.text()
            assert 'atoll_link_bytes_out_total{destination="c",origin="a"} 5.0' in text
            for wrong, words in (
                ({"command": "dance"}, "no command 'dance'"),
                ({"command": "shape", "origin": "x", "destination": "*"}, "no link x"),
                ({"command": "shape", "origin": "*", "destination": "*", "mode": "odd"}, "no mode 'odd'"),
                ({"command": "aim", "origin": "a", "destination": "c", "port": 70000}, "not a port"),
            ):
                with pytest.raises(ControlRefusedError, match=words):
                    await call(**wrong)
            writer.close()
    finally:
        stop.set()
        await task
        server.close()
        telemetry.close()
    assert not (tmp_path / "c").exists()


async def test_commands_name_what_is_missing(tmp_path: Path) -> None:
    settings = WanSettings(port=1, control_socket="x", capture_directory=str(tmp_path), links=())
    with pytest.raises(NotFoundError):
        await Wan(settings=settings, clock=ManualClock()).command(
            {"command": "aim", "origin": "a", "destination": "b", "port": 5}
        )


async def _answers(session: aiohttp.ClientSession, port: int) -> bool:
    try:
        async with session.get(f"http://127.0.0.1:{port}/health/ready") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False
