"""Token buckets per caller: how much one caller may ask of a region's edges, in bounded memory.

A bucket is kept as one number, the moment at which it would be full again (the generic cell rate algorithm, ITU-T
I.371, annex A: a token bucket seen from the other side). A bucket whose moment has passed is full, which is what a
caller who was never seen has: it can be forgotten without anybody noticing.

The edges of a region share what heavy callers took (`edge.limits.sharing`), behind every request's back. A caller is
heavy while its bucket lacks more than HEAVY_SHARE of its burst. So over any stretch of `t` seconds a caller of `e`
edges gets at most about

    rate * t + burst * (1 + HEAVY_SHARE * (e - 1)) + what the other edges let through before they hear of it
"""

from collections.abc import Hashable
from dataclasses import dataclass

CALLERS_MAX = 50_000
HEAVY_SHARE = 0.1
HEAVY_MAX = 256
"""How many heavy callers one round of sharing names; the others' limits hold per edge until the next."""
_KEPT_SHARE = 0.75
"""What is left of the callers after making room, so that room is not made again at once."""


@dataclass(frozen=True, slots=True)
class Rate:
    """`per_s` requests a second in the long run, at most `burst` at once."""

    per_s: float
    burst: float


class CallerLimits:
    """Buckets by caller. When there are too many, full ones are forgotten first, then those that were begun first."""

    def __init__(self, *, rate: Rate, callers_max: int = CALLERS_MAX) -> None:
        self._interval_s = 1.0 / rate.per_s
        self._tolerance_s = (rate.burst - 1.0) / rate.per_s + 1e-9
        self._heavy_s = HEAVY_SHARE * self._tolerance_s
        self._callers_max = callers_max
        self._full_at_s: dict[Hashable, float] = {}
        self._taken: dict[Hashable, int] = {}
        """Calls let through since `take`, of heavy callers."""

    def __len__(self) -> int:
        return len(self._full_at_s)

    def allow(self, caller: Hashable, now_s: float) -> bool:
        """Whether `caller` may make one request more at the monotonic moment `now_s`; counts it if so."""
        full_at_s = self._full_at_s.get(caller, now_s)
        if full_at_s <= now_s:
            full_at_s = now_s
        elif full_at_s - now_s > self._heavy_s:
            if full_at_s - now_s > self._tolerance_s:
                return False
            if caller in self._taken or len(self._taken) < HEAVY_MAX:
                self._taken[caller] = self._taken.get(caller, 0) + 1
        self._full_at_s[caller] = full_at_s + self._interval_s
        if len(self._full_at_s) > self._callers_max:
            self._make_room(now_s)
        return True

    def take(self) -> dict[Hashable, int]:
        """How many calls heavy callers made since this was asked last, at most HEAVY_MAX of them."""
        taken, self._taken = self._taken, {}
        return taken

    def charge(self, caller: Hashable, calls: int, *, now_s: float) -> None:
        """`caller` made `calls` calls at another edge. What a bucket can owe is bounded, so that it recovers."""
        full_at_s = max(self._full_at_s.get(caller, now_s), now_s) + max(0, calls) * self._interval_s
        # One burst of debt: enough for the edges to settle on a share each, and soon paid back.
        self._full_at_s[caller] = min(full_at_s, now_s + 2 * self._tolerance_s + self._interval_s)
        if len(self._full_at_s) > self._callers_max:
            self._make_room(now_s)

    def _make_room(self, now_s: float) -> None:
        waiting = [(caller, at_s) for caller, at_s in self._full_at_s.items() if at_s > now_s]
        self._full_at_s = dict(waiting[-int(self._callers_max * _KEPT_SHARE) or -1 :])
