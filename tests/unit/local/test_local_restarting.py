"""After a restart the balancer has the last word: an edge is back when calls go to it again."""

import itertools
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.local import restarting
from infra.local.haproxy_control import HaproxyControlError, takes_calls
from infra.local.layout import Layout
from infra.local.records import WorldRecord
from infra.local.restarting import NotTakenBackError, restart_rolling
from infra.local.world import start_record
from infra.plumbing.clock import SystemClock
from infra.plumbing.progress import SilentProgress

MakeRecord = Callable[..., WorldRecord]


@contextmanager
def haproxy_that_says(control: Path, answers: Iterator[str]) -> Iterator[list[str]]:
    """A control socket that gives one answer a connection; yields the commands that came."""
    asked: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked.append(self.rfile.readline().decode())
            self.wfile.write(next(answers).encode())

    with socketserver.UnixStreamServer(str(control), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield asked
        finally:
            server.shutdown()
            serving.join()


def rows(status: str) -> str:
    """An edge of the region, and the same one where it backs its neighbour up."""
    return f"# pxname,svname,status,\nwest,east.edge-1,UP,\neast,east.edge-1,{status},\neast,west.edge-1,UP,\n\n"


def test_haproxy_is_asked_for_the_edge_of_its_own_region(tmp_path: Path) -> None:
    control = tmp_path / "haproxy"
    said = iter([rows("DOWN"), rows("UP 1/2"), rows("UP"), rows("MAINT"), "", "x" * (2 << 20)])
    with haproxy_that_says(control, said) as asked:
        assert [takes_calls(control, "east/edge-1") for _ in range(4)] == [False, False, True, False]
        with pytest.raises(HaproxyControlError, match="knows no edge east/edge-1"):
            takes_calls(control, "east/edge-1")
        with pytest.raises(HaproxyControlError, match=r"more than it was asked|does not take"):
            takes_calls(control, "east/edge-1")
        assert set(asked) == {"show stat east 4 -1\n"}
    with pytest.raises(HaproxyControlError, match="does not take commands"):
        takes_calls(tmp_path / "none", "east/edge-1")


def test_a_rolling_restart_waits_until_haproxy_sends_calls_again(
    layout: Layout, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses = itertools.chain(["DOWN", "UP 1/2", "UP"], itertools.repeat("DOWN"))
    with (
        start_record(make_record(balancer="haproxy"), layout) as world,
        haproxy_that_says(layout.haproxy, (rows(status) for status in statuses)) as asked,
    ):
        before = {process.name: process.pid for process in world.status().processes}
        done = restart_rolling(world, "east", "edges", clock=SystemClock(), progress=SilentProgress())
        assert done.processes == ("east/edge-1",)
        assert len(asked) == 3
        after = {process.name: process.pid for process in world.status().processes}
        assert [name for name, pid in before.items() if after[name] != pid] == ["east/edge-1"]
        monkeypatch.setattr(restarting, "TAKEN_BACK_WITHIN_S", 0.05)
        with pytest.raises(NotTakenBackError, match="does not take east/edge-1 back"):
            restart_rolling(world, "east", "edges", clock=SystemClock(), progress=SilentProgress())
