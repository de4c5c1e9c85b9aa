"""What a release makes of a new item: its vector by the item tower, its neighbours by the index."""

import asyncio
from collections.abc import Sequence

import numpy as np

from infra.contracts.features import FloatArray
from infra.contracts.release import CatalogueItem
from infra.plumbing.errors import UnavailableError
from region.additions.messages import Addition
from region.funnel.release import LoadedRelease
from region.funnel.seats import Placement
from region.funnel.tables import ReleaseContentError, ReleaseTables

SEARCH_TIMEOUT_S = 2.0
STRENGTH_DEFAULT = 0.5
"""Between a dislike and a like: what is assumed of an item without neighbours."""


def category_shares(item: CatalogueItem, tables: ReleaseTables) -> FloatArray:
    """`[num_categories] float32`, equal shares that sum to 1, as training has them; zeros where it knows none."""
    column_of = {name: column for column, name in enumerate(tables.shape.categories)}
    columns = [column_of[name] for name in item.categories if name in column_of]
    shares = np.zeros(tables.shape.num_categories, dtype=np.float32)
    shares[columns] = 1.0 / max(len(columns), 1)
    return shares


async def place(release: LoadedRelease, additions: Sequence[Addition]) -> list[Placement]:
    """Placements of the added items that `release` can embed; the others are left out.

    Without an answer of the index an item has no neighbours, and is found all the same.

    Raises:
        ReleaseContentError: the item tower gives numbers that are not finite.
    """
    items = [(one.item, one.added_at_ms / 1000) for one in additions if one.item is not None]
    shared = [(item, first_s, category_shares(item, release.tables)) for item, first_s in items]
    embeddable = [(item, first_s, shares) for item, first_s, shares in shared if shares.any()]
    known = [(shares, item.year or 0, item.title) for item, _, shares in embeddable]
    vectors = await asyncio.to_thread(_embed, release, known)
    return [
        await _placed(release, item, first_s, shares, vector)
        for (item, first_s, shares), vector in zip(embeddable, vectors, strict=True)
    ]


def _embed(release: LoadedRelease, known: Sequence[tuple[FloatArray, int, str]]) -> list[FloatArray]:
    vectors = [release.towers.item_vector(shares, year, title) for shares, year, title in known]
    if not all(np.isfinite(vector).all() for vector in vectors):
        raise ReleaseContentError(f"the item tower of release {release.release_id} gives numbers that are not finite.")
    return vectors


async def _placed(
    release: LoadedRelease, item: CatalogueItem, first_s: float, shares: FloatArray, vector: FloatArray
) -> Placement:
    tables = release.tables
    wanted = min(tables.arrays.similar_rows.shape[1], tables.shape.num_items)
    rows = np.zeros(0, dtype=np.int32)
    try:
        if vector.any() and wanted:
            rows, _ = await release.retrieval.search(vector, wanted, SEARCH_TIMEOUT_S)
    except (UnavailableError, TimeoutError):
        rows = np.zeros(0, dtype=np.int32)
    # Seats come and go: neighbours are the release's own.
    rows = rows[rows < tables.shape.num_items]
    near = tables.arrays.vectors[rows]
    lengths = np.maximum(np.linalg.norm(near, axis=1) * np.linalg.norm(vector), 1e-12)
    strength = float(tables.arrays.strength[rows].mean()) if rows.size else STRENGTH_DEFAULT
    return Placement(
        item=item, vector=vector, categories=shares, similar_rows=rows,
        similar_scores=np.clip(near @ vector / lengths, 0.0, 1.0).astype(np.float32), strength=strength,
        first_seen_s=first_s,
    )  # fmt: skip
