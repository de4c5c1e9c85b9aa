"""A real supervisor with tiny fake children: what it keeps running, and what it never leaves behind."""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.local.children import WORLD_VARIABLE, marked_processes
from infra.local.control import ControlRefusedError, ControlUnavailableError
from infra.local.layout import Layout
from infra.local.records import ProcessState, WorldRecord
from infra.local.restarting import restart_rolling
from infra.local.tiers import source_root
from infra.local.world import World, WorldNotReadyError, open_world, start_record, stop_world
from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.progress import SilentProgress
from tests.unit.local.waiting import eventually

MakeRecord = Callable[..., WorldRecord]


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture
def world(layout: Layout, make_record: MakeRecord) -> Iterator[World]:
    with start_record(make_record(), layout) as started:
        yield started


def test_everything_is_up_and_down_leaves_nothing(world: World, layout: Layout) -> None:
    status = world.status()
    assert status.ready
    assert len(status.processes) == 4
    assert all(answers(f"http://{process.address}/") for process in status.processes)
    assert len(marked_processes(layout.mark)) == 1 + 4 * 2  # the supervisor, and each process with a child of its own
    assert eventually(lambda: world.rss_mb() > 4)
    assert world.peak_rss_mb() >= world.rss_mb() > 0

    world.down()

    assert marked_processes(layout.mark) == []
    assert not layout.run.exists()
    with pytest.raises(ControlUnavailableError):
        world.status()


def test_kill_takes_down_the_part_and_heal_brings_it_back_on_the_same_port(world: World) -> None:
    before = {process.name: process for process in world.status().processes}
    assert world.kill("east", "edges") == ["east/edge-1"]
    assert not answers(f"http://{before['east/edge-1'].address}/")
    assert answers(f"http://{before['east/api'].address}/")
    assert world.kill("east") == ["east/api", "east/edge-1"]
    states = {process.name: process.state for process in world.status().processes}
    assert states["east/api"] is states["east/edge-1"] is ProcessState.KILLED
    assert states["west/api"] is ProcessState.READY
    assert world.status().ready  # what was killed on purpose is not missed

    assert world.heal("east") == ["east/api", "east/edge-1"]
    healed = world.wait(region="east")
    after = {process.name: process for process in healed.processes}
    assert after["east/api"].address == before["east/api"].address
    assert after["east/api"].pid != before["east/api"].pid
    assert after["east/api"].restarts == 0
    assert answers(f"http://{after['east/edge-1'].address}/")
    assert world.heal("east") == []


def test_one_process_is_restarted_by_name(world: World) -> None:
    before = {process.name: process.pid for process in world.status().processes}
    assert world.restart("east/edge-1") == ["east/edge-1"]
    world.wait(region="east")
    after = {process.name: process for process in world.status().processes}
    assert [name for name, pid in before.items() if after[name].pid != pid] == ["east/edge-1"]
    assert after["east/edge-1"].restarts == 0
    with pytest.raises(ControlRefusedError, match="no process"):
        world.restart("east/edge-9")
    world.kill("east", "edges")
    assert world.restart("east/edge-1") == []
    with pytest.raises(InvalidInputError, match="is not ready"):
        restart_rolling(world, "east", "edges", clock=SystemClock(), progress=SilentProgress())
    with pytest.raises(InvalidInputError, match="no part"):
        restart_rolling(world, "east", "roof", clock=SystemClock(), progress=SilentProgress())


def test_a_killed_process_takes_its_own_children_along(world: World, layout: Layout) -> None:
    world.kill("east")
    assert eventually(lambda: len(marked_processes(layout.mark)) == 1 + 2 * 2)


def test_a_crashed_process_is_started_again_and_counted(world: World) -> None:
    victim = next(process for process in world.status().processes if process.name == "west/api")
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)

    def is_back() -> bool:
        now = next(process for process in world.status().processes if process.name == "west/api")
        return now.state is ProcessState.READY and now.pid != victim.pid and now.restarts == 1

    assert eventually(is_back)
    assert world.status().restarts == 1


def test_healing_runs_at_lower_priority_for_a_while(world: World) -> None:
    world.kill("east", "api")
    world.heal("east", "api")

    def pid() -> int:
        now = next(process for process in world.status().processes if process.name == "east/api")
        return now.pid or 0

    if os.geteuid() == 0:
        eased = min(os.getpriority(os.PRIO_PROCESS, 0) + 10, 19)
        assert eventually(lambda: pid() > 0 and os.getpriority(os.PRIO_PROCESS, pid()) == eased)
    world.wait(region="east")
    assert eventually(lambda: os.getpriority(os.PRIO_PROCESS, pid()) == os.getpriority(os.PRIO_PROCESS, 0))


