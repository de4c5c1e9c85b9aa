"""A running quantile of latencies in bounded memory: a histogram of logarithmic buckets that forgets.

    bucket(t) = ceil(log(t / LOWEST_S) / log(GROWTH)),  read back as the bucket's upper edge

so an estimate is at most GROWTH - 1 above the true quantile of what is remembered (the idea of DDSketch, Masson et al.
2019, doi:10.14778/3352063.3352135). When FORGET_AFTER samples are held all counts are halved: what was slow a
thousand calls ago no longer decides.
"""

import math
from array import array

LOWEST_S = 0.0005
GROWTH = 1.1
BUCKETS = 112
"""Up to LOWEST_S * GROWTH^111, about 20 s."""
FORGET_AFTER = 1_024
SAMPLES_MIN = 20
"""Fewer samples say nothing about a tail."""
_READ_AGAIN_AFTER = 16
_LOG_GROWTH = math.log(GROWTH)
_HIGHEST_S = LOWEST_S * GROWTH**BUCKETS


class LatencyQuantile:
    """One quantile of the latencies noted lately. Reading it is cheap: it is worked out anew every few samples.

    Args:
        share: which quantile, between 0 and 1.
    """

    __slots__ = ("_counts", "_held", "_kept_s", "_share", "_unread")

    def __init__(self, share: float) -> None:
        self._share = share
        self._counts = array("H", bytes(2 * BUCKETS))
        self._held = 0
        self._unread = 0
        self._kept_s: float | None = None

    def __len__(self) -> int:
        return self._held

    def note(self, took_s: float) -> None:
        """Remember one latency."""
        self._counts[_bucket(took_s)] += 1
        self._held += 1
        self._unread += 1
        if self._held >= FORGET_AFTER:
            self._counts = array("H", (count >> 1 for count in self._counts))
            self._held = sum(self._counts)

    def read_s(self) -> float | None:
        """The quantile in seconds; None before SAMPLES_MIN samples."""
        if self._held < SAMPLES_MIN:
            return None
        if self._kept_s is None or self._unread >= _READ_AGAIN_AFTER:
            self._kept_s, self._unread = self._work_out(), 0
        return self._kept_s

    def _work_out(self) -> float:
        rank, seen = math.ceil(self._share * self._held), 0
        for number, count in enumerate(self._counts):
            seen += count
            if seen >= rank:
                return LOWEST_S * GROWTH**number
        return LOWEST_S * GROWTH ** (BUCKETS - 1)


def _bucket(took_s: float) -> int:
    if not took_s > LOWEST_S:  # a NaN too
        return 0
    steps = math.log(min(took_s, _HIGHEST_S) / LOWEST_S) / _LOG_GROWTH
    # Rounded, or the upper edge of a bucket would sometimes fall into the next one.
    return min(BUCKETS - 1, math.ceil(round(steps, 9)))
