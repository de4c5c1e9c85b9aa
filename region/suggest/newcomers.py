"""What came after the release, by the first letters of its words: few enough to be looked at one by one."""

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

from infra.contracts.release import CatalogueItem
from infra.plumbing.text import folded, word_starts
from region.funnel.seats import Seats
from region.suggest.terms import TERM_MAX, WORDS_MAX

NO_ROWS: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Newcomers:
    """Rows of new items and their brands, latest first, each with the folded text from each of its words on."""

    items: tuple[tuple[int, tuple[str, ...]], ...] = ()
    brands: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def rows(self, wanted: str) -> tuple[int, ...]:
        """Rows of the items with a word that begins like `wanted` (folded)."""
        return tuple(row for row, terms in self.items if any(term.startswith(wanted) for term in terms))

    def brands_like(self, wanted: str) -> tuple[str, ...]:
        """Likewise names of their brands."""
        return tuple(name for name, terms in self.brands if any(term.startswith(wanted) for term in terms))

    def has(self, wanted: str) -> bool:
        """Whether there is any."""
        return bool(self.rows(wanted) or self.brands_like(wanted))


class NewcomerBook:
    """Newcomers of each release in memory, made anew when its seats change. Safe between threads."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[Seats, tuple[int, Newcomers]] = weakref.WeakKeyDictionary()
        self._mutex = threading.Lock()

    def of(self, seats: Seats, items: Sequence[CatalogueItem]) -> Newcomers:
        """Those who sit there now."""
        edition = seats.edition
        with self._mutex:
            kept = self._known.get(seats)
        if kept is not None and kept[0] == edition:
            return kept[1]
        seated = [(row, items[row]) for row in seats.rows.tolist()]
        brands = dict.fromkeys(item.brand for _, item in seated if item.brand)
        found = Newcomers(
            items=tuple((row, _terms(item.title)) for row, item in seated),
            brands=tuple((name, _terms(name)) for name in brands),
        )
        with self._mutex:
            self._known[seats] = edition, found
        return found


def _terms(text: str) -> tuple[str, ...]:
    return tuple(term for term in word_starts(folded(text)[:TERM_MAX], limit=WORDS_MAX) if term)
