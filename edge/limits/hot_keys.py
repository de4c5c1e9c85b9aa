"""Which lists take a large share of all answers: found in bounded memory, and made anew before anybody waits for them.

Space-Saving (Metwally, Agrawal, El Abbadi: "Efficient computation of frequent and top-k elements in data streams",
ICDT 2005): as many counters as there are places; a key without one takes over the smallest, with its count as the error
that the new one may carry. A key that makes up more than 1 / places of all asks is never missed. Counts are halved
every HALVE_S, so that yesterday's hit makes room.

Nobody's name leaves here: what is shown outside is how many keys are hot, and which share the hottest one has.
"""

from collections.abc import Hashable

PLACES = 64
HOT_SHARE = 0.02
"""From this share of the answers on a list is hot; more than 1 / PLACES, so none is missed."""
ASKS_MIN = 500
"""Fewer asks than this say nothing about shares."""
HALVE_S = 10.0


class HotKeys:
    """Counts asks by key. Not for several threads: the event loop's only."""

    def __init__(self, *, places: int = PLACES) -> None:
        self._places = places
        self._counts: dict[Hashable, list[int]] = {}
        """By key: how often it was asked for at most, and by how much that may be too high."""
        self._asks = 0
        self._halved_s = float("-inf")

    def __len__(self) -> int:
        return sum(self.is_hot(key) for key in self._counts)

    @property
    def top_share(self) -> float:
        """The share of the asks that the hottest key has at least, 0 to 1."""
        return max((self._share(key) for key in self._counts), default=0.0)

    def note(self, key: Hashable, times: int, *, now_s: float) -> None:
        """`key` was asked for `times` times."""
        if now_s - self._halved_s >= HALVE_S:
            self._halve(now_s)
        self._asks += times
        counts = self._counts
        count = counts.get(key)
        if count is not None:
            count[0] += times
        elif len(counts) < self._places:
            counts[key] = [times, 0]
        else:
            smallest = min(counts, key=lambda one: counts[one][0])
            least = counts.pop(smallest)[0]
            counts[key] = [least + times, least]

    def is_hot(self, key: Hashable) -> bool:
        """Whether `key` certainly takes HOT_SHARE of the asks or more."""
        return self._share(key) >= HOT_SHARE

    def _share(self, key: Hashable) -> float:
        count = self._counts.get(key)
        return (count[0] - count[1]) / self._asks if count is not None and self._asks >= ASKS_MIN else 0.0

    def _halve(self, now_s: float) -> None:
        self._halved_s = now_s
        self._asks //= 2
        self._counts = {key: [most // 2, error // 2] for key, (most, error) in self._counts.items() if most > 1}
