"""Clicks and impressions by item, decayed, beside the requests: what the bandit of exploration slots goes by."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from infra.plumbing.clock import Clock
from region.store.port import ItemCounters, Store

Counts = npt.NDArray[np.float64]
DAY_MS = 86_400_000
WINDOWS: tuple[tuple[int, float], ...] = ((1, 1.0), (2, 0.7), (4, 0.5), (8, 0.25))
"""Days, and what an event that is no older weighs: about a half-life of three days, in four steps."""
LONG_EVERY_S = 300.0
"""How often all windows are read; between, the shortest one only: what was counted days ago hardly changes, and reading
it is a scan of every item of those days."""
ITEMS_MAX = 20_000
"""Items of one window, the most shown first; of the others nothing is known, and the prior stands for them."""
RATE_DEFAULT = 0.05
RATE_MIN, RATE_MAX = 0.001, 0.5
IMPRESSIONS_FOR_RATE = 100.0
"""With fewer in the whole region its own click rate is not known."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Decayed counts by item, and the click rate over all of them."""

    by_item: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Clicks, impressions."""
    rate: float = RATE_DEFAULT

    def of(self, items: Sequence[str]) -> tuple[Counts, Counts]:
        """Clicks and impressions, `[items] float64` each; nothing is known of an item that is not there."""
        found = [self.by_item.get(item, (0.0, 0.0)) for item in items]
        clicks, impressions = np.asarray(found, dtype=np.float64).reshape(-1, 2).T
        return clicks, impressions


@dataclass(slots=True, kw_only=True)
class LiveCounters:
    """The last tally read. Without a store (replay) it stays empty; a store that does not answer leaves it as it is."""

    clock: Clock
    store: Store | None = None
    tally: Tally = field(default_factory=Tally)
    _long: tuple[Sequence[ItemCounters], ...] = ()
    _long_read_s: float = 0.0

    async def refresh(self) -> None:
        """Read the counters once.

        Raises:
            UnavailableError: the store does not answer.
        """
        if self.store is None:
            return
        now_ms, now_s = self.clock.now_ms(), self.clock.monotonic_s()
        due = not self._long or now_s - self._long_read_s >= LONG_EVERY_S
        read = [
            await self.store.item_counters(since_ms=now_ms - days * DAY_MS, limit=ITEMS_MAX)
            for days, _ in (WINDOWS if due else WINDOWS[:1])
        ]
        if due:
            self._long, self._long_read_s = tuple(read[1:]), now_s
        windows = (read[0], *self._long)
        # Tens of thousands of items: requests go on meanwhile.
        self.tally = await asyncio.to_thread(decayed, windows)


def decayed(windows: Sequence[Iterable[ItemCounters]]) -> Tally:
    """One tally of counters over WINDOWS, each of which holds those before it."""
    clicks: dict[str, float] = {}
    impressions: dict[str, float] = {}
    seen: dict[str, tuple[int, int]] = {}
    for (_, weight), counted in zip(WINDOWS, windows, strict=True):
        for one in counted:
            before = seen.get(one.item, (0, 0))
            more = (max(one.clicks - before[0], 0), max(one.impressions - before[1], 0))
            clicks[one.item] = clicks.get(one.item, 0.0) + weight * more[0]
            impressions[one.item] = impressions.get(one.item, 0.0) + weight * more[1]
            seen[one.item] = (max(one.clicks, before[0]), max(one.impressions, before[1]))
    shown = sum(impressions.values())
    rate = sum(clicks.values()) / shown if shown >= IMPRESSIONS_FOR_RATE else RATE_DEFAULT
    return Tally({item: (clicks[item], impressions[item]) for item in seen}, min(max(rate, RATE_MIN), RATE_MAX))
