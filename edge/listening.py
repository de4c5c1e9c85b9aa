"""How an edge hears of what changes: the grid's messages, its own pulse among them, and the region asked directly."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.cache.invalidation import Ear, Ledger, follow_invalidations
from edge.cache.notices import NoticeKeeper, keep_pulse
from edge.cache.pulse import Pulse
from edge.jitter import Uniform
from edge.metrics import EdgeMetrics
from edge.routing.port import RegionPort
from edge.settings import EdgeSettings
from infra.plumbing.clock import Clock
from infra.plumbing.grid.port import Grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Who is told of what is heard: releases by their ids, erasures and opt-outs by their subjects."""

    of_release: Callable[[str], None]
    of_erasure: Callable[[str], None]
    of_opt_out: Callable[[str], None]


async def start_listening(
    *, settings: EdgeSettings, ledger: Ledger, grid: Grid, region: RegionPort, clock: Clock, uniform: Uniform,
    metrics: EdgeMetrics, told: Told,
) -> list[Coroutine[Any, Any, None]]:  # fmt: skip
    """Learn what holds now, as far as the region answers; returns the work that keeps it true.

    An edge that starts must not show for a moment what was withdrawn while it was away.
    """
    keeper = NoticeKeeper(
        region=region, urls=[url.rstrip("/") for url in settings.home_urls], ledger=ledger, clock=clock,
        uniform=uniform, directory=Path(settings.state_directory), calm_s=settings.notices_poll_s,
        counted=lambda outcome: metrics.notices.labels(outcome).inc(), on_release=told.of_release,
    )  # fmt: skip
    await keeper.start()
    pulse = Pulse()
    follow = follow_invalidations(
        grid, ledger, counted=lambda kind: metrics.invalidations.labels(kind).inc(), on_release=told.of_release,
        on_erased=told.of_erasure, on_opted_out=told.of_opt_out,
        ear=Ear(node=settings.node, pulse=pulse, missed=keeper.hurry),
    )  # fmt: skip
    metrics.watch("grid_silent", "1 while the grid carries no messages to this edge.", lambda: float(ledger.silent))
    beat = keep_pulse(grid, ledger, pulse, node=settings.node, clock=clock, silent=keeper.hurry)
    return [follow, beat, keeper.run()]
