"""The suggestions of one release, loaded: what a few letters may mean, the most popular first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from infra.plumbing.text import folded
from region.suggest.building import BRANDS, CATEGORIES, IDS_FILE, ITEMS, NAMES_FILE, WORDS_FILE
from region.suggest.terms import TermIndex
from region.suggest.typos import Speller


@dataclass(frozen=True, slots=True)
class Found:
    """Items by id with their popularity, and names of categories and brands; `meant`: the text after corrections."""

    items: tuple[tuple[str, float], ...]
    categories: tuple[str, ...]
    brands: tuple[str, ...]
    meant: str

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.items) + len(self.categories) + len(self.brands)


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestIndex:
    """One release's. Safe between threads."""

    release: str
    items: TermIndex
    categories: TermIndex
    brands: TermIndex
    names: dict[str, list[str]]
    ids: npt.NDArray[np.bytes_]
    speller: Speller

    @classmethod
    def load(cls, folder: Path) -> "SuggestIndex":
        """The index in `folder`, which is named after its release.

        Raises:
            OSError, ValueError: it is not whole.
        """
        names = msgspec.json.decode((folder / NAMES_FILE).read_bytes(), type=dict[str, list[str]])
        words = msgspec.json.decode((folder / WORDS_FILE).read_bytes(), type=list[str])
        return cls(
            release=folder.name, items=TermIndex.load(folder / ITEMS), categories=TermIndex.load(folder / CATEGORIES),
            brands=TermIndex.load(folder / BRANDS), names=names, ids=np.load(folder / IDS_FILE, mmap_mode="r"),
            speller=Speller(words),
        )  # fmt: skip

    def find(self, text: str, *, also: Callable[[str], bool] = lambda _wanted: False) -> Found:
        """What `text` may be the beginning of; corrected where it is the beginning of nothing, here nor `also`."""
        wanted = folded(text)
        found = self._exact(wanted)
        if found.count or not wanted or also(wanted):
            return found
        return next((one for meant in self.speller.corrections(wanted) if (one := self._exact(meant)).count), found)

    def _exact(self, wanted: str) -> Found:
        rows = self.items.find(wanted)
        items = zip(self.ids[rows].tolist(), self.items.popularity[rows].tolist(), strict=True)
        return Found(
            items=tuple((item.decode(), value) for item, value in items),
            categories=_named(self.categories.find(wanted).tolist(), self.names[CATEGORIES]),
            brands=_named(self.brands.find(wanted).tolist(), self.names[BRANDS]),
            meant=wanted,
        )


def _named(places: Sequence[int], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(names[place] for place in places)
