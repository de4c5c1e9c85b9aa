"""Candidate sources over a release's tables: pure, quick, each returns its best first.

The nearest neighbours of a vector come from the retrieval process (`region.retrieval`), or from here by brute force
where a filter leaves few enough items.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.ma  # `np.unique` imports it at its first call, which would be in somebody's list

from infra.contracts.features import RECENT_EVENTS, FloatArray, IntArray
from infra.contracts.messages import SLATE_ITEMS_MAX, Source
from region.funnel.query import History
from region.funnel.tables import ReleaseTables
from region.rules.facets import BEST_MAX, Allowed, first_of

STRENGTH_LIKED_MIN = 3
"""Neighbours of what was disliked (1) or skipped (2) are not put up."""
BRUTE_FORCE_MAX = 20_000
"""Items of a category that are scored one by one, most popular first, when a filter rules the index out."""
LIVE_PRIOR = 20.0
"""Live counts weigh `count / (largest count + prior)`: a handful of events does not turn the release's trend over."""
TREND_REGION_SHARE = 0.5
NEW_S = 30 * 86_400.0
NEWEST_KEPT = SLATE_ITEMS_MAX
TREND_KEPT = 2 * SLATE_ITEMS_MAX
"""Rows of a trend that are kept in order: what may be shown, and as much again for filters."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """What one source puts up: `rows [count] int32`, best first, with its own `scores [count] float32`."""

    source: Source
    rows: IntArray
    scores: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Lists of one release that do not depend on the request, as this region sees them.

    `popular`: every row, the region's own favourites first, of which `own` are these. `trend`: `[rows] float32`,
    the release's trend, half of it from this region's list where the release has one. `trend_best`: the first
    TREND_KEPT rows by trend, and `trend_best_in` those of each category: a request reads these, never all of `trend`.
    """

    popular: IntArray
    trend: FloatArray
    trend_best: IntArray
    trend_best_in: Mapping[str, IntArray]
    own: IntArray
    newest: IntArray
    """The first NEWEST_KEPT of those first seen within NEW_S of the youngest, youngest first."""

    def passing(self, allowed: Allowed) -> IntArray:
        """`popular` without the rows that do not pass, as far as `allowed.best` goes."""
        own = self.own[allowed[self.own]]
        return np.concatenate([own, allowed.best[~np.isin(allowed.best, own)]])


def standing_of(tables: ReleaseTables, region: str) -> Standing:
    """Build the standing lists of `region`."""
    own = _list_rows(tables, tables.lists.popular, region)
    rest = tables.by_popularity[~np.isin(tables.by_popularity, own)]
    trend = tables.arrays.trend * (1.0 - TREND_REGION_SHARE)
    listed = _list_rows(tables, tables.lists.trending, region)
    if listed.size:
        trend[listed] += TREND_REGION_SHARE * np.linspace(1.0, 0.0, listed.size, endpoint=False, dtype=np.float32)
    trend = trend.astype(np.float32)
    return Standing(
        popular=np.concatenate([own, rest]),
        own=own,
        trend=trend,
        trend_best=_top(trend[: tables.shape.num_items], TREND_KEPT),
        newest=_newest(tables),
        trend_best_in={name: rows[_top(trend[rows], TREND_KEPT)] for name, rows in tables.category_rows.items()},
    )


