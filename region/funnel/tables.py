"""A release's tables in memory: memory-mapped arrays, the catalogue and its lists, checked against the manifest.

Rows are catalogue rows throughout (`infra.contracts.release`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from infra.contracts.features import GAP_CLASSES, FloatArray, IntArray, ItemLinks, ItemTables
from infra.contracts.release import (
    CATALOGUE,
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
    LISTS,
    RULES,
    SIMILAR_ROWS,
    SIMILAR_SCORES,
    SOON_ROWS,
    SOON_SCORES,
    CatalogueItem,
    Manifest,
    ModelShape,
    ReleaseLists,
    Rules,
)
from infra.plumbing.errors import AtollError
from region.rules.facets import Facets

T = TypeVar("T")


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
    items: tuple[CatalogueItem, ...]
    row_of: Mapping[str, int]
    lists: ReleaseLists
    rules: Rules
    by_popularity: IntArray
    category_rows: Mapping[str, IntArray]
    facets: Facets

    def known_rows(self, items: Iterable[str]) -> list[int]:
        """Rows of those `items` that this release knows, in the order given."""
        row_of = self.row_of
        return [row_of[item] for item in items if item in row_of]

    def is_of_category(self, rows: IntArray, category: str) -> npt.NDArray[np.bool_]:
        """Which of `rows` are of `category`; the cost is that of the rows, not of the catalogue."""
        items = self.items
        return np.fromiter(
            (category in items[row].categories for row in rows.tolist()), dtype=np.bool_, count=rows.size
        )


def load_tables(directory: Path, manifest: Manifest) -> ReleaseTables:
    """Read the tables of the release in `directory`; the big arrays stay on disk and are mapped.

    Raises:
        ReleaseContentError: a file is missing, unreadable, of another shape or type than the manifest says, or holds
            a number that is not finite.
    """
    shape = manifest.shape
    items = _decode(directory / CATALOGUE, tuple[CatalogueItem, ...], msgspec.msgpack.decode)
    if len(items) != shape.num_items:
        raise ReleaseContentError(f"{CATALOGUE} holds {len(items)} items; the manifest says {shape.num_items}.")
    row_of = {item.item: row for row, item in enumerate(items)}
    if len(row_of) != len(items):
        raise ReleaseContentError(f"{CATALOGUE} names an item twice.")
    arrays = _load_arrays(directory, shape)
    by_popularity = np.argsort(-arrays.popularity, kind="stable").astype(np.int32)
    return ReleaseTables(
        release_id=manifest.release_id,
        shape=shape,
        arrays=arrays,
        items=items,
        row_of=row_of,
        lists=_decode(directory / LISTS, ReleaseLists, msgspec.json.decode),
        rules=_decode(directory / RULES, Rules, msgspec.json.decode),
        by_popularity=by_popularity,
        category_rows=_category_rows(items, by_popularity),
        facets=Facets(items),
    )


def _load_arrays(directory: Path, shape: ModelShape) -> ItemTables:
    count = shape.num_items
    single = np.dtype(np.float32)
    similar = _load_links(directory, SIMILAR_ROWS, SIMILAR_SCORES, (count, None))
    return ItemTables(
        vectors=_load_array(directory / ITEM_VECTORS, single, (count, shape.dim)),
        popularity=_load_array(directory / ITEM_POPULARITY, single, (count,)),
        trend=_load_array(directory / ITEM_TREND, single, (count,)),
        strength=_load_array(directory / ITEM_STRENGTH, single, (count,)),
        first_seen_s=_load_array(directory / ITEM_FIRST_SEEN, np.dtype(np.float64), (count,)),
        categories=_load_array(directory / ITEM_CATEGORIES, single, (count, shape.num_categories)),
        similar_rows=similar.rows,
        similar_scores=similar.scores,
        followers=_load_links(directory, FOLLOWER_ROWS, FOLLOWER_SCORES, (count, GAP_CLASSES, None)),
        soon=_load_links(directory, SOON_ROWS, SOON_SCORES, (count, None)),
        ease=_load_links(directory, EASE_ROWS, EASE_SCORES, (count, None)),
    )


def _load_links(directory: Path, rows_name: str, scores_name: str, shape: tuple[int | None, ...]) -> ItemLinks:
    rows = _load_array(directory / rows_name, np.dtype(np.int32), shape)
    if rows.size and (int(rows.max()) >= rows.shape[0] or int(rows.min()) < -1):
        raise ReleaseContentError(f"{rows_name} points outside the catalogue of {rows.shape[0]} items.")
    return ItemLinks(rows, _load_array(directory / scores_name, np.dtype(np.float32), rows.shape))


def _load_array(path: Path, dtype: np.dtype[Any], shape: tuple[int | None, ...]) -> npt.NDArray[Any]:
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ReleaseContentError(f"{path.name} cannot be read as an array.") from error
    fits = len(mapped.shape) == len(shape) and all(
        want in (None, have) for want, have in zip(shape, mapped.shape, strict=True)
    )
    if mapped.dtype != dtype or not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ReleaseContentError(
            f"{path.name} is {mapped.dtype} {list(mapped.shape)}; the manifest asks for {dtype} [{wanted}]."
        )
    # A plain view of the mapped pages: indexing a memmap object itself costs several times as much.
    array = np.asarray(mapped)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ReleaseContentError(f"{path.name} holds numbers that are not finite.")
    return array


def _decode(path: Path, kind: type[T], decode: Any) -> T:
    try:
        decoded: T = decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReleaseContentError(f"{path.name} cannot be read: {error}.") from error
    return decoded


def _category_rows(items: tuple[CatalogueItem, ...], by_popularity: IntArray) -> dict[str, IntArray]:
    rows: dict[str, list[int]] = {}
    for row in by_popularity.tolist():
        for category in items[row].categories:
            rows.setdefault(category, []).append(row)
    return {category: np.asarray(found, dtype=np.int32) for category, found in rows.items()}


def unit_rows(vectors: FloatArray) -> FloatArray:
    """`[count, dim]` vectors scaled to length one; zero vectors stay zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: FloatArray = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
    return scaled
