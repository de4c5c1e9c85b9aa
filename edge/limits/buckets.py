"""Token buckets per caller: how much one caller may ask of one edge, in bounded memory."""

from collections import OrderedDict
from dataclasses import dataclass

CALLERS_MAX = 50_000


@dataclass(frozen=True, slots=True)
class Rate:
    """`per_s` requests a second in the long run, at most `burst` at once."""

    per_s: float
    burst: float


@dataclass(frozen=True, slots=True)
class Bucket:
    """`tokens` at the moment `at_s` (monotonic)."""

    tokens: float
    at_s: float


def take_one(bucket: Bucket | None, rate: Rate, *, now_s: float) -> tuple[Bucket, bool]:
    """The bucket after one request, and whether it was allowed. A new caller starts with a full bucket."""
    held = Bucket(rate.burst, now_s) if bucket is None else bucket
    tokens = min(rate.burst, held.tokens + max(0.0, now_s - held.at_s) * rate.per_s)
    if tokens < 1.0:
        return Bucket(tokens, now_s), False
    return Bucket(tokens - 1.0, now_s), True


class CallerLimits:
    """Buckets by caller. Who was not seen for longest is forgotten first, which gives that caller a full bucket."""

    def __init__(self, *, rate: Rate, callers_max: int = CALLERS_MAX) -> None:
        self._rate = rate
        self._callers_max = callers_max
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def allow(self, caller: str, *, now_s: float) -> bool:
        """Whether `caller` may make one request more; counts it."""
        self._buckets[caller], allowed = take_one(self._buckets.get(caller), self._rate, now_s=now_s)
        self._buckets.move_to_end(caller)
        if len(self._buckets) > self._callers_max:
            self._buckets.popitem(last=False)
        return allowed
