"""The parts of supervision that are pure, or small enough to be tried in this process."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from infra.local.bounding import cut_oversized
from infra.local.children import tail
from infra.local.control import (
    ControlRefusedError,
    ControlUnavailableError,
    Request,
    call_control,
    number_field,
    serve_control,
    text_field,
)
from infra.local.layout import layout_of
from infra.local.memory import MemoryMeter, descendants, memory_kb, memory_mb, tree_memory_mb
from infra.local.probing import Finding, judge, probe
from infra.local.records import Part, ProbeKind, ProcessPlan, ProcessState, RestartPolicy
from infra.local.restarts import restart_delay_s
from infra.local.supervision import STAGE_PATIENCE_S, Child
from infra.local.supervisor import is_locked, read_record, take_lock, watch_owner
from infra.plumbing.errors import ConflictError, InvalidInputError

POLICY = RestartPolicy(first_delay_s=1.0, factor=2.0, delay_max_s=3.0, crashes_max=3, window_s=10.0)


def child(name: str = "a/api", *, region: str = "a", stage: int = 0) -> Child:
    plan = ProcessPlan(
        name=name, part=Part.API, command=("x",), probe=ProbeKind.HTTP, address="127.0.0.1:1", region=region,
        stage=stage,
    )  # fmt: skip
    return Child(plan=plan, policy=POLICY, waiting_since_s=0.0)


def test_pauses_grow_to_a_bound_and_patience_ends() -> None:
    assert restart_delay_s(POLICY, [0.0], 0.0) == 1.0
    assert restart_delay_s(POLICY, [0.0, 1.0], 1.0) == 2.0
    assert restart_delay_s(POLICY, [0.0, 1.0, 2.0], 2.0) == 3.0
    assert restart_delay_s(POLICY, [0.0, 1.0, 2.0, 3.0], 3.0) is None
    assert restart_delay_s(POLICY, [0.0, 1.0, 2.0, 20.0], 20.0) == 1.0


def test_stages_wait_for_what_is_before_them_but_not_for_ever() -> None:
    first, second, elsewhere = child(), child("a/edge", stage=1), child("b/api", region="b")
    everything = [first, second, elsewhere]
    assert first.is_due(0.0, everything, back_at_once=2)
    assert not second.is_due(0.0, everything, back_at_once=2)
    first.state = ProcessState.LIVE
    assert second.is_due(0.0, everything, back_at_once=2)  # the other region is not waited for
    first.state = ProcessState.STARTING
    assert second.is_due(STAGE_PATIENCE_S, everything, back_at_once=2)
    first.killed()
    assert second.is_due(0.0, everything, back_at_once=2)


def test_what_is_told_to_restart_ends_and_starts_again_without_having_crashed() -> None:
    one = child(stage=1)
    assert not one.drain()  # it does not run
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        one.started(process, 0.0, eased_s=5.0)
        one.found(Finding(live=True, ready=True))
        assert one.drain()
        assert not one.drain()  # it is told once
        one.found(Finding(live=True, ready=False, detail="its end"))
        assert (one.state, one.live) == (ProcessState.DRAINING, False)
    one.ended(0, 10.0)
    assert (one.state, one.restarts, one.crashes_s) == (ProcessState.WAITING, 0, [])
    assert one.is_due(10.0, [one, child("a/store")], back_at_once=2)  # what comes before it is not waited for


def test_those_that_come_back_start_a_few_at_a_time_and_give_way_until_they_are_ready() -> None:
    one, other, third = (child(f"a/edge-{number}") for number in range(3))
    everything = [one, other, third]
    for each in everything:
        each.killed()
        assert each.heal(0.0)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        one.started(process, 0.0, eased_s=5.0)
        assert other.is_due(0.0, everything, back_at_once=2)
        other.started(process, 0.0, eased_s=5.0)
        assert not third.is_due(0.0, everything, back_at_once=2)
        one.found(Finding(live=True, ready=False, detail="a release"))
        assert third.is_due(0.0, everything, back_at_once=2)  # what answers has done most of its work
        assert not one.is_eased_enough(4.9)
        one.found(Finding(live=True, ready=True))
        assert one.is_eased_enough(1.0)
        assert other.is_eased_enough(5.0)  # nobody gives way for ever
    one.ended(1, 10.0)
    assert one.eased  # so does what crashed


def test_a_life() -> None:
    one = child()
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        one.started(process, 0.0, eased_s=5.0)
        assert (one.state, one.running, one.live) == (ProcessState.STARTING, True, False)
        one.found(Finding(live=True, ready=False, detail="a release"))
        assert (one.state, one.detail) == (ProcessState.LIVE, "a release")
        one.found(Finding(live=True, ready=True))
        assert one.live
        one.found(Finding(live=False, ready=False, detail="no connection"))
        assert not one.live
    one.ended(1, 10.0)
    assert (one.state, one.restarts, one.start_at_s) == (ProcessState.CRASHED, 1, 11.0)
    assert not one.is_due(10.9, [one], back_at_once=2)
    assert one.is_due(11.0, [one], back_at_once=2)
    for moment in (11.0, 12.0, 13.0):
        one.failed("ended", moment)
    assert one.state is ProcessState.GAVE_UP
    one.found(Finding(live=True, ready=True))
    assert one.state is ProcessState.GAVE_UP
    assert one.heal(14.0)
    assert one.is_due(14.0, [one], back_at_once=2)
    assert not one.heal(14.0)
    one.killed()
    one.ended(-9, 15.0)
    assert one.state is ProcessState.KILLED
    assert one.status().pid is None


@pytest.mark.parametrize(
    ("answer", "finding"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", Finding(live=True, ready=True)),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", Finding(live=True, ready=True)),
        (
            b'HTTP/1.1 503 X\r\n\r\n{"status": "waiting", "for": "a release"}',
            Finding(live=True, ready=False, detail="a release"),
        ),
        (b"HTTP/1.1 500 X\r\n\r\n", Finding(live=True, ready=False, detail="status 500")),
        (b"SSH-2.0", Finding(live=False, ready=False, detail="the answer is not HTTP")),
    ],
)
def test_what_an_answer_means(answer: bytes, finding: Finding) -> None:
    assert judge(answer) == finding


async def test_probes_of_sockets(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    assert (await probe(ProbeKind.HTTP, address, timeout_s=5)).ready
    server.close()
    await server.wait_closed()
    assert not (await probe(ProbeKind.HTTP, address, timeout_s=5)).live
    path = str(tmp_path / "s")
    assert not (await probe(ProbeKind.UNIX, path, timeout_s=5)).live
    # Sockets that listen and say nothing: the kernel takes the calls by itself.
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen()
        assert (await probe(ProbeKind.UNIX, path, timeout_s=5)).ready
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        found = await probe(ProbeKind.HTTP, f"127.0.0.1:{hanging.getsockname()[1]}", timeout_s=0.1)
    assert "no answer within" in found.detail


async def test_control_commands_and_their_refusals(tmp_path: Path) -> None:
    path = tmp_path / "control"

    async def handler(request: Request) -> object:
        if text_field(request, "command") == "add":
            return number_field(request, "one", 1) + number_field(request, "two", 0)
        raise InvalidInputError("no such thing.", fix="Add.")

    async def call(request: Request) -> object:
        return await asyncio.to_thread(call_control, path, request)

    with pytest.raises(ControlUnavailableError):
        await call({"command": "add"})
    server = await serve_control(path, handler)
    assert await call({"command": "add", "two": 2.5}) == 3.5
    with pytest.raises(ControlRefusedError, match=r"no such thing\. Add\."):
        await call({"command": "subtract"})
    with pytest.raises(ControlRefusedError, match="no 'command'"):
        await call({})
    for wrong in (True, -1, "x"):
        with pytest.raises(ControlRefusedError, match="not a number"):
            await call({"command": "add", "one": wrong})
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"not json\n")
    assert b"not a JSON object" in await reader.readline()
    writer.write(b"x" * 200_000)  # longer than a command may be
    with contextlib.suppress(OSError):
        await writer.drain()
    assert await reader.read() == b""
    writer.close()
    server.close()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_an_answer_that_breaks_off_is_told(tmp_path: Path) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.close()

    server = await asyncio.start_unix_server(hang_up, str(tmp_path / "s"))
    with pytest.raises(ControlUnavailableError, match="broke off"):
        await asyncio.to_thread(call_control, tmp_path / "s", {"command": "x"})
    server.close()


def test_locks_are_held_by_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    descriptor = take_lock(path)
    assert is_locked(path)
    assert path.read_text() == str(os.getpid())
    with pytest.raises(ConflictError, match="runs already"):
        take_lock(path)
    os.close(descriptor)
    assert not is_locked(path)


async def test_an_owner_that_is_gone_is_noticed_and_one_that_lets_go_is_not() -> None:
    for said, ends in ((b"", True), (b"detach\n", False)):
        near, far = socket.socketpair()
        stop = asyncio.Event()
        watch_owner(near.fileno(), stop)
        if said:
            far.send(said)
        far.close()
        if ends:
            async with asyncio.timeout(5):
                await stop.wait()
        else:
            for _ in range(5):
                await asyncio.sleep(0)
            assert not stop.is_set()
            asyncio.get_running_loop().remove_reader(near.fileno())
        near.close()


def test_a_state_without_a_world_is_told(tmp_path: Path) -> None:
    layout = layout_of(tmp_path)
    with pytest.raises(InvalidInputError, match="there is no world"):
        read_record(layout)
    layout.world.write_text("{}")
    with pytest.raises(InvalidInputError, match="cannot be used"):
        read_record(layout)


def test_memory_counts_children_and_forgets_the_dead() -> None:
    command = [sys.executable, "-c", "print('up', flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        assert memory_kb(process.pid) > 1000
        assert process.pid in descendants([os.getpid()])[os.getpid()]
        assert tree_memory_mb(os.getpid()) > memory_mb([process.pid]) > 1
        meter = MemoryMeter()
        first = meter.measure_mb([process.pid])
        assert meter.measure_mb([process.pid]) == first > 1
        process.communicate(b"\n")
    assert memory_kb(process.pid) == 0
    meter.forget_others([])
    assert meter.measure_mb([process.pid]) == 0


def test_files_are_kept_under_their_bound(tmp_path: Path) -> None:
    big, small = tmp_path / "big.log", tmp_path / "small.log"
    big.write_bytes(b"".join(b"line %06d\n" % number for number in range(1000)))
    small.write_bytes(b"short\n")
    writer = big.open("ab")
    assert cut_oversized([tmp_path, tmp_path / "missing"], bytes_max=4000) == 1
    writer.write(b"line 001000\n")
    writer.close()
    lines = big.read_bytes().splitlines()
    assert len(big.read_bytes()) <= 2000 + 12
    assert lines[-2:] == [b"line 000999", b"line 001000"]
    assert all(len(line) == 11 for line in lines)
    assert small.read_bytes() == b"short\n"


def test_the_tail_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("\n".join(str(number) for number in range(100)))
    assert tail(tmp_path / "x", lines=2) == "98\n99"
    assert tail(tmp_path / "y") == ""
