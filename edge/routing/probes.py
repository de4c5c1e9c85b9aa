"""Active probes: every node is asked `/health/ready` about once an interval, each at its own moment."""

import asyncio

from edge.jitter import Uniform
from edge.routing.health import Target, Targets
from edge.routing.port import RegionCallError, RegionPort
from infra.plumbing.clock import Clock

JITTER = 0.2
PROBE_TIMEOUT_S_MAX = 1.0


class Prober:
    """Probes every target until cancelled.

    Args:
        interval_s: mean time between two probes of one target; each wait differs by up to JITTER, so that the edges
            of a region do not probe in step.
    """

    def __init__(
        self, *, targets: Targets, region: RegionPort, clock: Clock, uniform: Uniform, interval_s: float
    ) -> None:
        self._targets = targets
        self._region = region
        self._clock = clock
        self._uniform = uniform
        self._interval_s = interval_s

    async def run(self) -> None:
        """Probe until cancelled; one task per target, so that a silent one delays no other."""
        async with asyncio.TaskGroup() as group:
            for target in self._targets.all():
                group.create_task(self._watch(target))

    async def probe_once(self, target: Target) -> None:
        """One probe, its outcome noted."""
        timeout_s = min(PROBE_TIMEOUT_S_MAX, max(0.1, self._interval_s))
        try:
            await self._region.probe(target.url, timeout_s=timeout_s)
        except RegionCallError:
            self._targets.probed(target, ok=False, now_s=self._clock.monotonic_s())
        else:
            self._targets.probed(target, ok=True, now_s=self._clock.monotonic_s())

    async def _watch(self, target: Target) -> None:
        while True:
            await self.probe_once(target)
            await asyncio.sleep(self._interval_s * self._uniform(1.0 - JITTER, 1.0 + JITTER))
