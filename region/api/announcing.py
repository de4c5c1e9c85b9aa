"""Telling the edges of the region what changed."""

from prometheus_client import CollectorRegistry, Counter

from infra.contracts.messages import INVALIDATION_TOPIC, Invalidation
from infra.contracts.residency import encode_regional
from infra.plumbing.errors import UnavailableError
from infra.plumbing.grid.port import Grid


class Announcer:
    """Publishes invalidations. A grid that is down is counted; the lists' own life bounds what it costs."""

    def __init__(self, *, grid: Grid, registry: CollectorRegistry) -> None:
        self._grid = grid
        self._told = Counter(
            "atoll_region_announcements", "Invalidations offered to the grid.", ("outcome",), registry=registry
        )

    async def tell(self, invalidation: Invalidation) -> bool:
        """Publish; whether the grid took it."""
        try:
            await self._grid.publish(INVALIDATION_TOPIC, encode_regional(invalidation))
        except UnavailableError:
            self._told.labels("failed").inc()
            return False
        self._told.labels("published").inc()
        return True
