"""Reading a catalogue: files are mapped and checked once; items are made of their columns when somebody asks."""

import math
import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, overload

import msgspec
import numpy as np
import numpy.typing as npt

from infra.contracts.release import CATALOGUE, CATALOGUE_COLUMNS, CATALOGUE_GROUPS, CatalogueItem
from infra.plumbing.catalogue.columns import (
    SLOT_BYTES,
    Array,
    Groups,
    IntArray,
    Names,
    Texts,
    first_twin,
    spans,
    value_key,
)
from infra.plumbing.catalogue.writing import catalogue_arrays
from infra.plumbing.errors import AtollError
from infra.plumbing.mapped import Span, let_go, whole_pages

_BRAND, _CREATOR = "brand:", "creator:"
GROUP_PARTS: Final = ("slots", "starts", "hashes", "places", "rows", "row_starts")
_OF_EACH_ITEM: Final = ("years", "interactions", "prices", "created", "brands", "creators", "by_popularity")
SAMPLED: Final = 64
"""Items that are looked up by their ids when a catalogue is opened."""
_KINDS: Final[dict[str, type[np.generic]]] = {
    "slots": np.uint8, "starts": np.uint32, "hashes": np.uint64, "places": np.int32, "rows": np.int32,
    "row_starts": np.int64, "years": np.int32, "interactions": np.int64, "prices": np.float64, "created": np.float64,
    "brands": np.int32, "creators": np.int32, "labels": np.int32, "label_starts": np.uint32, "by_popularity": np.int32,
}  # fmt: skip
_attributes = msgspec.json.Decoder(dict[str, str])
Load = Callable[[str], Array]


class CatalogueError(AtollError):
    """A file of a catalogue is missing, damaged, or does not fit the others."""


