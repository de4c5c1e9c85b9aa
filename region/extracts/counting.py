"""Aggregates out of histories: counts with noise, without I/O.

The privacy unit is one user. Each user adds 1 to at most `items_per_user_max` counts of items, and 1 to at most
C(`paired_per_user_max`, 2) counts of pairs, so each of the two releases has the square root of that number as its L2
sensitivity. Each gets Gaussian noise for half of epsilon: sigma = sensitivity * sqrt(2 ln(1.25 / delta)) / epsilon,
which holds for an epsilon below 1 (Dwork and Roth 2014, theorem A.1). Of delta the pairs have half.

* Items: which of them anybody has is not public. So an item that fewer than `users_min` people have is never given, and
  others only when their noised count stays above a threshold that one with just as many passes with a chance of at
  most delta / 4 / `items_per_user_max` (Wilson et al. 2020): a quarter of delta is for that, another for the noise.
* Pairs: they are counted among items just released, whose pairs are all given noise, those that nobody has too. So
  what is left out afterwards (below `users_min` or four sigma) costs nothing.

Adjacency: one user's history is added or removed. Numbers are whole, so that the last bits of a float say nothing.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from statistics import NormalDist

from infra.contracts.extracts import ItemTotal, PairTotal
from region.settings import ExtractSettings

Noise = Callable[[float], float]
"""A draw from a normal distribution around 0 with this deviation, from a cryptographic source."""
SIGMAS_MIN = 4.0


def gaussian_sigma(sensitivity: float, *, epsilon: float, delta: float) -> float:
    """Deviation of the noise for an L2 sensitivity. `epsilon` is below 1."""
    return sensitivity * math.sqrt(2.0 * math.log(1.25 / delta)) / epsilon


def latest_distinct(items: Sequence[str], limit: int) -> list[str]:
    """The latest distinct items of a history that is oldest first, at most `limit`, the latest first."""
    return list(dict.fromkeys(reversed(items)))[:limit]


class ItemCounting:
    """How many users have each item."""

    def __init__(self, settings: ExtractSettings) -> None:
        self._settings = settings
        self._counts: Counter[str] = Counter()

    def add(self, items: Sequence[str]) -> None:
        """One user's history."""
        self._counts.update(latest_distinct(items, self._settings.items_per_user_max))

    @property
    def items(self) -> int:
        """Items that anybody has."""
        return len(self._counts)

    def release(self, noise: Noise) -> tuple[ItemTotal, ...]:
        """Noised counts above the threshold, the most first."""
        settings, touched = self._settings, self._settings.items_per_user_max
        delta = settings.delta / 4
        sigma = gaussian_sigma(math.sqrt(touched), epsilon=settings.epsilon / 2, delta=delta)
        least = settings.users_min + sigma * NormalDist().inv_cdf(1.0 - delta / touched)
        found = (
            ItemTotal(item=item, users=noised)
            for item, count in self._counts.items()
            if count >= settings.users_min and (noised := round(count + noise(sigma))) >= least
        )
        return tuple(sorted(found, key=lambda one: (-one.users, one.item)))


class PairCounting:
    """How many users have both of two items, among items that are released."""

    def __init__(self, settings: ExtractSettings, released: Iterable[str]) -> None:
        self._settings = settings
        self._among = sorted(released)
        self._known = frozenset(self._among)
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, items: Sequence[str]) -> None:
        """One user's history."""
        kept = latest_distinct([item for item in items if item in self._known], self._settings.paired_per_user_max)
        self._counts.update(combinations(sorted(kept), 2))

    @property
    def pairs(self) -> int:
        """Pairs that anybody has."""
        return len(self._counts)

    def release(self, noise: Noise) -> tuple[PairTotal, ...]:
        """Noised counts of every pair that are high enough, the most first."""
        settings, touched = self._settings, math.comb(self._settings.paired_per_user_max, 2)
        sigma = gaussian_sigma(math.sqrt(touched), epsilon=settings.epsilon / 2, delta=settings.delta / 2)
        least = max(float(settings.users_min), SIGMAS_MIN * sigma)
        found = (
            PairTotal(first=first, second=second, users=noised)
            for first, second in combinations(self._among, 2)
            if (noised := round(self._counts[first, second] + noise(sigma))) >= least
        )
        return tuple(sorted(found, key=lambda one: (-one.users, one.first, one.second)))
