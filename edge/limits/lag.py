"""How late this process gets to its work: the lag of its event loop, which every wait behind the edge pays again.

On a machine that is too busy, timers and sockets are served late. A call to a region then takes as long as the region
needs and several times the lag on top: started all the same, it would make the caller wait past the deadline and add
to the load. So the ladder counts LOOPS times the lag as time that is already gone, and under enough of it answers from
what is in memory: the one thing that an overloaded node can still do quickly.
"""

import asyncio
from dataclasses import dataclass

from infra.plumbing.clock import Clock

TICK_S = 0.05
LOOPS = 2.0
"""How often a call to a region waits for the loop at least: until it is sent, and until its answer is read."""
_WEIGHT = 0.25


@dataclass(slots=True)
class LoopLag:
    """A moving average of how late ticks come, in seconds."""

    lag_s: float = 0.0

    def note(self, late_s: float) -> None:
        """A tick came `late_s` after its time."""
        self.lag_s += _WEIGHT * (max(0.0, late_s) - self.lag_s)

    @property
    def gone_s(self) -> float:
        """How much of a caller's time a call behind the edge loses to it."""
        return LOOPS * self.lag_s


async def watch_lag(lag: LoopLag, clock: Clock) -> None:
    """Tick until cancelled."""
    while True:
        due_s = clock.monotonic_s() + TICK_S
        await asyncio.sleep(TICK_S)
        lag.note(clock.monotonic_s() - due_s)
