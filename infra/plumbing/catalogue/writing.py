"""Making the columns of a catalogue out of its items: one pass, a few bytes an item beside the texts themselves."""

import math
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from infra.contracts.release import CATALOGUE, CatalogueItem
from infra.plumbing.catalogue.columns import SLOT_BYTES, Array, IntArray, first_twin, text_hash, value_key
from infra.plumbing.errors import InvalidInputError

MAKER_ROWS_MAX: Final = 200
"""Items that are listed of one brand or creator, the most popular."""
_NOBODY: Final = -1
_SLOTS_MAX: Final = 2**32


class CatalogueContentError(InvalidInputError):
    """Items that no catalogue can hold."""


def write_catalogue(release: Path, items: Iterable[CatalogueItem], popularity: Array) -> None:
    """Write the catalogue's files into the folder of a release.

    Args:
        release: the folder.
        items: in row order; read once.
        popularity: `[items]`, of each.

    Raises:
        CatalogueContentError: an id stands twice, a text ends with NUL, or a number is not finite.
    """
    (release / CATALOGUE).mkdir()
    for name, column in catalogue_arrays(items, popularity).items():
        np.save(release / name, column, allow_pickle=False)


def catalogue_arrays(items: Iterable[CatalogueItem], popularity: Array) -> dict[str, Array]:
    """The same as arrays by file name.

    Raises:
        CatalogueContentError: see `write_catalogue`.
    """
    columns = _Columns()
    for item in items:
        columns.add(item)
    if len(columns.years) != len(popularity):
        raise CatalogueContentError(f"{len(columns.years)} items have {len(popularity)} popularities.")
    by_popularity = np.argsort(-popularity, kind="stable").astype(np.int32)
    return {f"{CATALOGUE}{name}.npy": column for name, column in columns.arrays(by_popularity)}


def attribute_values(item: CatalogueItem) -> Iterator[tuple[str, str]]:
    """Every (attribute, value) of an item, each once; brand and creator are attributes too."""
    named = {**item.attributes, "brand": item.brand, "creator": item.creator}
    for name, text in named.items():
        for value in dict.fromkeys(text.split("|")):
            if value:
                yield name, value