def test_a_process_that_fails_once_comes_up_anyway(layout: Layout, make_record: MakeRecord, tmp_path: Path) -> None:
    with start_record(make_record(marker=str(tmp_path / "seen")), layout) as world:
        assert {process.name: process.restarts for process in world.status().processes}["east/api"] == 1


def test_a_process_that_always_fails_ends_the_start_with_its_last_words(
    layout: Layout, make_record: MakeRecord
) -> None:
    record = make_record(command=(sys.executable, "-c", "import sys; sys.exit('no luck today')"))
    with pytest.raises(WorldNotReadyError, match="no luck today"):
        start_record(record, layout)
    assert marked_processes(layout.mark) == []


def test_a_program_that_is_missing_is_told(layout: Layout, make_record: MakeRecord) -> None:
    with pytest.raises(WorldNotReadyError, match="cannot start /nowhere/python"):
        start_record(make_record(command=("/nowhere/python",)), layout)
    assert marked_processes(layout.mark) == []


def test_nothing_survives_a_killed_supervisor_but_what_down_sweeps(world: World, layout: Layout) -> None:
    supervisor = world.status().supervisor_pid
    children = [process.pid for process in world.status().processes if process.pid]
    os.kill(supervisor, signal.SIGKILL)
    # The kernel ends the supervisor's own children; theirs may stay, and `down` finds them by the world's mark.
    assert eventually(lambda: not set(children) & set(marked_processes(layout.mark)))
    stop_world(layout.state)
    assert marked_processes(layout.mark) == []
    world.down()


def test_a_supervisor_that_hangs_is_swept(world: World, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.local.ending.DOWN_TIMEOUT_S", 0.5)
    monkeypatch.setattr("infra.local.ending.CONTROL_DOWN_S", 0.5)
    os.kill(world.status().supervisor_pid, signal.SIGSTOP)
    assert stop_world(layout.state) > 0
    assert marked_processes(layout.mark) == []
    world.down()


def test_a_second_supervisor_is_refused(world: World, layout: Layout) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "infra.local", "--state", str(layout.state)],
        cwd=source_root(), capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert second.returncode == 2
    assert "runs already" in second.stderr
    assert world.status().ready


def test_a_detached_world_outlives_its_client_and_an_attached_one_does_not(
    layout: Layout, make_record: MakeRecord
) -> None:
    make_record()
    script = (
        "import sys; from pathlib import Path; from infra.local.layout import layout_of;"
        "from infra.local.supervisor import read_record; from infra.local.world import start_record;"
        "layout = layout_of(Path(sys.argv[1])); world = start_record(read_record(layout), layout);"
        "world.detach() if sys.argv[2] == 'detach' else None; import os; os._exit(0)"
    )

    def client(mode: str) -> None:
        subprocess.run(
            [sys.executable, "-c", script, str(layout.state), mode], cwd=source_root(), check=True, timeout=60
        )

    client("detach")
    world = open_world(layout.state)
    assert world.status().ready
    world.down()
    layout.create()
    client("stay")
    assert eventually(lambda: marked_processes(layout.mark) == [])


def test_ctrl_c_while_it_starts_leaves_nothing(layout: Layout, make_record: MakeRecord) -> None:
    record = make_record(command=(sys.executable, "-c", "import time; time.sleep(600)"))

    class Impatient:
        def advance(self, done: int, total: int, what: str) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start_record(record, layout, progress=Impatient())
    assert marked_processes(layout.mark) == []


def test_commands_that_make_no_sense_are_refused(world: World) -> None:
    with pytest.raises(ControlRefusedError, match="no region 'north'"):
        world.kill("north")
    with pytest.raises(ControlRefusedError, match="no part 'heart'"):
        world.kill("east", "heart")


def test_down_of_nothing_is_no_error(tmp_path: Path) -> None:
    assert stop_world(tmp_path / "nowhere") == 0


def test_the_mark_is_what_ties_processes_to_a_world(layout: Layout) -> None:
    assert len(layout.mark) == 16
    assert WORLD_VARIABLE.isupper()
