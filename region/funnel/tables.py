"""A release's tables in memory: memory-mapped arrays, the catalogue and its lists, checked against the manifest.

Rows are catalogue rows throughout (`infra.contracts.release`); behind them stand the seats of new items
(`region.funnel.seats`), in every table.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from infra.contracts.features import (
    GAP_CLASSES,
    LIGHT_FEATURES,
    LIGHT_WEIGHTS,
    FloatArray,
    IntArray,
    ItemLinks,
    ItemTables,
)
from infra.contracts.release import (
    EASE_ROWS,
    EASE_SCORES,
    FOLLOWER_ROWS,
    FOLLOWER_SCORES,
    ITEM_CATEGORIES,
    ITEM_FIRST_SEEN,
    ITEM_POPULARITY,
    ITEM_STRENGTH,
    ITEM_TREND,
    ITEM_VECTORS,
    LIGHT,
    LISTS,
    RULES,
    SIMILAR_ROWS,
    SIMILAR_SCORES,
    SOON_ROWS,
    SOON_SCORES,
    AudienceLists,
    LightRanker,
    Manifest,
    ModelShape,
    Rules,
)
from infra.plumbing.catalogue.reading import CatalogueError, open_catalogue
from infra.plumbing.errors import AtollError
from infra.plumbing.mapped import Span, let_go, pages_within, whole_pages
from region.funnel.items import Items, RowOf
from region.funnel.seats import SEATS, Seats
from region.funnel.spare import map_with_spare
from region.rules.facets import Facets

T = TypeVar("T")
CHECKED_AT_ONCE = 1 << 20
"""Numbers of a table that are looked through at once: what that takes for itself stays small."""


class ReleaseContentError(AtollError):
    """A file of the release is not what its manifest says; the release cannot be served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseTables:
    """Everything about items that a request may need.

    `arrays` are the tables that training and serving share; `row_of` maps item ids to rows; `by_popularity` is
    `[num_items] int32`, most popular first; `category_rows` holds the rows of each category, most popular first;
    `facets` says which rows pass a caller's filters.
    """

    release_id: str
    shape: ModelShape
    arrays: ItemTables
    items: Items
    row_of: Mapping[str, int]
    lists: AudienceLists
    rules: Rules
    light: FloatArray
    """L1's weight for each of LIGHT_FEATURES."""
    by_popularity: IntArray
    category_rows: Mapping[str, IntArray]
    facets: Facets
    maker_rows: Mapping[str, IntArray] = field(default_factory=dict)
    """Rows by `brand:NAME` and `creator:NAME`, most popular first, at most `MAKER_ROWS_MAX` of the catalogue each."""
    seats: Seats = field(default_factory=Seats.none)
    """Rows behind the release's own, for items that came after it."""
    mapped: tuple[Span, ...] = ()
    """Pages of its files, as long as these tables are there."""

    def known_rows(self, items: Iterable[str]) -> list[int]:
        """Rows of those `items` that this release knows, in the order given."""
        find = self.row_of.get
        return [row for item in items if (row := find(item)) is not None]

    def holds(self, item: str) -> bool:
        """Whether `item` is one of the release's own, not one that came after it."""
        row = self.row_of.get(item)
        return row is not None and row < self.shape.num_items

    def is_of_category(self, rows: IntArray, category: str) -> npt.NDArray[np.bool_]:
        """Which of `rows` are of `category`; the cost is that of the rows, not of the catalogue."""
        return self.items.are_of(rows, category)


def load_tables(directory: Path, manifest: Manifest) -> ReleaseTables:
    """Read the tables of the release in `directory`; the big arrays stay on disk and are mapped.

    Raises:
        ReleaseContentError: a file is missing, unreadable, of another shape or type than the manifest says, or holds
            a number that is not finite.
    """
    shape = manifest.shape
    try:
        catalogue = open_catalogue(directory, num_items=shape.num_items)
    except CatalogueError as error:
        raise ReleaseContentError(error.message, fix=error.fix) from error
    arrays, spare, pages = _load_arrays(directory, shape)
    items, row_of = Items(catalogue, spare_rows=SEATS), RowOf(catalogue)
    facets = Facets(catalogue, spare_rows=SEATS)
    return ReleaseTables(
        release_id=manifest.release_id,
        shape=shape,
        arrays=arrays,
        items=items,
        row_of=row_of,
        lists=_decode(directory / LISTS, AudienceLists, msgspec.json.decode),
        rules=_decode(directory / RULES, Rules, msgspec.json.decode),
        light=_light_weights(directory),
        by_popularity=catalogue.by_popularity,
        category_rows=catalogue.categories,
        maker_rows=catalogue.makers,
        facets=facets,
        mapped=(*pages, *catalogue.mapped),
        seats=Seats(first_row=shape.num_items, spare=spare, items=items, row_of=row_of, facets=facets),
    )


def _light_weights(directory: Path) -> FloatArray:
    """What the release carries, or the usual weights; a feature that neither names weighs nothing."""
    path = directory / LIGHT
    weights = _decode(path, LightRanker, msgspec.json.decode).weights if path.is_file() else LIGHT_WEIGHTS
    row: FloatArray = np.asarray([weights.get(name, 0.0) for name in LIGHT_FEATURES], dtype=np.float32)
    if not np.isfinite(row).all():
        raise ReleaseContentError(f"{LIGHT} holds weights that are not finite.")
    return row


