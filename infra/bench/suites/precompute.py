"""Lists made ahead: how many visitors find one in the grid, and what that saves them, on a trace with a daily rhythm.

People come at hours of their own, some days not at all, now and then at any hour. A week of visits is what the region
knows of them; on the day after, every ten minutes the precomputer has its round, and every visit is answered twice: by
the region's whole funnel (without), and from the grid where a list made ahead still holds, else by grid and funnel
(with). Time of day is the trace's, times taken are real. The release is made up (`--set items=N`, default 20,000), the
grid is the embedded one behind its socket. Every visit ends with an event, which makes the visitor's list void.
"""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from prometheus_client import CollectorRegistry

from infra.bench.catalogue import BenchRequest
from infra.bench.miss.node import made_release
from infra.bench.results import Measured, at_least, at_most, medians, percentile
from infra.bench.serving.edges import Bed
from infra.bench.serving.grids import running_grid
from infra.bench.serving.processes import Cores
from infra.contracts.lists import GridValue, grid_key
from infra.contracts.messages import HomeRequest, RecommendationType
from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.grid.connect import connect_grid
from infra.plumbing.grid.port import Grid, GridUnavailableError
from infra.plumbing.keys import RegionKeys
from infra.plumbing.telemetry import TelemetrySettings, start_telemetry
from region.funnel.dry_run import RequestLog
from region.funnel.metrics import FunnelMetrics
from region.funnel.recommender import Recommender
from region.funnel.release import LoadedRelease
from region.precompute.making import Precomputer
from region.precompute.predicting import DAY_MS, HOUR_MS
from region.precompute.visitors import Visitors, key_of
from region.privacy.access_log import AccessLog
from region.privacy.bulk import BulkReads, digest_key
from region.replay.replaying import serving
from region.settings import PrecomputeSettings
from region.store.memory import MemoryStore
from region.store.port import HistoryEntry, Interactions, UserRow

PEAK_HOURS = (7, 12, 18, 21)
DAYS_KNOWN = 7
COMES = 0.8
"""On so many days somebody comes."""
STRAYS = 0.15
"""Of the visits so many are at any hour."""
SLOT_MS = HOUR_MS // 6
START_MS = 1_760_000_000_000 - 1_760_000_000_000 % DAY_MS


class TraceClock:
    """The trace's time of day, and real durations."""

    def __init__(self) -> None:
        self._real = SystemClock()
        self.wall_ms = START_MS

    def now_ms(self) -> int:
        """The trace's moment."""
        return self.wall_ms

    def monotonic_s(self) -> float:
        """Real seconds."""
        return self._real.monotonic_s()


@dataclass(slots=True)
class Seen:
    """What one run saw; times in milliseconds."""

    took_with: list[float]
    took_without: list[float]
    hits: int = 0


def run(request: BenchRequest) -> Measured:
    """One day a run."""
    users = int(request.number("users", 60 if request.quick else 400))
    release = made_release(request, int(request.number("items", 2_000 if request.quick else 20_000)))
    bed = Bed(work=request.work, environments=request.environments, cores=Cores.of_this_machine(), clock=request.clock,
        keys=RegionKeys.generate("bench"),
    )  # fmt: skip
    with running_grid(bed, request.options.get("grid", "embedded")) as grid:
        runs = []
        for number in range(request.runs):
            runs.append(asyncio.run(_day(release, grid.address, users, number, request.work)))
            request.progress.advance(number + 1, request.runs, "days")
    figures = medians(runs)
    return Measured(
        figures=figures,
        bars=(
            at_least("visitors who find a list made ahead", figures["hit_share"], 0.5, unit="share"),
            at_most("p50 of a visit, with against without", figures["p50_ratio_without"], 0.5, unit="ratio"),
            at_least("lists made ahead that were used", figures["used_share"], 0.2, unit="share"),
        ),
        peers={"without": {"p50_ms": figures["p50_without_ms"], "p99_ms": figures["p99_without_ms"]}},
        notes=(
            "without lists made ahead every visit is a miss: a list lives a minute, visits are hours apart",
            "inside one process: no HTTP between edge and region on either side, so the saving is the smaller one",
        ),
    )


