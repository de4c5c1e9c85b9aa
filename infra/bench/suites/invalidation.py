"""From an operator's purge to the moment at which no edge of the region serves the old list: with the grid, and cut.

Real edges, the region's real doors for purges and notices, a real grid; the lists are made up and say how often they
were made. Each edge is asked for the purged list every few milliseconds until it is a new one; the figure counts from
the moment before the operator's call. The cut is a frozen grid process (SIGSTOP), which is worse than one that is gone:
one purge right after it froze, and more once the edges know. Options: `grid` (embedded or hazelcast, which
`./atoll servers install` brings), `edges` (default 3), `purges` (a run, default 60), `cuts` (a run, default 4).
"""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import aiohttp

from infra.bench.catalogue import BenchRequest
from infra.bench.results import Measured, at_most, medians, percentile
from infra.bench.serving.edges import Bed, make_bed, running_edge
from infra.bench.serving.grids import RunningGrid, running_grid
from infra.bench.serving.processes import Server, free_port, running
from infra.local.tiers import source_root, tier_python
from infra.plumbing.errors import UnavailableError

POLL_S = 0.002
GIVEN_UP_S = 20.0
SETTLE_S = 1.5
"""After the grid runs again: reconnects are done, and the edges trust it."""
PURGES_PER_CUT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What runs."""

    bed: Bed
    grid: RunningGrid
    region: Server
    edges: tuple[Server, ...]
    session: aiohttp.ClientSession

    async def purge_ms(self, category: str) -> list[float]:
        """Milliseconds until each edge serves a new list of `category`."""
        old = {edge: await self.made(edge, category) for edge in self.edges}
        began_s = self.bed.clock.monotonic_s()
        watching = [asyncio.create_task(self._until_new(edge, category, old[edge], began_s)) for edge in self.edges]
        headers = {"Authorization": f"Operator {self.bed.keys.operator_key}"}
        body = {"tags": [f"category:{category}"]}
        async with self.session.post(f"{self.region.base}/operator/v1/lists/purge", json=body, headers=headers) as said:
            said.raise_for_status()
        return await asyncio.gather(*watching)

    async def _until_new(self, edge: Server, category: str, old: str, began_s: float) -> float:
        while True:
            made = await self.made(edge, category)
            took_s = self.bed.clock.monotonic_s() - began_s
            if made != old:
                return took_s * 1000
            if took_s > GIVEN_UP_S:
                raise UnavailableError(f"{edge.name} still serves a list that was purged {took_s:.0f} s ago.")
            await asyncio.sleep(POLL_S)

    async def made(self, edge: Server, category: str) -> str:
        """Which making of the list of `category` the edge serves."""
        url = f"{edge.base}/v1/recommendations/popular?n=3&category={category}"
        async with self.session.get(url) as answer:
            items = (await answer.json())["items"]
        return str(items[0]["item"])


def run(request: BenchRequest) -> Measured:
    """Purge with the grid and without it.

    Raises:
        InvalidInputError: there is no such grid.
        UnavailableError: an edge never forgot a purged list.
    """
    grid_kind = request.options.get("grid", "embedded")
    purges = int(request.number("purges", 10 if request.quick else 60))
    cuts = int(request.number("cuts", 1 if request.quick else 4))
    bed = make_bed(request.work, request.environments, request.clock)
    runs: list[dict[str, float]] = []
    with _running(bed, grid_kind, int(request.number("edges", 3))) as (grid, region, edges):
        for number in range(request.runs):
            runs.append(asyncio.run(_one_run(bed, grid, region, edges, purges=purges, cuts=cuts)))
            request.progress.advance(number + 1, request.runs, "runs")
    figures = medians(runs)
    return Measured(
        figures=figures,
        bars=(
            at_most("purge on every edge, p99", figures["p99_ms"], 100.0, unit="ms"),
            at_most("purge on every edge with the grid cut, p99", figures["grid_cut_p99_ms"], 2000.0, unit="ms"),
        ),
        notes=(
            f"grid: {grid_kind}; {len(edges)} edges; a run is {purges} purges, and {cuts} cuts with {PURGES_PER_CUT} "
            f"purges each. Polling an edge every {POLL_S * 1000:.0f} ms is part of the figures.",
        ),
    )  # fmt: skip


async def _one_run(
    bed: Bed, grid: RunningGrid, region: Server, edges: tuple[Server, ...], *, purges: int, cuts: int
) -> dict[str, float]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0)) as session:
        stage = Stage(bed=bed, grid=grid, region=region, edges=edges, session=session)
        together = [took for number in range(purges) for took in await stage.purge_ms(f"c{number % 7}")]
        apart: list[float] = []
        for _ in range(cuts):
            await asyncio.sleep(SETTLE_S)
            # Made while the grid still carries messages, so that only the purge can make it old.
            for number in range(PURGES_PER_CUT):
                for edge in edges:
                    await stage.made(edge, f"cut-{number}")
            with grid.frozen():
                for number in range(PURGES_PER_CUT):
                    apart += await stage.purge_ms(f"cut-{number}")
    return {
        "p99_ms": percentile(together, 0.99), "p50_ms": percentile(together, 0.5),
        "grid_cut_p99_ms": percentile(apart, 0.99), "grid_cut_p50_ms": percentile(apart, 0.5),
    }  # fmt: skip


@contextlib.contextmanager
def _running(bed: Bed, grid_kind: str, edges: int) -> Iterator[tuple[RunningGrid, Server, tuple[Server, ...]]]:
    with contextlib.ExitStack() as stack:
        grid = stack.enter_context(running_grid(bed, grid_kind))
        port = free_port()
        command = [
            tier_python("bench", bed.environments), "-m", "infra.bench.serving.purging", str(port), grid.address,
            str(bed.work / "keys.json"), str(bed.work / "region"),
        ]  # fmt: skip
        region = stack.enter_context(
            running(
                "region", command, port=port, core=bed.cores.load, log=bed.work / "region.log", clock=bed.clock,
                cwd=source_root(),
            )
        )  # fmt: skip
        yield (
            grid,
            region,
            tuple(
                stack.enter_context(running_edge(bed, region, name=f"edge-{number + 1}", grid=grid.address))
                for number in range(edges)
            ),
        )