def _load_arrays(directory: Path, shape: ModelShape) -> tuple[ItemTables, ItemTables, tuple[Span, ...]]:
    """The tables with the seats behind them; the seats alone, which may be written to; the pages of the files."""
    count, single, whole_numbers = shape.num_items, np.dtype(np.float32), np.dtype(np.int32)
    loaded: dict[str, _Mapped] = {}
    for name, dtype, wanted in (
        (ITEM_VECTORS, single, (count, shape.dim)),
        (ITEM_POPULARITY, single, (count,)),
        (ITEM_TREND, single, (count,)),
        (ITEM_STRENGTH, single, (count,)),
        (ITEM_FIRST_SEEN, np.dtype(np.float64), (count,)),
        (ITEM_CATEGORIES, single, (count, shape.num_categories)),
    ):
        loaded[name] = _load_array(directory / name, dtype, wanted)
    for rows_name, scores_name, tail in (
        (SIMILAR_ROWS, SIMILAR_SCORES, (None,)),
        (FOLLOWER_ROWS, FOLLOWER_SCORES, (GAP_CLASSES, None)),
        (SOON_ROWS, SOON_SCORES, (None,)),
        (EASE_ROWS, EASE_SCORES, (None,)),
    ):
        rows = loaded[rows_name] = _load_array(directory / rows_name, whole_numbers, (count, *tail), end=count)
        loaded[scores_name] = _load_array(directory / scores_name, single, rows.whole[:count].shape)
    return (
        _as_tables({name: one.whole for name, one in loaded.items()}),
        _as_tables({name: one.spare for name, one in loaded.items()}),
        tuple(one.pages for one in loaded.values()),
    )


def _as_tables(arrays: Mapping[str, npt.NDArray[Any]]) -> ItemTables:
    return ItemTables(
        vectors=arrays[ITEM_VECTORS],
        popularity=arrays[ITEM_POPULARITY],
        trend=arrays[ITEM_TREND],
        strength=arrays[ITEM_STRENGTH],
        first_seen_s=arrays[ITEM_FIRST_SEEN],
        categories=arrays[ITEM_CATEGORIES],
        similar_rows=arrays[SIMILAR_ROWS],
        similar_scores=arrays[SIMILAR_SCORES],
        followers=ItemLinks(arrays[FOLLOWER_ROWS], arrays[FOLLOWER_SCORES]),
        soon=ItemLinks(arrays[SOON_ROWS], arrays[SOON_SCORES]),
        ease=ItemLinks(arrays[EASE_ROWS], arrays[EASE_SCORES]),
    )


class _Mapped(NamedTuple):
    """A table with its seats, the seats alone, and the pages of its file, of which the last may be half a seat's."""

    whole: npt.NDArray[Any]
    spare: npt.NDArray[Any]
    pages: Span


def _load_array(
    path: Path, dtype: np.dtype[Any], shape: tuple[int | None, ...], *, end: int = 0
) -> _Mapped:  # fmt: skip
    """A table, mapped; `end`: what its whole numbers stay below.

    It is looked through by a mapping of its own, which goes: pages that no request reads take no memory. They are let
    go of on the way: a mapping that ends with all of them would hold the interpreter for tens of milliseconds.
    """
    try:
        read = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ReleaseContentError(f"{path.name} cannot be read as an array.") from error
    fits = len(read.shape) == len(shape) and all(
        want in (None, have) for want, have in zip(shape, read.shape, strict=True)
    )
    if read.dtype != dtype or not fits or not read.flags.c_contiguous:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ReleaseContentError(
            f"{path.name} is {read.dtype} {list(read.shape)}; the manifest asks for {dtype} [{wanted}]."
        )
    rows_at_once = max(1, CHECKED_AT_ONCE // max(1, read[:1].size))
    for start in range(0, len(read), rows_at_once):
        part = read[start : start + rows_at_once]
        if dtype.kind == "f" and not np.isfinite(part).all():
            raise ReleaseContentError(f"{path.name} holds numbers that are not finite.")
        if dtype.kind == "i" and part.size and (int(part.max()) >= end or int(part.min()) < -1):
            raise ReleaseContentError(f"{path.name} points outside the catalogue of {end} items.")
        let_go([pages_within(part.ctypes.data, part.nbytes)])
    try:
        # Plain arrays over the mapped pages: indexing a memmap object itself costs several times as much.
        mapped = map_with_spare(path, offset=read.offset, dtype=dtype, shape=read.shape, spare_rows=SEATS)
    except OSError as error:
        raise ReleaseContentError(f"{path.name} cannot be read as an array.") from error
    begins = mapped[0].ctypes.data - read.offset
    return _Mapped(*mapped, pages=whole_pages(begins, read.offset + read.nbytes))


def _decode(path: Path, kind: type[T], decode: Any) -> T:
    try:
        decoded: T = decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReleaseContentError(f"{path.name} cannot be read: {error}.") from error
    return decoded


def unit_rows(vectors: FloatArray) -> FloatArray:
    """`[count, dim]` vectors scaled to length one; zero vectors stay zero."""
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    scaled: FloatArray = (vectors / np.maximum(norms, np.float32(1e-12))[:, None]).astype(np.float32, copy=False)
    return scaled
