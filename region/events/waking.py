"""Telling the worker that the log has grown, without making anybody wait for it."""

import asyncio

from prometheus_client import CollectorRegistry, Counter

from infra.plumbing.errors import UnavailableError
from infra.plumbing.grid.port import Grid

LOG_TOPIC = "log"


class Waker:
    """Publishes on `LOG_TOPIC` after appends; any number of appends during one publish make one more.

    The interleaving: an append sets `_dirty` after its commit. A publish that began before does not count for it,
    because the task clears `_dirty` before it publishes and looks again afterwards. A lost wake-up costs the worker's
    polling interval, so failures are counted and forgotten.
    """

    def __init__(self, *, grid: Grid, registry: CollectorRegistry) -> None:
        self._grid = grid
        self._dirty = False
        self._task: asyncio.Task[None] | None = None
        self._failures = Counter(
            "atoll_intake_wake_failures", "Wake-ups of the worker that the grid did not take.", registry=registry
        )

    def wake(self) -> None:
        """Have the worker told soon; returns at once. Needs a running loop."""
        self._dirty = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._publish())

    async def close(self) -> None:
        """Wait for a publish in progress."""
        if self._task is not None:
            await self._task

    async def _publish(self) -> None:
        while self._dirty:
            self._dirty = False
            try:
                await self._grid.publish(LOG_TOPIC, b"")
            except UnavailableError:
                self._failures.inc()
