"""The supervisor in this process: its turns, its commands, its end; and what the small processes have in common."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from infra.local.children import ChildNotStartedError, marked_processes, restore_priority, start_child
from infra.local.control import ControlRefusedError, call_control
from infra.local.layout import Layout
from infra.local.records import ProcessState, WorldRecord, WorldStatus
from infra.local.running import run_local
from infra.local.supervisor import Supervisor
from infra.local.wan.settings import WanSettings
from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.telemetry import Telemetry
from tests.unit.local.waiting import until

MakeRecord = Callable[..., WorldRecord]


async def test_a_supervisor_from_start_to_end(
    layout: Layout, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.local.supervisor.MEMORY_EVERY_S", 0.1)
    monkeypatch.setattr("infra.local.supervisor.FILES_EVERY_S", 0.1)
    record = msgspec.structs.replace(make_record(), output_bytes_max=1000)
    supervisor = Supervisor(record=record, layout=layout, clock=SystemClock())
    layout.log("old").write_bytes(b"line\n" * 1000)
    stop = asyncio.Event()
    task = asyncio.create_task(supervisor.run(stop))

    async def call(**request: object) -> Any:
        return await asyncio.to_thread(call_control, layout.control, request)

    def status() -> WorldStatus:
        return supervisor.status()

    try:
        await until(lambda: status().ready)
        await until(lambda: status().peak_rss_mb > 4 and status().files_cut >= 1)
        assert len(layout.log("old").read_bytes()) <= 1000
        assert msgspec.convert(await call(command="status"), WorldStatus).ready
        victim = status().processes[0]
        assert victim.pid
        os.kill(victim.pid, signal.SIGKILL)
        await until(lambda: status().restarts == 1 and status().ready)
        assert await call(command="kill", region="west") == ["west/api", "west/edge-1"]
        assert [process.state for process in status().processes[2:]] == [ProcessState.KILLED] * 2
        assert await call(command="heal", region="west", part="edges") == ["west/edge-1"]
        await until(lambda: status().processes[3].state is ProcessState.READY)
        for wrong, words in (
            ({"command": "dance"}, "no command 'dance'"),
            ({"command": "kill", "region": "north"}, "no region 'north'"),
            ({"command": "kill", "region": "west", "part": "heart"}, "no part 'heart'"),
        ):
            with pytest.raises(ControlRefusedError, match=words):
                await call(**wrong)
        assert await call(command="down") is None
    finally:
        stop.set()
        await task
    # The last of a group die by themselves, a moment after the process that led it.
    await until(lambda: marked_processes(layout.mark) == [])
    assert not layout.control.exists()


async def test_a_child_that_ignores_sigterm_is_killed_and_one_that_is_missing_gives_up(
    layout: Layout, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.local.supervisor.TERM_PATIENCE_S", 0.2)
    stubborn = "import signal as s, time; s.signal(s.SIGTERM, s.SIG_IGN); print('up', flush=True); time.sleep(99)"
    record = make_record(command=(sys.executable, "-c", stubborn))
    missing = msgspec.structs.replace(record.processes[0], name="gone", command=("/nowhere",), region="")
    record = msgspec.structs.replace(record, processes=(*record.processes, missing))
    supervisor = Supervisor(record=record, layout=layout, clock=SystemClock())
    stop = asyncio.Event()
    task = asyncio.create_task(supervisor.run(stop))
    await until(lambda: layout.output("west/api").exists() and layout.output("west/api").read_text() == "up\n")
    await until(lambda: supervisor.status().processes[-1].state is ProcessState.GAVE_UP)
    assert not supervisor.status().live
    for command, names in (("kill", []), ("heal", ["gone"])):  # of central the SuperLink may be taken down, no more
        told = {"command": command, "region": "central"}
        assert await asyncio.to_thread(call_control, layout.control, told) == names
    await until(lambda: supervisor.status().processes[-1].state is ProcessState.GAVE_UP)
    stop.set()
    async with asyncio.timeout(20):
        await task
    await until(lambda: marked_processes(layout.mark) == [])


def test_a_child_in_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(ChildNotStartedError, match="cannot start"):
        start_child(["/bin/true"], working_directory=tmp_path / "gone", mark="m", output=tmp_path / "out")
    restore_priority([1 << 22])  # a process that is gone is no error


def test_settings_are_read_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []

    async def main(settings: WanSettings, stop: asyncio.Event, telemetry: Telemetry, clock: Clock) -> None:
        seen.append(settings.port)

    file = tmp_path / "wan.json"
    settings = {"port": 7, "control_socket": "x", "capture_directory": "y", "links": []}
    file.write_bytes(msgspec.json.encode(settings))
    assert run_local("wan", WanSettings, main, arguments=["--settings", str(file)]) == 0
    assert seen == [7]
    file.write_text("{}")
    assert run_local("wan", WanSettings, main, arguments=["--settings", str(file)]) == 2
    assert "missing required field" in capsys.readouterr().err
