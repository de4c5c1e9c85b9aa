"""Taking a share of many events at the price of one subtraction each."""

import math
from collections.abc import Callable


class GapSampler:
    """True for a share `ratio` of the calls to `due`, each with the same chance and independent of all others.

    Instead of one draw per event, the gap to the next sampled one is drawn: the number of failures before a success of
    probability p is geometric, `floor(ln U / ln(1 - p))` (Devroye, Non-Uniform Random Variate Generation, 1986, X.2).

    Args:
        ratio: 0 (never) to 1 (always).
        uniform: a number between two bounds (`infra.plumbing.ids.uniform`, or a seeded one).
    """

    def __init__(self, *, ratio: float, uniform: Callable[[float, float], float]) -> None:
        self.ratio = min(1.0, max(0.0, ratio))
        self._uniform = uniform
        self._left = self._gap()

    def due(self) -> bool:
        """Whether this event is one of the sampled."""
        if self._left > 0:
            self._left -= 1
            return False
        self._left = self._gap()
        return self.ratio > 0.0

    def due_within(self, count: int) -> bool:
        """Whether one of the next `count` events is sampled, all of which pass; two of them count as one."""
        if self._left >= count:
            self._left -= count
            return False
        self._left = self._gap()
        return self.ratio > 0.0

    def _gap(self) -> int:
        if self.ratio >= 1.0:
            return 0
        if self.ratio <= 0.0:
            return 1 << 62
        # The lower bound keeps the logarithm finite; it makes no gap longer than 700 / ratio.
        return int(math.log(max(self._uniform(0.0, 1.0), 1e-300)) / math.log1p(-self.ratio))