class Catalogue(Sequence[CatalogueItem]):
    """The items of a release in row order. Safe between threads: nothing is changed.

    `ids`: rows by item id. `categories`: rows by category. `makers`: rows by `brand:NAME` and `creator:NAME`, at most
    MAKER_ROWS_MAX each. All most popular first, as `by_popularity [num_items] int32` is. `prices`, `created_s`:
    `[num_items] float64`, NaN where it is not known. `interactions`: `[num_items] int64`.

    Args:
        load: a file of the release as an array, by its name.

    Raises:
        CatalogueError: an array is of another kind or size than it should be.
    """

    def __init__(self, load: Load) -> None:
        read = {name: _checked(load, name) for name in CATALOGUE_COLUMNS}

        def names(prefix: str, of: Load) -> Names:
            texts = Texts(of(f"{prefix}.slots"), of(f"{prefix}.starts"))
            return Names(texts, of(f"{prefix}.hashes"), of(f"{prefix}.places"))

        def groups(prefix: str) -> Groups:
            own = {(part := f"{prefix}.{name}"): _checked(load, part) for name in GROUP_PARTS}
            return Groups(names(prefix, own.__getitem__), own[f"{prefix}.rows"], own[f"{prefix}.row_starts"])

        self.mapped: tuple[Span, ...] = ()
        """Pages of its files, as long as this is there."""
        self.ids = names("ids", read.__getitem__)
        self.titles = Texts(read["titles.slots"], read["titles.starts"])
        self.categories, self.makers, self._values = (groups(prefix) for prefix in CATALOGUE_GROUPS)
        self.by_popularity: IntArray = read["by_popularity"]
        self.prices: npt.NDArray[np.float64] = read["prices"]
        self.created_s: npt.NDArray[np.float64] = read["created"]
        self.interactions: npt.NDArray[np.int64] = read["interactions"]
        self._attributes = Texts(read["attributes.slots"], read["attributes.starts"])
        self._labels, self._label_starts = read["labels"], read["label_starts"]
        self._label_of, self._first_label = self._labels.data, self._label_starts.data
        self._years, self._price_of, self._created_of, self._interactions_of, self._brands, self._creators = (
            read[name].data for name in ("years", "prices", "created", "interactions", "brands", "creators")
        )

    @classmethod
    def of(cls, items: Iterable[CatalogueItem], popularity: Array) -> "Catalogue":
        """A catalogue in memory.

        Raises:
            CatalogueContentError: see `catalogue_arrays`.
        """
        return cls(catalogue_arrays(items, popularity).__getitem__)

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, row: int) -> CatalogueItem: ...

    @overload
    def __getitem__(self, row: slice) -> "tuple[CatalogueItem, ...]": ...

    def __getitem__(self, row: int | slice) -> "CatalogueItem | tuple[CatalogueItem, ...]":
        if isinstance(row, slice):
            return tuple(self[one] for one in range(*row.indices(len(self))))
        if not 0 <= row < len(self):
            raise IndexError(f"the catalogue has no row {row}.")
        price, created_s, attributes = self._price_of[row], self._created_of[row], self._attributes.raw(row)
        return CatalogueItem(
            item=self.ids.texts[row],
            title=self.titles[row],
            categories=self.categories_of(row),
            year=self._years[row] or None,
            interactions=self._interactions_of[row],
            brand=self._maker(self._brands[row], _BRAND),
            creator=self._maker(self._creators[row], _CREATOR),
            price=None if math.isnan(price) else price,
            created_s=None if math.isnan(created_s) else created_s,
            attributes=_attributes.decode(attributes) if attributes else {},
        )

    def categories_of(self, row: int) -> tuple[str, ...]:
        """The categories of one item, in its own order."""
        texts = self.categories.names.texts
        first, end = self._first_label[row], self._first_label[row + 1]
        return tuple(texts[code] for code in self._label_of[first:end].tolist())

    def are_of(self, rows: IntArray, category: str) -> npt.NDArray[np.bool_]:
        """Which of `rows` are of `category`, `[rows] bool`; the cost is that of the rows."""
        found = np.zeros(rows.size, dtype=np.bool_)
        code = self.categories.names.find(category)
        if code >= 0:
            places, owners = spans(self._label_starts, rows)
            found[owners[self._labels[places] == code]] = True
        return found

    def having(self, name: str, value: str) -> IntArray | None:
        """Rows of the items whose attribute `name` has `value`; None when there are none."""
        return self._values.get(value_key(name, value))

    def summed_by_category(self, values: Array) -> tuple[list[str], npt.NDArray[np.float32]]:
        """Names of all categories, and the sum of `values` (`[num_items]`) over the items of each."""
        counts = self._label_starts[1:] - self._label_starts[:-1]
        sums = np.bincount(self._labels, weights=np.repeat(values, counts), minlength=len(self.categories))
        return list(self.categories), sums.astype(np.float32)

    def summed_by_brand(self, values: Array) -> tuple[list[str], npt.NDArray[np.float32]]:
        """Likewise of all brands."""
        codes = np.asarray(self._brands)
        known = codes >= 0
        sums = np.bincount(codes[known], weights=values[known], minlength=len(self.makers)).astype(np.float32)
        found = [(name, number) for number, name in enumerate(self.makers) if name.startswith(_BRAND)]
        return [name.removeprefix(_BRAND) for name, _ in found], sums[[number for _, number in found]]

    def _maker(self, number: int, kind: str) -> str:
        return "" if number < 0 else self.makers.names.texts[number].removeprefix(kind)


