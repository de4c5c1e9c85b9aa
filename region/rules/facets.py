"""What callers may filter by, of one release: prices and attributes by row, and which rows pass a caller's filters."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from infra.contracts.features import IntArray
from infra.contracts.messages import AttributeFilter, ItemFilters
from infra.contracts.release import CatalogueItem
from infra.plumbing.catalogue.reading import Catalogue
from infra.plumbing.catalogue.writing import attribute_values

MASKS_KEPT = 8
"""Answers that are kept: callers ask with few different filters, and a mask takes a byte an item."""

BEST_MAX = 20_000
"""Passing rows that are found ahead, so that a request need not look through the catalogue for them."""
SCANNED_AT_ONCE = 1 << 16

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Allowed:
    """Which rows pass: `allowed[rows]` is `[rows] bool`, at the cost of those rows.

    `best`: the first BEST_MAX of the release's own that pass, most popular first; `is_whole`: there are no others.
    """

    passing: Callable[[IntArray], BoolArray]
    best: IntArray
    is_whole: bool

    def __getitem__(self, rows: IntArray) -> BoolArray:
        return self.passing(rows)


class Facets:
    """Prices and values of the catalogue, and of the items that sit behind it.

    Args:
        catalogue: of the release.
        spare_rows: seats behind it; nothing is known of an empty one.
    """

    def __init__(self, catalogue: Catalogue, *, spare_rows: int = 0) -> None:
        self._catalogue = catalogue
        self._count = len(catalogue) + spare_rows
        self._seated: dict[int, CatalogueItem] = {}
        self._masks: dict[ItemFilters, Allowed] = {}

    def knows(self, filters: ItemFilters) -> bool:
        """Whether `allowed` has its answer ready; else it looks through the catalogue."""
        return filters in self._masks

    def allowed(self, filters: ItemFilters) -> Allowed:
        """Which rows pass. What is not known passes no filter on it."""
        # A `lru_cache` of a bound method would be a cycle, and keep a catalogue in memory that nobody uses any more.
        masks = self._masks
        found = masks.get(filters)
        if found is None:
            found = masks[filters] = self._allowed(filters)
            while len(masks) > MASKS_KEPT:
                masks.pop(next(iter(masks)), None)
        return found

    def put(self, row: int, item: CatalogueItem) -> None:
        """`item` sits at `row`, behind the catalogue, now. One caller at a time."""
        self._seated[row] = item
        # A new memory of masks: what is being computed by what stood here before is forgotten with the old one.
        self._masks = {}

    def _allowed(self, filters: ItemFilters) -> Allowed:
        passes = np.zeros(self._count, dtype=np.bool_)
        own = passes[: len(self._catalogue)]
        own[...] = True
        # A comparison with NaN is false, so an unknown price passes no bound.
        if filters.price_min is not None:
            own &= self._catalogue.prices >= filters.price_min
        if filters.price_max is not None:
            own &= self._catalogue.prices <= filters.price_max
        for one in filters.attributes:
            own &= self._having(one)
        for row, item in tuple(self._seated.items()):
            passes[row] = _passes(item, filters)
        there_are = int(np.count_nonzero(own))
        best = first_of(self._catalogue.by_popularity, passes.__getitem__, BEST_MAX, there_are=there_are)
        return Allowed(passes.__getitem__, best, is_whole=there_are <= BEST_MAX)

    def _having(self, one: AttributeFilter) -> BoolArray:
        having = np.zeros(len(self._catalogue), dtype=np.bool_)
        for value in one.values:
            rows = self._catalogue.having(one.name, value)
            if rows is not None:
                having[rows] = True
        return having


def first_of(rows: IntArray, passing: Callable[[IntArray], BoolArray], limit: int, *, there_are: int) -> IntArray:
    """The first `limit` of `rows` that pass; no further than the last of the `there_are` that do."""
    found: list[IntArray] = [rows[:0]]
    count = 0
    for start in range(0, rows.size, SCANNED_AT_ONCE):
        if count >= min(limit, there_are):
            break
        part = rows[start : start + SCANNED_AT_ONCE]
        part = part[passing(part)]
        found.append(part)
        count += part.size
    return np.concatenate(found)[:limit]


def _passes(item: CatalogueItem, filters: ItemFilters) -> bool:
    if filters.price_min is not None and (item.price is None or item.price < filters.price_min):
        return False
    if filters.price_max is not None and (item.price is None or item.price > filters.price_max):
        return False
    known = set(attribute_values(item))
    return all(any((one.name, value) in known for value in one.values) for one in filters.attributes)