async def _day(release: Path, address: str, users: int, seed: int, work: Path) -> dict[str, float]:
    clock, rng = TraceClock(), np.random.default_rng(seed)
    async with AsyncExitStack() as stack:
        loaded, funnel = await stack.enter_async_context(serving(release, clock=clock))
        telemetry = start_telemetry(
            service="region", region="bench", node="r1", settings=TelemetrySettings(log_file=str(work / f"log-{seed}"))
        )
        stack.callback(telemetry.close)
        grid = connect_grid(address, clock=clock)
        stack.push_async_callback(grid.close)
        store = MemoryStore(clock=clock)
        recommender = Recommender(
            region="bench", store=store, funnel=funnel, lease=lambda: _leased(loaded), clock=clock,
            telemetry=telemetry, metrics=FunnelMetrics(telemetry.registry), requests=RequestLog(),
        )  # fmt: skip
        visitors = Visitors()
        hours = rng.choice(PEAK_HOURS, size=users)
        await _know(store, visitors, loaded, hours, rng)
        registry = CollectorRegistry()
        precomputer = Precomputer(
            settings=PrecomputeSettings(enabled=True, lists_per_s=1000.0, cpu_share=1.0, chance_min=0.12),
            visitors=visitors, store=store, grid=grid, clock=clock, is_busy=lambda: False, registry=registry,
            make=lambda asked: recommender.home(asked, shown=False),
            standing=_reads(work / f"accesses-{seed}", clock).standing(
                who="node", action="lists made ahead", why="a measurement", clock=clock
            ),
        )  # fmt: skip
        for _ in range(100):
            with suppress(GridUnavailableError):
                await grid.get("connected")
                break
            await asyncio.sleep(0.05)
        seen = await _live(precomputer, recommender, grid, clock, _visits(hours, rng, day=0), rng)
        made = registry.get_sample_value("atoll_region_precomputed_total", {"outcome": "made"}) or 0.0
    return _figures(seen, made)


def _reads(folder: Path, clock: Clock) -> BulkReads:
    keys = RegionKeys.generate("bench")
    accesses = AccessLog(folder, region="bench", node="r1", keys=keys, clock=clock)
    return BulkReads(accesses, key=digest_key(keys))


async def _know(
    store: MemoryStore, visitors: Visitors, loaded: LoadedRelease, hours: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """A week of visits before the day: in the rows, and in what the node remembers."""
    items = loaded.tables.items
    histories: dict[int, list[HistoryEntry]] = {user: [] for user in range(len(hours))}
    for day in range(-DAYS_KNOWN, 0):
        for at_ms, user in _visits(hours, rng, day=day):
            visitors.note(_request(user), now_ms=at_ms)
            row = int(rng.integers(loaded.tables.shape.num_items))
            histories[user].append(HistoryEntry(item=items[row].item, strength=5, at_ms=at_ms + 60_000))
    await store.write_rows(
        [UserRow(subject=_subject(user), version=1, history=Interactions.of(own)) for user, own in histories.items()]
    )


async def _live(
    precomputer: Precomputer, recommender: Recommender, grid: Grid, clock: TraceClock, visits: list[tuple[int, int]],
    rng: np.random.Generator,
) -> Seen:  # fmt: skip
    seen, left = Seen([], []), list(visits)
    for slot_ms in range(START_MS, START_MS + DAY_MS, SLOT_MS):
        clock.wall_ms = slot_ms
        await precomputer.round()
        while left and left[0][0] < slot_ms + SLOT_MS:
            clock.wall_ms, user = left.pop(0)
            request = _request(user)
            for with_grid in rng.permutation([True, False]).tolist():
                started_s = clock.monotonic_s()
                hit = with_grid and await _is_hit(grid, request, clock)
                if not hit:
                    await recommender.home(request, shown=False)
                took_ms = 1000 * (clock.monotonic_s() - started_s)
                (seen.took_with if with_grid else seen.took_without).append(took_ms)
                seen.hits += hit
            await precomputer.void(_subject(user))
    return seen


async def _is_hit(grid: Grid, request: HomeRequest, clock: Clock) -> bool:
    try:
        content = await grid.get(grid_key(key_of(request)))
    except GridUnavailableError:
        return False  # as an edge does: it goes on without
    if content is None:
        return False
    answer = msgspec.msgpack.decode(content, type=GridValue).answer
    return clock.now_ms() < answer.generated_at_ms + 1000 * answer.lifetime.max_age_s


def _figures(seen: Seen, made: float) -> dict[str, float]:
    count = len(seen.took_with)
    with_ms, without_ms = percentile(seen.took_with, 0.5), percentile(seen.took_without, 0.5)
    return {
        "visits": float(count), "made": made, "used": float(seen.hits), "wasted": made - seen.hits,
        "hit_share": seen.hits / max(count, 1), "used_share": seen.hits / max(made, 1.0),
        "p50_with_ms": with_ms, "p50_without_ms": without_ms, "p50_ratio_without": with_ms / without_ms,
        "p99_with_ms": percentile(seen.took_with, 0.99), "p99_without_ms": percentile(seen.took_without, 0.99),
    }  # fmt: skip


def _visits(
    hours: "np.ndarray[tuple[int], np.dtype[np.int64]]", rng: np.random.Generator, *, day: int
) -> list[tuple[int, int]]:
    """Moment and user of a day's visits, in order."""
    visits = []
    for user, hour in enumerate(hours.tolist()):
        if rng.random() < COMES:
            own = rng.uniform(0, 24) if rng.random() < STRAYS else rng.normal(hour + 0.5, 0.5)
            visits.append((START_MS + day * DAY_MS + int(own % 24 * HOUR_MS), user))
    return sorted(visits)


def _request(user: int) -> HomeRequest:
    return HomeRequest(type=RecommendationType.PERSONAL, subject=_subject(user))


def _subject(user: int) -> str:
    return f"{user:032x}"


@contextmanager
def _leased(loaded: LoadedRelease) -> Iterator[LoadedRelease]:
    yield loaded
