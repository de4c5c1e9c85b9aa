"""Release switches on a real world under load: nobody without a list, nobody waits much longer, nothing grows.

Two regions of real processes, three releases of a model trained for it. Calls for lists go to the edges of the home
region, in turn, open loop. Each run promotes a release that is not in memory (it is verified, loaded and warmed under
the load) and rolls back to the one that stands by; then, without load, releases are switched in a ring, so that each
comes from disk and another leaves memory, while the memory of the region's processes and the disk of its releases are
watched.
Options: `rate` (calls a second, default 500), `switches` (default 200), `window_s` (the time counted as during a
switch, default 5).
"""

import asyncio
import statistics
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp

from infra.bench.catalogue import BenchRequest
from infra.bench.results import Measured, at_most, medians, percentile
from infra.bench.serving.burning_world import HOME, BurningWorld, burning_world
from infra.bench.serving.open_load import TROUBLES, Call, OpenLoad, Sample
from infra.local.memory import tree_memory_mb
from infra.local.records import Part
from infra.plumbing.errors import UnavailableError
from region.releases import commands

CALM_S = 5.0
SETTLE_S = 3.0
PATIENCE_S = 10.0
POLL_S = 0.01
EDGES_SHARED = 2
LATE_MS_MAX = 50.0
"""A generator that sends later than this measures the machine."""
RELEASES = 3
"""With two, the one to promote would always stand by in memory: nothing would be loaded."""


def run(request: BenchRequest) -> Measured:
    """Switch under load as often as asked, then many times in a row."""
    rate = request.number("rate", 100.0 if request.quick else 500.0)
    switches = int(request.number("switches", 10 if request.quick else 200))
    window_s = request.number("window_s", 5.0)
    with burning_world(request, releases=RELEASES) as world:
        calls = world.calls(request)
        runs = []
        for number in range(request.runs):
            runs.append(asyncio.run(_switched(request, world, calls, rate=rate, window_s=window_s)))
            request.progress.advance(number + 1, request.runs, "switched under load")
        growth = _many(request, world, switches)
    # Of failures every run counts: a median would hide the one that had them.
    counted = {key: sum(run[key] for run in runs) for key in runs[0] if key.startswith(("failed", "requests"))}
    figures = medians(runs) | counted | growth
    return Measured(
        figures=figures,
        bars=(
            at_most("calls that failed or were empty", figures["failed"], 0, unit="calls"),
            at_most("p99 during a switch against before", figures["p99_ratio"], 1.5, unit="x"),
            at_most("roll back to every edge", figures["rollback_ms"], 500.0, unit="ms"),
            at_most("memory that switching costs", figures["rss_growth_mb"], 20.0, unit="MB"),
            at_most("disk that switching costs", figures["disk_growth_mb"], 1.0, unit="MB"),
        ),
        notes=(
            f"{rate:.0f} calls a second, open loop, to the {EDGES_SHARED} edges of {HOME} in turn, past the balancer; "
            f"load generator, edges and regions share the machine's cores. {switches} switches in a row.",
            *_starved(figures["generator_late_p99_ms"]),
        ),
    )


def _starved(late_ms: float) -> tuple[str, ...]:
    if late_ms <= LATE_MS_MAX:
        return ()
    return (
        f"The load generator itself was up to {late_ms:,.0f} ms late (p99): other work took the machine. Calls that it "
        "did not send, or whose answers it read too late, say nothing of the edges: measure again when it is quiet.",
    )


class TwoEdges:
    """The edges of the home region, asked in turn."""

    def __init__(self, world: BurningWorld, calls: list[Call], rate: float, request: BenchRequest) -> None:
        self.loads = [
            OpenLoad(
                base_url=url, calls=calls[start:] + calls[:start], rate_per_s=rate / EDGES_SHARED, clock=request.clock
            )
            for start, url in enumerate(world.world.edge_urls(HOME)[:EDGES_SHARED])
        ]

    @property
    def samples(self) -> list[Sample]:
        """Of both."""
        return [sample for load in self.loads for sample in load.samples]

    def now_s(self) -> float:
        """Seconds since the load began."""
        return self.loads[0].now_s()


