"""Token buckets per caller: how much one caller may ask of one edge, in bounded memory.

A bucket is kept as one number, the moment at which it would be full again (the generic cell rate algorithm, ITU-T
I.371, annex A: a token bucket seen from the other side). A bucket whose moment has passed is full, which is what a
caller who was never seen has: it can be forgotten without anybody noticing.
"""

from dataclasses import dataclass

CALLERS_MAX = 50_000
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
        self._callers_max = callers_max
        self._full_at_s: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._full_at_s)

    def allow(self, caller: str, now_s: float) -> bool:
        """Whether `caller` may make one request more at the monotonic moment `now_s`; counts it if so."""
        full_at_s = self._full_at_s.get(caller, now_s)
        if full_at_s <= now_s:
            full_at_s = now_s
        elif full_at_s - now_s > self._tolerance_s:
            return False
        self._full_at_s[caller] = full_at_s + self._interval_s
        if len(self._full_at_s) > self._callers_max:
            self._make_room(now_s)
        return True

    def _make_room(self, now_s: float) -> None:
        waiting = [(caller, at_s) for caller, at_s in self._full_at_s.items() if at_s > now_s]
        self._full_at_s = dict(waiting[-int(self._callers_max * _KEPT_SHARE) or -1 :])
