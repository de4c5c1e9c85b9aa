"""Candidate sources over a release's tables: pure, quick, each returns its best first.

The nearest neighbours of a vector come from the retrieval process (`region.retrieval`), or from here by brute force
where a filter leaves few enough items.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from infra.contracts.features import RECENT_EVENTS, FloatArray, IntArray
from infra.contracts.messages import Source
from region.funnel.query import History
from region.funnel.tables import ReleaseTables

STRENGTH_LIKED_MIN = 3
"""Neighbours of what was disliked (1) or skipped (2) are not put up."""
BRUTE_FORCE_MAX = 20_000
"""Items of a category that are scored one by one, most popular first, when a filter rules the index out."""
LIVE_PRIOR = 20.0
"""Live counts weigh `count / (largest count + prior)`: a handful of events does not turn the release's trend over."""
TREND_REGION_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Candidates:
    """What one source puts up: `rows [count] int32`, best first, with its own `scores [count] float32`."""

    source: Source
    rows: IntArray
    scores: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Lists of one release that do not depend on the request, as this region sees them.

    `popular`: every row, the region's own favourites first. `trend`: `[num_items] float32`, the release's trend,
    half of it from this region's list where the release has one.
    """

    popular: IntArray
    trend: FloatArray


def standing_of(tables: ReleaseTables, region: str) -> Standing:
    """Build the standing lists of `region`."""
    own = _list_rows(tables, tables.lists.popular, region)
    rest = tables.by_popularity[~np.isin(tables.by_popularity, own)]
    trend = tables.arrays.trend * (1.0 - TREND_REGION_SHARE)
    listed = _list_rows(tables, tables.lists.trending, region)
    if listed.size:
        trend[listed] += TREND_REGION_SHARE * np.linspace(1.0, 0.0, listed.size, endpoint=False, dtype=np.float32)
    return Standing(popular=np.concatenate([own, rest]), trend=trend.astype(np.float32))


def merge_live_trend(standing: Standing, live: Mapping[int, float]) -> FloatArray:
    """The release's trend with this region's counts of the last hours on top; `live` by row. `[num_items] float32`."""
    if not live:
        return standing.trend
    merged = standing.trend.copy()
    scale = max(live.values()) + LIVE_PRIOR
    for row, count in live.items():
        merged[row] += count / scale
    return merged


def popular(tables: ReleaseTables, standing: Standing, *, category: str | None, limit: int) -> Candidates:
    """The most popular items, of one category when it is given."""
    rows = standing.popular if category is None else tables.category_rows[category]
    return Candidates(Source.POPULAR, rows[:limit], tables.arrays.popularity[rows[:limit]])


def trending(tables: ReleaseTables, trend: FloatArray, *, category: str | None, limit: int) -> Candidates:
    """Items by `trend`, those without any left out."""
    rows = np.flatnonzero(trend).astype(np.int32) if category is None else tables.category_rows[category]
    top = rows[_top(trend[rows], limit)]
    top = top[trend[top] > 0.0]
    return Candidates(Source.TRENDING, top, trend[top])


def similar_to_recent(tables: ReleaseTables, history: History, *, limit: int) -> Candidates:
    """Neighbours of the last RECENT_EVENTS liked items; later events weigh more."""
    liked = history.rows[history.strengths >= STRENGTH_LIKED_MIN][-RECENT_EVENTS:][::-1]
    weights = (1.0 / (1.0 + np.arange(liked.size, dtype=np.float32)))[:, None]
    rows = tables.arrays.similar_rows[liked].ravel()
    scores = (tables.arrays.similar_scores[liked] * weights).ravel()
    known = rows >= 0
    unique, inverse = np.unique(rows[known], return_inverse=True)
    summed = np.bincount(inverse, weights=scores[known], minlength=unique.size).astype(np.float32)
    best = _top(summed, limit)
    return Candidates(Source.SIMILAR_TO_RECENT, unique[best].astype(np.int32), summed[best])


def similar(tables: ReleaseTables, anchor: int, *, limit: int) -> Candidates:
    """Items like `anchor`, best first."""
    rows = tables.arrays.similar_rows[anchor]
    rows = rows[rows >= 0][:limit]
    return Candidates(Source.SIMILAR, rows, tables.arrays.similar_scores[anchor][: rows.size])


def nearest_in_category(tables: ReleaseTables, vector: FloatArray, *, category: str, limit: int) -> Candidates:
    """The nearest items of one category by dot product, exact over its BRUTE_FORCE_MAX most popular items."""
    return nearest_among(tables, vector, rows=tables.category_rows[category], limit=limit)


def nearest_among(tables: ReleaseTables, vector: FloatArray, *, rows: IntArray, limit: int) -> Candidates:
    """The nearest of `rows` (most popular first) by dot product, exact over the first BRUTE_FORCE_MAX of them."""
    rows = rows[:BRUTE_FORCE_MAX]
    scores = tables.arrays.vectors[rows] @ vector
    best = _top(scores, limit)
    return Candidates(Source.ANN, rows[best], scores[best])


def _top(scores: FloatArray, limit: int) -> IntArray:
    """Positions of the `limit` largest scores, largest first; equal scores keep their order."""
    if scores.size > limit:
        chosen = np.sort(np.argpartition(-scores, limit - 1)[:limit])
        return chosen[np.argsort(-scores[chosen], kind="stable")].astype(np.int32)
    return np.argsort(-scores, kind="stable").astype(np.int32)


def _list_rows(tables: ReleaseTables, lists: Mapping[str, tuple[str, ...]], region: str) -> IntArray:
    items: Iterable[str] = lists.get(f"region:{region}", ())
    return np.asarray(list(dict.fromkeys(tables.known_rows(items))), dtype=np.int32)