def open_catalogue(release: Path, *, num_items: int | None = None) -> Catalogue:
    """Map the catalogue of the release in the folder `release`; its pages are read when items are asked for.

    Every column is checked once; that reads the files and keeps none of them in memory.

    Args:
        release: the folder.
        num_items: how many there must be; None: as many as there are.

    Raises:
        CatalogueError: a file is missing, is no array, or does not fit the others.
    """
    files: dict[str, np.memmap[Any, Any]] = {}
    arrays: dict[str, Array] = {}

    def load(name: str) -> Array:
        if name not in arrays:
            try:
                files[name] = np.load(release / name, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise CatalogueError(f"{name} cannot be read as an array.") from error
            # A plain array: indexing a memmap object itself costs several times as much.
            arrays[name] = np.asarray(files[name])
        return arrays[name]

    catalogue = Catalogue(load)
    if num_items is not None and len(catalogue) != num_items:
        raise CatalogueError(f"{CATALOGUE} holds {len(catalogue)} items; the manifest says {num_items}.")
    check_catalogue(catalogue, load)
    catalogue.mapped = tuple(
        whole_pages(file.ctypes.data - file.offset % mmap.ALLOCATIONGRANULARITY, file.nbytes) for file in files.values()
    )
    let_go(catalogue.mapped)
    return catalogue


def check_catalogue(catalogue: Catalogue, load: Load) -> None:
    """Hold every column against the others, in NumPy, which lets go of the interpreter meanwhile.

    Raises:
        CatalogueError: a number leads outside of what it is a number of, or an id stands twice.
    """
    count = len(catalogue)
    read = {name: _checked(load, name) for name in (*CATALOGUE_COLUMNS, *_all_parts())}
    for name in _OF_EACH_ITEM:
        _require(len(read[name]) == count, name, f"is not of {count} items")
    for name in ("titles.starts", "attributes.starts", "label_starts"):
        _require(len(read[name]) == count + 1, name, f"is not of {count} items")
    for starts, entries in _spans():
        _check_starts(starts, read[starts], len(read[entries]))
    for name, end in (
        ("labels", len(catalogue.categories)), ("brands", len(catalogue.makers)), ("creators", len(catalogue.makers)),
        *((f"{group}.rows", count) for group in CATALOGUE_GROUPS),
    ):  # fmt: skip
        least = -1 if name in ("brands", "creators") else 0
        own = read[name]
        _require(not own.size or (int(own.min()) >= least and int(own.max()) < end), name, "points outside")
    _require(_is_order(read["by_popularity"], count), "by_popularity", "is no order of the items")
    for prefix in ("ids", *CATALOGUE_GROUPS):
        parts = [read[f"{prefix}.{part}"] for part in ("slots", "starts", "hashes", "places")]
        _require(len(parts[2]) == len(parts[3]) == len(parts[1]) - 1, f"{prefix}.hashes", "does not fit")
        _require(bool((parts[2][1:] >= parts[2][:-1]).all()), f"{prefix}.hashes", "is not in order")
        _require(_is_order(parts[3], len(parts[3])), f"{prefix}.places", "is no order of the texts")
        _require(not first_twin(*parts), f"{prefix}.slots", "names an item twice" if prefix == "ids" else "is double")
    for row in np.linspace(0, max(count - 1, 0), SAMPLED if count else 0).astype(np.int64).tolist():
        _require(catalogue.ids.find(catalogue[row].item) == row, "ids.hashes", "does not find the items")


def _spans() -> Iterator[tuple[str, str]]:
    """Which array says where what begins in which other."""
    for prefix in ("ids", "titles", "attributes", *CATALOGUE_GROUPS):
        yield f"{prefix}.starts", f"{prefix}.slots"
    for prefix in CATALOGUE_GROUPS:
        yield f"{prefix}.row_starts", f"{prefix}.rows"
    yield "label_starts", "labels"


def _check_starts(name: str, starts: Array, end: int) -> None:
    fits = starts.size > 0 and int(starts[0]) == 0 and int(starts[-1]) == end
    _require(fits and bool((starts[1:] >= starts[:-1]).all()), name, "points outside")


def _is_order(places: Array, count: int) -> bool:
    """Whether every number below `count` stands in `places` once."""
    if places.size != count or (count and (int(places.min()) < 0 or int(places.max()) >= count)):
        return False
    seen = np.zeros(count, dtype=np.bool_)
    seen[places] = True
    return bool(seen.all())


def _require(holds: object, name: str, what: str) -> None:
    if not holds:
        raise CatalogueError(f"{file_of(name)} {what}.", fix="Pull the release again, or build it again.")


def file_of(column: str) -> str:
    """Name of the file that a column lies in."""
    return f"{CATALOGUE}{column}.npy"


def _all_parts() -> Iterator[str]:
    return (f"{group}.{part}" for group in CATALOGUE_GROUPS for part in GROUP_PARTS)


def _checked(load: Load, name: str) -> Array:
    """A column, of the kind and form that it must have."""
    column = load(file_of(name))
    kind = np.dtype(_KINDS[name.rpartition(".")[2]])
    wide = name.endswith(".slots")
    fits = column.ndim == (2 if wide else 1) and (not wide or column.shape[1] == SLOT_BYTES)
    if column.dtype != kind or not fits or not column.flags.c_contiguous:
        raise CatalogueError(f"{file_of(name)} is {column.dtype} {list(column.shape)}, which no such column is.")
    return column
