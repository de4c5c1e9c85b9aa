"""What callers may filter by, of one release: prices and attributes by row, and which rows pass a caller's filters."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from infra.contracts.features import FloatArray, IntArray
from infra.contracts.messages import AttributeFilter, ItemFilters
from infra.contracts.release import CatalogueItem

MASKS_KEPT = 8
"""Answers that are kept: callers ask with few different filters, and a mask takes a byte an item."""

BoolArray = npt.NDArray[np.bool_]
_NO_ROWS: IntArray = np.zeros(0, dtype=np.int32)


class Facets:
    """Prices `[num_items] float32` (NaN where the catalogue knows none) and rows by attribute value."""

    def __init__(self, items: Sequence[CatalogueItem]) -> None:
        known = (np.nan if item.price is None else item.price for item in items)
        self._prices: FloatArray = np.fromiter(known, dtype=np.float32, count=len(items))
        self._rows: dict[tuple[str, str], IntArray] = _rows_by_value(items)
        self._values: dict[int, tuple[tuple[str, str], ...]] = {}
        self._masks: dict[ItemFilters, BoolArray] = {}

    def allowed(self, filters: ItemFilters) -> BoolArray:
        """Which rows pass, `[num_items] bool`, not to be written to. What is not known passes no filter on it."""
        # A `lru_cache` of a bound method would be a cycle, and keep a catalogue in memory that nobody uses any more.
        masks = self._masks
        found = masks.get(filters)
        if found is None:
            found = masks[filters] = self._allowed(filters)
            while len(masks) > MASKS_KEPT:
                masks.pop(next(iter(masks)), None)
        return found

    def put(self, row: int, item: CatalogueItem) -> None:
        """`item` stands at `row` now; only for rows that were empty, or put here before. One caller at a time."""
        for value in self._values.get(row, ()):
            self._rows[value] = self._rows[value][self._rows[value] != row]
        self._prices[row] = np.nan if item.price is None else item.price
        self._values[row] = tuple(attribute_values(item))
        for value in self._values[row]:
            self._rows[value] = np.append(self._rows.get(value, _NO_ROWS), np.int32(row))
        # A new memory of masks: what is being computed by what stood here before is forgotten with the old one.
        self._masks = {}

    def _allowed(self, filters: ItemFilters) -> BoolArray:
        passes = np.ones(self._prices.size, dtype=np.bool_)
        # A comparison with NaN is false, so an unknown price passes no bound.
        if filters.price_min is not None:
            passes &= self._prices >= np.float32(filters.price_min)
        if filters.price_max is not None:
            passes &= self._prices <= np.float32(filters.price_max)
        for one in filters.attributes:
            passes &= self._having(one)
        passes.flags.writeable = False
        return passes

    def _having(self, one: AttributeFilter) -> BoolArray:
        having = np.zeros(self._prices.size, dtype=np.bool_)
        for value in one.values:
            rows = self._rows.get((one.name, value))
            if rows is not None:
                having[rows] = True
        return having


def attribute_values(item: CatalogueItem) -> Iterator[tuple[str, str]]:
    """Every (attribute, value) of an item, each once; brand and creator are attributes too."""
    named = {**item.attributes, "brand": item.brand, "creator": item.creator}
    for name, text in named.items():
        for value in dict.fromkeys(text.split("|")):
            if value:
                yield name, value


def _rows_by_value(items: Sequence[CatalogueItem]) -> dict[tuple[str, str], IntArray]:
    rows: dict[tuple[str, str], list[int]] = {}
    for row, item in enumerate(items):
        for name, value in attribute_values(item):
            rows.setdefault((name, value), []).append(row)
    return {key: np.asarray(found, dtype=np.int32) for key, found in rows.items()}