class _Texts:
    """Texts, one behind the other, each in slots of its own."""

    def __init__(self) -> None:
        self._slots = bytearray()
        self._starts = array("Q", [0])

    def add(self, raw: bytes) -> None:
        if raw.endswith(b"\0"):
            raise CatalogueContentError("a text of the catalogue ends with a NUL.", fix="Take it off.")
        self._slots += raw
        self._slots += bytes(-len(raw) % SLOT_BYTES)
        self._starts.append(len(self._slots) // SLOT_BYTES)

    def arrays(self, prefix: str) -> Iterator[tuple[str, Array]]:
        if self._starts[-1] >= _SLOTS_MAX:
            raise CatalogueContentError(f"the {prefix} of the catalogue take more than 64 GB.")
        yield f"{prefix}.slots", np.frombuffer(self._slots, dtype=np.uint8).reshape(-1, SLOT_BYTES)
        yield f"{prefix}.starts", np.frombuffer(self._starts, dtype=np.uint64).astype(np.uint32)


class _Names:
    """Different texts and the hashes that they are found by."""

    def __init__(self) -> None:
        self._texts = _Texts()
        self._hashes = array("Q")

    def add(self, text: str) -> None:
        raw = text.encode()
        self._texts.add(raw)
        self._hashes.append(text_hash(raw))

    def arrays(self, prefix: str) -> Iterator[tuple[str, Array]]:
        yield from self._texts.arrays(prefix)
        hashes = np.frombuffer(self._hashes, dtype=np.uint64)
        order = np.argsort(hashes, kind="stable")
        yield f"{prefix}.hashes", hashes[order]
        yield f"{prefix}.places", order.astype(np.int32)


class _Groups:
    """Which rows have what in common."""

    def __init__(self, *, rows_max: int | None = None) -> None:
        self._rows_max = rows_max
        self._number_of: dict[str, int] = {}
        self._codes, self._rows = array("i"), array("i")

    def add(self, name: str, row: int) -> int:
        code = self._number_of.setdefault(name, len(self._number_of))
        self._codes.append(code)
        self._rows.append(row)
        return code

    def arrays(self, prefix: str, rank: IntArray) -> Iterator[tuple[str, Array]]:
        names = _Names()
        for name in self._number_of:
            names.add(name)
        yield from names.arrays(prefix)
        codes, rows = (np.frombuffer(one, dtype=np.int32) for one in (self._codes, self._rows))
        order = np.lexsort((rank[rows], codes))
        codes, rows = codes[order], rows[order]
        counts = np.bincount(codes, minlength=len(self._number_of))
        if self._rows_max is not None:
            place = np.arange(codes.size) - (np.cumsum(counts) - counts)[codes]
            rows, counts = rows[place < self._rows_max], np.minimum(counts, self._rows_max)
        yield f"{prefix}.rows", rows
        yield f"{prefix}.row_starts", np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


class _Columns:
    """Everything, as it grows item by item."""

    def __init__(self) -> None:
        self.names, self.titles, self.attributes = _Names(), _Texts(), _Texts()
        self.years, self.interactions = array("i"), array("q")
        self.prices, self.created = array("d"), array("d")
        self.brands, self.creators = array("i"), array("i")
        self.labels, self.label_starts = array("i"), array("I", [0])
        self.categories, self.makers, self.values = _Groups(), _Groups(rows_max=MAKER_ROWS_MAX), _Groups()

    def add(self, item: CatalogueItem) -> None:
        row = len(self.years)
        self.names.add(item.item)
        self.titles.add(item.title.encode())
        self.attributes.add(msgspec.json.encode(item.attributes) if item.attributes else b"")
        self.years.append(item.year or 0)
        self.interactions.append(item.interactions)
        for numbers, number in ((self.prices, item.price), (self.created, item.created_s)):
            if number is not None and not math.isfinite(number):
                raise CatalogueContentError(f"the item {item.item[:80]!r} has a number that is not finite.")
            numbers.append(math.nan if number is None else number)
        self.brands.append(self.makers.add(f"brand:{item.brand}", row) if item.brand else _NOBODY)
        self.creators.append(self.makers.add(f"creator:{item.creator}", row) if item.creator else _NOBODY)
        self.labels.extend(self.categories.add(name, row) for name in item.categories)
        self.label_starts.append(len(self.labels))
        for name, value in attribute_values(item):
            self.values.add(value_key(name, value), row)

    def arrays(self, by_popularity: IntArray) -> Iterator[tuple[str, Array]]:
        ids = dict(self.names.arrays("ids"))
        _refuse_twins(ids)
        yield from ids.items()
        yield from self.titles.arrays("titles")
        yield from self.attributes.arrays("attributes")
        for name, column, kind in (
            ("years", self.years, np.int32), ("interactions", self.interactions, np.int64),
            ("prices", self.prices, np.float64), ("created", self.created, np.float64),
            ("brands", self.brands, np.int32), ("creators", self.creators, np.int32),
            ("labels", self.labels, np.int32), ("label_starts", self.label_starts, np.uint32),
        ):  # fmt: skip
            yield name, np.frombuffer(column, dtype=kind)
        yield "by_popularity", by_popularity
        rank = np.empty_like(by_popularity)
        rank[by_popularity] = np.arange(by_popularity.size, dtype=np.int32)
        for prefix, groups in (("categories", self.categories), ("makers", self.makers), ("values", self.values)):
            yield from groups.arrays(prefix, rank)


def _refuse_twins(ids: dict[str, Array]) -> None:
    """Refuse ids that stand twice: they have the same hash."""
    twin = first_twin(*(ids[f"ids.{part}"] for part in ("slots", "starts", "hashes", "places")))
    if twin:
        raise CatalogueContentError(f"the item {twin[:80]!r} stands twice in the catalogue.", fix="Ids name one item.")
