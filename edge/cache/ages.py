"""How old an answer out of the grid is, by the clock that it was made by: the region's, never this node's own.

An answer carries the wall time of the region that made it. This node's wall clock may be wrong, and may be set right
in one step; then every list in the grid would look minutes younger or older at once. So the region's time is learned
from its own answers, and carried on by the monotonic clock, which knows no steps::

    an answer made at 12:00:00 by the region's clock came at the monotonic moment 500.0
    at 530.0 it is 12:00:30 there, whatever the wall clock says here

What the region's clock does remains: set forward, its older lists look older than they are and are made anew, once
each; set back, they lie in its future, and a list out of the future has no age. It is nobody's fresh list then.
"""

from infra.plumbing.clock import Clock

AHEAD_S_MAX = 2.0
"""How far ahead of the learned time a list may have been made: clocks of a region's nodes differ by less."""


class RegionTime:
    """The wall clock of one region, as its answers tell it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at_zero_ms: float | None = None
        """What the region's clock showed at the monotonic moment 0; None until it was heard."""

    def hear(self, made_ms: int, *, asked_s: float) -> None:
        """The region answered a call that left at the monotonic moment `asked_s` with an answer made at `made_ms`.

        It was made after the call left, so ages come out too long by at most the time that the call took.
        """
        self._at_zero_ms = made_ms - asked_s * 1000

    def age_s(self, made_ms: int) -> float | None:
        """How many seconds ago an answer was made; None for one out of the future.

        Until the region was heard this node's own wall clock stands for its clock: there is no other.
        """
        now_ms: float = self._clock.now_ms()
        if self._at_zero_ms is not None:
            now_ms = self._at_zero_ms + self._clock.monotonic_s() * 1000
        age_s = (now_ms - made_ms) / 1000
        return None if age_s < -AHEAD_S_MAX else max(0.0, age_s)
