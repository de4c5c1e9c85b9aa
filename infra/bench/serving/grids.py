"""A grid for a measurement: the embedded one or Hazelcast, as a process that can be frozen."""

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

from infra.bench.serving.edges import Bed
from infra.bench.serving.processes import free_port, running
from infra.local.servers.installing import Home, find_java
from infra.local.servers.kinds import ServerKind
from infra.local.servers.plans import ServerInput, grid_address, plan_servers
from infra.local.servers.running import start_servers, stop_servers
from infra.local.tiers import source_root, tier_python
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.progress import SilentProgress

KINDS = ("embedded", "hazelcast")


@dataclass(frozen=True, slots=True)
class RunningGrid:
    """`address` is what a `grid` setting says."""

    address: str
    pid: int

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside the block the grid accepts, and says nothing: worse than gone."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)


@contextlib.contextmanager
def running_grid(bed: Bed, kind: str) -> Iterator[RunningGrid]:
    """A grid of `kind`, up.

    Raises:
        InvalidInputError: there is no such kind.
        ServerError: Hazelcast is not installed, or did not come up.
    """
    if kind not in KINDS:
        raise InvalidInputError(f"there is no grid {kind!r}.", fix=f"Say --set grid={' or '.join(KINDS)}.")
    with _embedded(bed) if kind == "embedded" else _hazelcast(bed) as grid:
        yield grid


@contextlib.contextmanager
def _embedded(bed: Bed) -> Iterator[RunningGrid]:
    socket, port = bed.work / "grid.sock", free_port()
    command = [
        tier_python("edge", bed.environments), "-m", "infra.plumbing.grid", "--socket", str(socket),
        "--metrics-port", str(port), "--log-file", str(bed.work / "grid.log"),
    ]  # fmt: skip
    with running(
        "grid", command, port=port, core=bed.cores.server, log=bed.work / "grid.out", clock=bed.clock,
        ready="/health/live", cwd=source_root(),
    ) as server:  # fmt: skip
        yield RunningGrid(str(socket), server.pid)


@contextlib.contextmanager
def _hazelcast(bed: Bed) -> Iterator[RunningGrid]:
    state = bed.work / "servers"
    home = Home(bed.environments.parent / "servers")
    given = ServerInput(
        home=home, state=state, regions=("here",), java=find_java(bed.environments),
        kinds=frozenset({ServerKind.HAZELCAST}),
    )  # fmt: skip
    plans = plan_servers(given)
    try:
        started = start_servers(plans, state, clock=bed.clock, progress=SilentProgress())
        yield RunningGrid(grid_address(plans[0]), started[0].pid)
    finally:
        stop_servers(state, clock=bed.clock)