class Trend:
    """The release's trend with this region's counts of the last hours on top, kept at the size of what is shown.

    Args:
        tables: of the release.
        standing: its lists as the region sees them.
        live: points of the last hours, by row.
    """

    def __init__(self, tables: ReleaseTables, standing: Standing, live: Mapping[int, float]) -> None:
        self._tables = tables
        self._standing = standing
        self._rows = np.fromiter(live, dtype=np.int32, count=len(live))
        scale = max(live.values(), default=0.0) + LIVE_PRIOR
        self._bonus = np.fromiter((count / scale for count in live.values()), dtype=np.float32, count=len(live))
        self._best: dict[str | None, Candidates] = {}

    def best(self, category: str | None, limit: int) -> Candidates:
        """The first `limit` items by trend, of one category when it is given; those without any left out."""
        found = self._best.get(category)
        if found is None:
            found = self._best[category] = self._ordered(category)
        return Candidates(Source.TRENDING, found.rows[:limit], found.scores[:limit])

    def _ordered(self, category: str | None) -> Candidates:
        standing, live, bonus = self._standing, self._rows, self._bonus
        base = standing.trend_best if category is None else standing.trend_best_in.get(category, live[:0])
        if category is not None:
            own = self._tables.is_of_category(live, category)
            live, bonus = live[own], bonus[own]
        rows = np.union1d(base, live).astype(np.int32)
        scores = standing.trend[rows]
        scores[np.searchsorted(rows, live)] += bonus
        best = _top(scores, TREND_KEPT)
        best = best[scores[best] > 0.0]
        return Candidates(Source.TRENDING, rows[best], scores[best])


def popular(tables: ReleaseTables, standing: Standing, *, category: str | None, limit: int) -> Candidates:
    """The most popular items, of one category when it is given."""
    rows = standing.popular if category is None else tables.category_rows[category]
    return Candidates(Source.POPULAR, rows[:limit], tables.arrays.popularity[rows[:limit]])


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


def nothing(source: Source) -> Candidates:
    """What a source puts up that has nothing to say."""
    return Candidates(source, np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32))


def last_liked(history: History) -> int | None:
    """The latest item of the history that was not disliked or skipped."""
    liked = history.rows[history.strengths >= STRENGTH_LIKED_MIN]
    return int(liked[-1]) if liked.size else None


def similar(tables: ReleaseTables, anchor: int, *, limit: int) -> Candidates:
    """Items like `anchor`, best first."""
    rows = tables.arrays.similar_rows[anchor]
    rows = rows[rows >= 0][:limit]
    return Candidates(Source.SIMILAR, rows, tables.arrays.similar_scores[anchor][: rows.size])


def newest(tables: ReleaseTables, standing: Standing, *, category: str | None, limit: int) -> Candidates:
    """What is new, latest first, of one category when it is given: what came after the release, then its youngest."""
    rows = np.concatenate([tables.seats.rows, standing.newest])
    rows = rows if category is None else rows[tables.is_of_category(rows, category)]
    return Candidates(Source.NEW, rows[:limit], np.linspace(1.0, 0.0, rows[:limit].size, dtype=np.float32))


def together(tables: ReleaseTables, anchor: int, *, limit: int) -> Candidates:
    """Items that are often taken within a few events of `anchor`, best first."""
    rows = tables.arrays.soon.rows[anchor]
    rows = rows[rows >= 0][:limit]
    return Candidates(Source.TOGETHER, rows, tables.arrays.soon.scores[anchor][: rows.size])


def passing_of_category(tables: ReleaseTables, category: str, allowed: Allowed | None) -> IntArray:
    """The release's rows of a category, most popular first; with filters the first BEST_MAX that pass."""
    if allowed is not None and allowed.is_whole:
        return allowed.best[tables.is_of_category(allowed.best, category)]
    rows = tables.category_rows[category]
    return rows if allowed is None else first_of(rows, allowed.passing, BEST_MAX, there_are=rows.size)


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


def _newest(tables: ReleaseTables) -> IntArray:
    seen_s = tables.arrays.first_seen_s[: tables.shape.num_items]
    young = np.flatnonzero(seen_s > seen_s.max(initial=0.0) - NEW_S).astype(np.int32)
    return young[np.argsort(-seen_s[young], kind="stable")[:NEWEST_KEPT]]


def _list_rows(tables: ReleaseTables, lists: Mapping[str, tuple[str, ...]], region: str) -> IntArray:
    items: Iterable[str] = lists.get(f"region:{region}", ())
    return np.asarray(list(dict.fromkeys(tables.known_rows(items))), dtype=np.int32)
