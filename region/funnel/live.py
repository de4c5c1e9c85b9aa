"""What this region does right now: live counts from the store, kept beside the requests and never on their way."""

from dataclasses import dataclass, field

from infra.plumbing.clock import Clock
from infra.plumbing.errors import UnavailableError
from region.funnel.release import LoadedRelease
from region.funnel.sources import Trend
from region.store.port import ItemCount, Store

LIVE_WINDOW_MS = 6 * 3_600_000
LIVE_ITEMS_MAX = 1000
LIVE_STALE_S = 60.0
"""Counts that could not be refreshed for longer are left out, and the answer says so."""


@dataclass(slots=True, kw_only=True)
class LiveTrend:
    """The last counts read, and the trend of the release asked last with them merged in.

    Without a store (replay) the release's own trend is all there is, and that is no degradation.
    """

    clock: Clock
    store: Store | None = None
    _counts: tuple[ItemCount, ...] = ()
    _read_s: float | None = None
    _edition: int = 0
    _merged: tuple[str, int, Trend] | None = field(default=None)

    async def refresh(self) -> None:
        """Read the counts once.

        Raises:
            UnavailableError: the store does not answer; what was read before stays until it is stale.
        """
        if self.store is None:
            raise UnavailableError("there is no store to read live counts from.")
        since_ms = self.clock.now_ms() - LIVE_WINDOW_MS
        self._counts = tuple(await self.store.trending(since_ms=since_ms, limit=LIVE_ITEMS_MAX))
        self._read_s = self.clock.monotonic_s()
        self._edition += 1

    def is_stale(self) -> bool:
        """Whether the counts are too old to be shown as live."""
        if self.store is None:
            return False
        return self._read_s is None or self.clock.monotonic_s() - self._read_s > LIVE_STALE_S

    def trend(self, release: LoadedRelease) -> Trend:
        """What trends: the release's own, with live counts on top while they are fresh."""
        edition = -1 if self.is_stale() or not self._counts else self._edition
        if self._merged is None or self._merged[:2] != (release.release_id, edition):
            row_of = release.tables.row_of
            counts = self._counts if edition >= 0 else ()
            live = {row_of[count.item]: count.count for count in counts if count.item in row_of}
            self._merged = (release.release_id, edition, Trend(release.tables, release.standing, live))
        return self._merged[2]
