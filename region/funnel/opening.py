"""What makes lists on one node, composed; and what it does beside the requests."""

from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from infra.plumbing.clock import Clock
from infra.plumbing.grid.port import Grid
from infra.plumbing.telemetry import Telemetry
from region.background import Background
from region.exploration.counters import LiveCounters
from region.exploration.exposures import ExposureLog, exposure_of
from region.funnel.compute import ComputePool
from region.funnel.contexts import ContextTastes
from region.funnel.dry_run import RequestLog
from region.funnel.finishing import Finished
from region.funnel.funnel import Funnel
from region.funnel.live import LiveTrend
from region.funnel.metrics import FunnelMetrics
from region.funnel.paging import Pager
from region.funnel.recommender import Lease, Recommender
from region.funnel.ruling import Ruling, Rulings
from region.funnel.sampling import Sampler
from region.funnel.understanding import Call
from region.keeping.opening import open_file_keys
from region.precompute.making import Precomputer, hear_changes
from region.precompute.visitors import Visitors
from region.privacy.bulk import open_bulk_reads
from region.rules.book import RuleBook
from region.rules.regional import Withdrawals
from region.sampling.served import ServedSamples
from region.settings import RegionSettings
from region.store.port import Store

COMPUTE_THREADS = 2
"""While a model runs in one, the other has the turn (`region.funnel.compute`)."""
COMPUTE_PENDING_MAX = 64
"""About 64 lists at a few milliseconds each: what would wait longer is better asked of another node."""
LIVE_REFRESH_S = 2.0
COUNTERS_REFRESH_S = 30.0
SAMPLES_WRITE_S = 5.0
PRECOMPUTE_EVERY_S = 60.0
HEAR_RETRY_S = 1.0
TASTES_WRITE_S = 30.0
MAPPED_LOOK_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What makes lists."""

    recommender: Recommender
    funnel: Funnel
    live: LiveTrend
    counters: LiveCounters
    compute: ComputePool
    metrics: FunnelMetrics
    requests: RequestLog
    samples: ServedSamples
    exposures: ExposureLog
    rulings: Rulings
    tastes: ContextTastes
    precomputer: Precomputer
    pager: Pager
    grid: Grid

    def work(self, background: Background, clock: Clock) -> dict[str, Coroutine[Any, Any, None]]:
        """What goes on beside the requests, by name."""
        jobs: dict[str, tuple[Callable[[], Coroutine[Any, Any, None]], float]] = {
            "live-trend": (self.live.refresh, LIVE_REFRESH_S),
            "item-counters": (self.counters.refresh, COUNTERS_REFRESH_S),
            "samples": (partial(self.samples.keep, clock), SAMPLES_WRITE_S),
            "context-tastes": (self.tastes.keep, TASTES_WRITE_S),
            "exposures": (partial(self.exposures.keep, clock), SAMPLES_WRITE_S),
            "mapped": (self.pager.look, MAPPED_LOOK_S),
        }
        if self.precomputer.is_on:
            jobs["precompute"] = (self.precomputer.round, PRECOMPUTE_EVERY_S)
            jobs["precompute-hearing"] = (partial(hear_changes, self.grid, self.precomputer), HEAR_RETRY_S)
        return {name: background.repeat(name, work, every_s=every_s) for name, (work, every_s) in jobs.items()}


def open_answers(
    settings: RegionSettings, stack: AsyncExitStack, *, store: Store, withdrawals: Withdrawals, book: RuleBook,
    lease: Lease, grid: Grid, telemetry: Telemetry, clock: Clock,
) -> Answers:  # fmt: skip
    """Build the room; `stack` closes what it opens."""
    compute = ComputePool(
        threads=COMPUTE_THREADS, pending_max=COMPUTE_PENDING_MAX, clock=clock, registry=telemetry.registry
    )  # fmt: skip
    stack.callback(compute.close)
    live, counters = LiveTrend(clock=clock, store=store), LiveCounters(clock=clock, store=store)
    metrics = FunnelMetrics(telemetry.registry)
    requests, rulings = RequestLog(), Rulings(book, on_error=metrics.rule_failed)
    state = Path(settings.state_directory)
    keys = open_file_keys(settings)
    samples, exposures = ServedSamples(state, keys=keys), ExposureLog(state, keys=keys)
    tastes = ContextTastes(state, clock=clock)

    def shown(call: Call, finished: Finished, ruling: Ruling) -> None:
        tastes.note_call(call.request.subject or "", call.request.context)
        precomputer.asked(call.request)
        if not finished.drawn:
            return
        exposure = exposure_of(
            call.request, finished.slate, finished.drawn, now_s=call.now_s, release=call.release.release_id,
            edition=ruling.edition, prior_rate=counters.tally.rate,
        )  # fmt: skip
        kept = exposures.offer(exposure, monotonic_s=clock.monotonic_s())
        metrics.explored([one.is_new for one in finished.drawn], logged=kept)

    funnel = Funnel(
        compute=compute, live=live, withdrawals=withdrawals, rulings=rulings, on_blocked=metrics.kept_out,
        tally=lambda: counters.tally, on_shown=shown, forget=tastes.forget, lifts=tastes.lifts,
    )  # fmt: skip
    recommender = Recommender(
        region=settings.region, store=store, funnel=funnel, lease=lease, clock=clock, telemetry=telemetry,
        metrics=metrics, requests=requests, sampler=Sampler(samples),
    )  # fmt: skip
    standing = open_bulk_reads(settings, clock).standing(
        who="node", action="lists made ahead", why="visitors who are likely to come", clock=clock
    )
    stack.push_async_callback(standing.close)
    precomputer = Precomputer(
        settings=settings.precompute, visitors=Visitors(), store=store, grid=grid, clock=clock,
        make=partial(recommender.home, shown=False), is_busy=lambda: compute.pending > 0, registry=telemetry.registry,
        standing=standing,
    )  # fmt: skip
    mapped_mb = settings.mapped_resident_mb_max
    pager = Pager(
        bytes_max=None if mapped_mb is None else mapped_mb << 20, lease=lease, registry=telemetry.registry
    )  # fmt: skip
    return Answers(
        recommender=recommender, funnel=funnel, live=live, counters=counters, compute=compute, metrics=metrics,
        requests=requests, samples=samples, exposures=exposures, rulings=rulings, tastes=tastes,
        precomputer=precomputer, pager=pager, grid=grid,
    )  # fmt: skip
