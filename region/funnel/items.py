"""The items of a release as requests read them: out of its mapped catalogue, and behind it who sits in a spare row."""

from collections.abc import Iterator, MutableMapping, Sequence
from typing import TypeVar, overload

import numpy as np
import numpy.typing as npt

from infra.contracts.features import IntArray
from infra.contracts.release import CatalogueItem
from infra.plumbing.catalogue.reading import Catalogue

T = TypeVar("T")
MADE_MAX = 16_384
"""Items that were made of their columns and are kept: lists show the same few again and again."""
ROWS_MAX = 65_536
"""Ids whose rows are kept: of a small catalogue all that anybody ever asks for."""
NOBODY = CatalogueItem(item="")


class Items(Sequence[CatalogueItem]):
    """Items by row. Safe between threads, one of which may seat.

    Args:
        catalogue: of the release.
        spare_rows: seats behind it; `NOBODY` sits there until somebody does.
    """

    def __init__(self, catalogue: Catalogue, *, spare_rows: int) -> None:
        self._catalogue = catalogue
        self._own = len(catalogue)
        self._count = self._own + spare_rows
        self._seated: dict[int, CatalogueItem] = {}
        self._made: dict[int, CatalogueItem] = {}

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, row: int) -> CatalogueItem: ...

    @overload
    def __getitem__(self, row: slice) -> tuple[CatalogueItem, ...]: ...

    def __getitem__(self, row: int | slice) -> CatalogueItem | tuple[CatalogueItem, ...]:
        if isinstance(row, slice):
            return tuple(self[one] for one in range(*row.indices(self._count)))
        found = self._made.get(row)
        if found is not None:
            return found
        if row >= self._own:
            if row >= self._count:
                raise IndexError(f"there is no row {row}.")
            return self._seated.get(row, NOBODY)
        if len(self._made) >= MADE_MAX:
            # A new dictionary: whoever fills the old one meanwhile fills what nobody reads.
            self._made = {}
        made = self._made[row] = self._catalogue[row]
        return made

    def glance(self, row: int) -> CatalogueItem:
        """The item of a row for one look: what is made for it is not kept in place of what lists show."""
        found = self._made.get(row)
        if found is None:
            found = self._catalogue[row] if row < self._own else self._seated.get(row, NOBODY)
        return found

    def __setitem__(self, row: int, item: CatalogueItem) -> None:
        """`item` sits in a spare row from now on."""
        if not self._own <= row < self._count:
            raise IndexError(f"row {row} is no seat.")
        self._seated[row] = item

    def are_of(self, rows: IntArray, category: str) -> npt.NDArray[np.bool_]:
        """Which of `rows` are of `category`, `[rows] bool`; the cost is that of the rows, not of the catalogue."""
        own = rows < self._own
        if own.all():
            return self._catalogue.are_of(rows, category)
        found = np.zeros(rows.size, dtype=np.bool_)
        found[own] = self._catalogue.are_of(rows[own], category)
        for place in np.flatnonzero(~own).tolist():
            found[place] = category in self._seated.get(int(rows[place]), NOBODY).categories
        return found


class RowOf(MutableMapping[str, int]):
    """Rows by item id: the catalogue's, and those of seated items. What is written is of a seat.

    Args:
        catalogue: of the release.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._seated: dict[str, int] = {}
        self._known: dict[str, int] = {}

    def __getitem__(self, item: str) -> int:
        known = self._known.get(item)
        if known is not None:
            return known
        row = self._catalogue.ids.find(item)
        if row < 0:
            return self._seated[item]
        if len(self._known) >= ROWS_MAX:
            # A new dictionary: whoever fills the old one meanwhile fills what nobody reads.
            self._known = {}
        self._known[item] = row
        return row

    @overload
    def get(self, item: str, default: None = None) -> int | None: ...

    @overload
    def get(self, item: str, default: int | T) -> int | T: ...

    def get(self, item: str, default: int | T | None = None) -> int | T | None:
        """The row of `item`, or `default`. A request asks for a history's: most are known, at the price of one look."""
        known = self._known.get(item)
        if known is not None:
            return known
        try:
            return self[item]
        except KeyError:
            return default

    def __contains__(self, item: object) -> bool:
        return isinstance(item, str) and self.get(item) is not None

    def __setitem__(self, item: str, row: int) -> None:
        if self._catalogue.ids.find(item) < 0:
            self._seated[item] = row

    def __delitem__(self, item: str) -> None:
        del self._seated[item]

    def __iter__(self) -> Iterator[str]:
        yield from (self._catalogue.ids.texts[row] for row in range(len(self._catalogue)))
        yield from tuple(self._seated)

    def __len__(self) -> int:
        return len(self._catalogue) + len(self._seated)
