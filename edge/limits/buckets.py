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
from typing import Final

CALLERS_MAX = 50_000
HEAVY_SHARE = 0.1
HEAVY_MAX = 256
"""How many heavy callers one round of sharing names; the others' limits hold per edge until the next."""
_KEPT_SHARE = 0.75
"""What is left of the callers after making room, so that room is not made again at once."""
_GONE_S = float("inf")


@dataclass(frozen=True, slots=True)
class Rate:
    """`per_s` requests a second in the long run, at most `burst` at once."""

    per_s: float
    burst: float


class Bucket:
    """One caller's bucket. Whoever holds it may take a call while it is full: `full_at_s` has passed.

    It is then due one interval later (`CallerLimits.interval_s`). In every other case `CallerLimits.allow` decides, and
    always for a bucket that was forgotten: that one is never full again.
    """

    __slots__ = ("full_at_s",)

    def __init__(self, full_at_s: float) -> None:
        self.full_at_s = full_at_s


NO_BUCKET: Final = Bucket(_GONE_S)
"""For who has none yet: `CallerLimits.allow` decides."""


class CallerLimits:
    """Buckets by caller. When there are too many, full ones are forgotten first, then those that were begun first."""

    def __init__(self, *, rate: Rate, callers_max: int = CALLERS_MAX) -> None:
        self.interval_s = 1.0 / rate.per_s
        self._tolerance_s = (rate.burst - 1.0) / rate.per_s + 1e-9
        self._heavy_s = HEAVY_SHARE * self._tolerance_s
        self._callers_max = callers_max
        self._buckets: dict[Hashable, Bucket] = {}
        self._taken: dict[Hashable, int] = {}
        """Calls let through since `take`, of heavy callers."""

    def __len__(self) -> int:
        return len(self._buckets)

    def allow(self, caller: Hashable, now_s: float) -> bool:
        """Whether `caller` may make one request more at the monotonic moment `now_s`; counts it if so."""
        bucket = self._buckets.get(caller)
        if bucket is None:
            self._keep(caller, Bucket(now_s + self.interval_s), now_s)
            return True
        owed_s = bucket.full_at_s - now_s
        if owed_s <= 0.0:
            bucket.full_at_s = now_s + self.interval_s
            return True
        if owed_s > self._heavy_s:
            if owed_s > self._tolerance_s:
                return False
            if caller in self._taken or len(self._taken) < HEAVY_MAX:
                self._taken[caller] = self._taken.get(caller, 0) + 1
        bucket.full_at_s += self.interval_s
        return True

    def bucket(self, caller: Hashable) -> Bucket:
        """The bucket of `caller`, for who asks again and again."""
        return self._buckets.get(caller, NO_BUCKET)

    def take(self) -> dict[Hashable, int]:
        """How many calls heavy callers made since this was asked last, at most HEAVY_MAX of them."""
        taken, self._taken = self._taken, {}
        return taken

    def charge(self, caller: Hashable, calls: int, *, now_s: float) -> None:
        """`caller` made `calls` calls at another edge. What a bucket can owe is bounded, so that it recovers."""
        bucket = self._buckets.get(caller)
        full_at_s = max(now_s if bucket is None else bucket.full_at_s, now_s) + max(0, calls) * self.interval_s
        # One burst of debt: enough for the edges to settle on a share each, and soon paid back.
        full_at_s = min(full_at_s, now_s + 2 * self._tolerance_s + self.interval_s)
        if bucket is None:
            self._keep(caller, Bucket(full_at_s), now_s)
        else:
            bucket.full_at_s = full_at_s

    def _keep(self, caller: Hashable, bucket: Bucket, now_s: float) -> None:
        self._buckets[caller] = bucket
        if len(self._buckets) <= self._callers_max:
            return
        waiting = [(name, held) for name, held in self._buckets.items() if held.full_at_s > now_s]
        kept = dict(waiting[-int(self._callers_max * _KEPT_SHARE) or -1 :])
        for name, held in self._buckets.items():
            if name not in kept:
                held.full_at_s = _GONE_S
        self._buckets = kept
