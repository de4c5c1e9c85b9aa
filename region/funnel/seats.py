"""Seats of a release: rows behind its own for items that come before the next release.

A new item takes a row in every table, so sources, features, rules and slates read it as they read all others. Writing
goes row first, name last: whoever finds the name finds a whole row.
"""

import threading
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from infra.contracts.features import FloatArray, IntArray, ItemLinks, ItemTables
from infra.contracts.release import CatalogueItem
from infra.plumbing.errors import OverloadedError

SEATS = 1_024
"""Rows that a release keeps for new items."""
REST_S = 60.0
"""A row that was left is not given to another item before: a request of before may still show what sat there."""
_NO_ROWS: IntArray = np.zeros(0, dtype=np.int32)


class NoSeatError(OverloadedError):
    """Every row for new items is taken, or was left just now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What a release knows of a new item.

    `vector [dim]`, `categories [num_categories]` shares, its neighbours (`[count]` rows and scores, best first),
    `strength` 0 to 1, when it came (Unix seconds).
    """

    item: CatalogueItem
    vector: FloatArray
    categories: FloatArray
    similar_rows: IntArray
    similar_scores: FloatArray
    strength: float
    first_seen_s: float


class SeatPlan(Protocol):
    """Whoever has to know of an item by its row."""

    def __setitem__(self, row: int, item: CatalogueItem, /) -> None:
        """`item` sits at `row` now."""
        ...


class FilterPlan(Protocol):
    """Whoever has to know what an item may be filtered by."""

    def put(self, row: int, item: CatalogueItem) -> None:
        """`item` sits at `row` now."""
        ...


class Seats:
    """Who sits where. Safe between threads.

    Args:
        first_row: of the seats: the release's number of items.
        spare: the writable rows behind the release's tables; None: this release seats nobody.
        items, row_of: of the release; seats are entered into both.
        facets: told what callers may filter by.
    """

    def __init__(
        self, *, first_row: int, spare: ItemTables | None, items: SeatPlan, row_of: MutableMapping[str, int],
        facets: FilterPlan,
    ) -> None:  # fmt: skip
        self.first_row = first_row
        self.edition = 0
        """Goes up with every change, so that what was derived from the seats can be kept until then."""
        self.rows: IntArray = _NO_ROWS
        """Rows that are taken, latest first. Replaced, never changed."""
        self.left: frozenset[int] = frozenset()
        """Rows whose item went: nobody may be shown them."""
        self._spare = spare
        self._items = items
        self._row_of = row_of
        self._facets = facets
        self._held: dict[int, CatalogueItem] = {}
        self._by_target: tuple[int, dict[str, list[int]]] = (0, {})
        """Of an edition: rows of what can be followed, latest first."""
        self._left_s: dict[int, float] = {}
        self._used = 0
        self._mutex = threading.Lock()
        for rows in _link_rows(spare):
            rows[...] = -1

    @classmethod
    def none(cls) -> "Seats":
        """Of a release without room for new items."""
        return cls(first_row=0, spare=None, items={}, row_of={}, facets=_NoFilters())

    def check_room(self, count: int, *, now_s: float) -> None:
        """Refuse more new items than there are rows for.

        Raises:
            NoSeatError: there are not `count` rows.
        """
        with self._mutex:
            unused = (0 if self._spare is None else len(self._spare.vectors)) - self._used
            if count > unused + len(self._rested(now_s)):
                raise NoSeatError("this release has no row left for so many items.", fix="Try again in a minute.")

    def seat(self, placements: Sequence[Placement], *, now_s: float) -> None:
        """Seat items, or renew what is known of those that sit already.

        Raises:
            NoSeatError: there is no row left for one of them; those before it sit.
        """
        with self._mutex:
            for placement in placements:
                row = self._row_of.get(placement.item.item)
                if row is None:
                    row = self._free_row(now_s)
                self._write(row, placement)
                self._row_of[placement.item.item] = row
                self._left_s.pop(row, None)
                taken = self.rows[self.rows != row]
                self.rows = np.concatenate([np.asarray([row], dtype=np.int32), taken])
                self._changed()

    def leave(self, names: Sequence[str], *, now_s: float) -> None:
        """These items go; those that do not sit here are passed over."""
        with self._mutex:
            for name in names:
                row = self._row_of.get(name)
                if row is None or row < self.first_row:
                    continue
                self._left_s[row] = now_s
                self.rows = self.rows[self.rows != row]
                self._changed()
                del self._row_of[name]

    def followed_as(self, target: str) -> IntArray:
        """Rows of the items that `target` (`category:NAME`, `brand:NAME`, `creator:NAME`) stands for, latest first.

        Looked up: going through all seats for each of a hundred targets took longer than a list may.
        """
        edition, found = self._by_target
        if edition != self.edition:
            found = self._targets()
        return np.asarray(found.get(target, ()), dtype=np.int32)

    def _targets(self) -> dict[str, list[int]]:
        with self._mutex:
            found: dict[str, list[int]] = {}
            for row in self.rows.tolist():
                item = self._held[row]
                makers = ((kind, getattr(item, kind)) for kind in ("brand", "creator"))
                own = [f"category:{name}" for name in item.categories] + [
                    f"{kind}:{name}" for kind, name in makers if name
                ]
                for target in dict.fromkeys(own):
                    found.setdefault(target, []).append(row)
            self._by_target = (self.edition, found)
        return found

    def _changed(self) -> None:
        self.left = frozenset(self._left_s)
        self.edition += 1

    def _free_row(self, now_s: float) -> int:
        size = 0 if self._spare is None else len(self._spare.vectors)
        if self._used < size:
            self._used += 1
            return self.first_row + self._used - 1
        rested = self._rested(now_s)
        if not rested:
            raise NoSeatError("this release has no row left for a new item.", fix="Try again in a minute.")
        return min(rested, key=lambda row: self._left_s[row])

    def _rested(self, now_s: float) -> list[int]:
        return [row for row, left_s in self._left_s.items() if now_s - left_s >= REST_S]

    def _write(self, row: int, placement: Placement) -> None:
        spare = self._spare
        if spare is None:
            raise NoSeatError("this release has no room for new items.")
        place = row - self.first_row
        spare.vectors[place] = placement.vector
        spare.categories[place] = placement.categories
        spare.strength[place] = placement.strength
        spare.first_seen_s[place] = placement.first_seen_s
        spare.similar_scores[place], spare.similar_rows[place] = 0.0, -1
        near = min(placement.similar_rows.size, spare.similar_rows.shape[1])
        spare.similar_rows[place, :near] = placement.similar_rows[:near]
        spare.similar_scores[place, :near] = placement.similar_scores[:near]
        self._items[row] = self._held[row] = placement.item
        self._facets.put(row, placement.item)


class _NoFilters:
    """Of a release without room for new items."""

    def put(self, row: int, item: CatalogueItem) -> None:
        """Nobody filters by it."""


def _link_rows(spare: ItemTables | None) -> list[IntArray]:
    """The rows of every table of links: what was never written to leads nowhere."""
    if spare is None:
        return []
    links: tuple[ItemLinks, ...] = (spare.followers, spare.soon, spare.ease)
    return [spare.similar_rows, *(one.rows for one in links)]
