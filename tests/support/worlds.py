"""Waiting for a world whose release a region refuses (its towers are dummies): it never gets ready, its edges do."""

import time

from infra.local.records import Part, ProcessState
from infra.local.world import World
from infra.plumbing.clock import SystemClock

WITHIN_S = 60.0


def until_edges_ready(world: World) -> None:
    """Edges live before they have the release's lists."""
    clock = SystemClock()
    ends_s = clock.monotonic_s() + WITHIN_S
    while waiting := [
        one for one in world.status().processes if one.part is Part.EDGE and one.state is not ProcessState.READY
    ]:
        assert clock.monotonic_s() < ends_s, waiting
        time.sleep(0.1)  # nobody tells; the deadline above bounds it