async def _switched(
    request: BenchRequest, world: BurningWorld, calls: list[Call], *, rate: float, window_s: float
) -> dict[str, float]:
    """One promotion and one roll back under load."""
    url, key = world.world.region_url(HOME), world.world.keys(HOME).operator_key
    seen = await asyncio.to_thread(commands.releases, url, key)
    active = str(seen.active)
    other = next(one.release for one in seen.releases if not one.warm)
    edges = TwoEdges(world, calls, rate, request)
    running = [asyncio.create_task(load.run()) for load in edges.loads]
    marks, took_ms = [], {}
    try:
        await asyncio.sleep(SETTLE_S + CALM_S)
        for name, command, release in (
            ("promote", lambda: commands.promote(url, key, release=other), other),
            ("rollback", lambda: commands.rollback(url, key), active),
        ):
            marks.append(edges.now_s())
            took_ms[name] = await _everywhere_ms(request, world, calls[0], command, release)
            await asyncio.sleep(max(window_s, SETTLE_S))
    finally:
        for load in edges.loads:
            load.stop()
        await asyncio.gather(*running)
    samples = edges.samples
    late = [late_s for load in edges.loads for late_s in load.late_s]
    before = [sample.took_s for sample in samples if SETTLE_S <= sample.sent_s < marks[0]]
    each = [[one.took_s for one in samples if mark <= one.sent_s < mark + window_s] for mark in marks]
    during = [took_s for window in each for took_s in window]
    of_each = {
        f"p99_{name}_ratio": percentile(window, 0.99) / percentile(before, 0.99)
        for name, window in zip(took_ms, each, strict=True)
    }
    return {
        "failed": float(sum(not sample.good for sample in samples)),
        **{f"failed_{trouble}": float(sum(one.trouble == trouble for one in samples)) for trouble in TROUBLES},
        "requests": float(len(samples)),
        "p99_before_ms": percentile(before, 0.99) * 1000,
        "p99_during_ms": percentile(during, 0.99) * 1000,
        "p99_ratio": percentile(during, 0.99) / percentile(before, 0.99),
        **of_each,
        "generator_late_p99_ms": percentile(late, 0.99) * 1000,
        "promote_ms": took_ms["promote"],
        "rollback_ms": took_ms["rollback"],
    }


async def _everywhere_ms(
    request: BenchRequest, world: BurningWorld, call: Call, command: Callable[[], object], release: str
) -> float:
    """Milliseconds from giving `command` until every edge of the home region answers `call` from `release`."""
    started_s = request.clock.monotonic_s()

    async def follows(session: aiohttp.ClientSession, url: str) -> None:
        while True:
            async with session.get(url + call.path, headers=call.headers) as answer:
                await answer.read()
                if answer.headers.get("Atoll-Release") == release:
                    return
            if request.clock.monotonic_s() - started_s > PATIENCE_S:
                raise UnavailableError(f"{url} does not answer from {release} after {PATIENCE_S:.0f} s.")
            await asyncio.sleep(POLL_S)

    async with aiohttp.ClientSession() as session:
        waiting: list[Awaitable[object]] = [follows(session, url) for url in world.world.edge_urls(HOME)]
        await asyncio.gather(asyncio.to_thread(command), *waiting)
    return (request.clock.monotonic_s() - started_s) * 1000


def _many(request: BenchRequest, world: BurningWorld, switches: int) -> dict[str, float]:
    """Growth of memory and disk over `switches` switches: the last tenth against the first after warming."""
    resident, disk = [], []
    for number in range(switches):
        world.switch()
        resident.append(sum(tree_memory_mb(pid) for pid in world.pids(Part.API, HOME)))
        disk.append(_disk_mb(world))
        request.progress.advance(number + 1, switches, "switches in a row")
    tenth = max(1, switches // 10)
    return {
        "switches": float(switches),
        "rss_growth_mb": statistics.median(resident[-tenth:]) - statistics.median(resident[tenth : 2 * tenth]),
        "disk_growth_mb": disk[-1] - disk[0],
    }


def _disk_mb(world: BurningWorld) -> float:
    core: Path = world.world.layout.region(HOME) / "core"
    files = {(stat.st_ino, stat.st_size) for path in core.rglob("*") if path.is_file() for stat in (path.stat(),)}
    return sum(size for _, size in files) / 2**20
