"""Popularity and trend of every item, and the ready-made lists of a release."""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from central.datasets.aggregates import RegionCounts
from central.datasets.interactions import Interactions
from infra.contracts.features import FloatArray, IntArray
from infra.contracts.release import TREND_WINDOW_S, ReleaseLists

LIST_ITEMS: Final = 100
SIMILAR_LIST_ITEMS: Final = 20
SIMILAR_LISTS_MAX: Final = 10_000
"""Items with a list of similar ones, the most popular: an edge reads all lists at once, and holds them."""
STRENGTH_PRIOR: Final = 10.0
"""Interactions of mean strength that every item is taken to have had besides its own."""
STRENGTH_MAX: Final = 5.0

Counts = npt.NDArray[np.float64]


def item_counts(data: Interactions, ends: npt.NDArray[np.int64]) -> Counts:
    """`[num_items]`: interactions before each user's end."""
    return _count(data, _visible(data, ends))


def recent_counts(data: Interactions, ends: npt.NDArray[np.int64]) -> Counts:
    """`[num_items]`: interactions in the last TREND_WINDOW_S of what is visible."""
    return _count(data, _recent(data, _visible(data, ends)))


def log_share(counts: Counts) -> FloatArray:
    """`log1p(counts)` over its maximum: in [0, 1], what `ITEM_POPULARITY` and `ITEM_TREND` hold."""
    scaled = np.log1p(counts)
    share: FloatArray = (scaled / max(float(scaled.max(initial=0.0)), 1e-9)).astype(np.float32)
    return share


def mean_strength(data: Interactions, ends: npt.NDArray[np.int64]) -> FloatArray:
    """`[num_items]` in [0, 1]: how strong the visible interactions are, shrunk towards the mean of all."""
    visible = _visible(data, ends)
    counts = _count(data, visible)
    sums = np.bincount(data.rows[visible], weights=data.strengths[visible], minlength=len(data.items))
    everywhere = float(sums.sum()) / max(float(counts.sum()), 1.0)
    mean = (sums + STRENGTH_PRIOR * everywhere) / (counts + STRENGTH_PRIOR)
    share: FloatArray = (mean / STRENGTH_MAX).astype(np.float32)
    return share


def first_seen(data: Interactions, ends: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """`[num_items]`: Unix seconds of an item's first visible interaction; of the last of all where it has none."""
    visible = _visible(data, ends)
    latest = float(data.times_s[visible].max()) if visible.size else 0.0
    seen = np.full(len(data.items), latest)
    np.minimum.at(seen, data.rows[visible], data.times_s[visible])
    return seen


def release_lists(
    data: Interactions, ends: npt.NDArray[np.int64], similar_rows: IntArray, *, counted: Sequence[RegionCounts] = ()
) -> ReleaseLists:
    """The fallback lists: popular and trending over all, by region and by category, and similar items.

    Where the trend window holds too little, popular items fill a trending list up. What is popular in a region that
    counted for itself is by its counts, whether the dataset has users of it or not (it gets no trending list of them:
    they know no time); and where the data knows too few similar items, those that people have together follow.
    """
    visible = _visible(data, ends)
    recent = _recent(data, visible)
    popular: dict[str, tuple[str, ...]] = {}
    trending: dict[str, tuple[str, ...]] = {}
    everyone = _count(data, visible)
    for key, mask, allowed in _audiences(data):
        counts, trend = _count(data, visible[mask[visible]]), _count(data, recent[mask[recent]])
        # The next column breaks ties and fills up: a region's list falls back on everyone.
        popular[key] = _best(data, allowed, (counts, everyone))
        trending[key] = _best(data, allowed, (trend, counts, everyone))
    for one in counted:
        every = np.ones(len(data.items), dtype=np.bool_)
        popular[f"region:{one.region}"] = _best(data, every, (one.users, everyone))
    similar = _similar(data, everyone, similar_rows, counted)
    ids, titles = data.items.ids, data.items.titles
    listed = {item for lists in (popular, trending, similar) for own in lists.values() for item in own} | similar.keys()
    named = {item: title for item, title in zip(ids, titles, strict=True) if title and item in listed}
    return ReleaseLists(popular=popular, trending=trending, similar=similar, titles=named)


def _similar(
    data: Interactions, everyone: Counts, similar_rows: IntArray, counted: Sequence[RegionCounts]
) -> dict[str, tuple[str, ...]]:
    """Similar items of the most popular ones: the data's own, then what regions counted together with them."""
    ids = data.items.ids
    found = {}
    for row in np.sort(np.argsort(-everyone, kind="stable")[:SIMILAR_LISTS_MAX]).tolist():
        own = similar_rows[row][similar_rows[row] >= 0][:SIMILAR_LIST_ITEMS].tolist()
        together = (near for one in counted for near in one.partners.get(row, ()))
        found[ids[row]] = tuple(ids[near] for near in dict.fromkeys((*own, *together)))[:SIMILAR_LIST_ITEMS]
    return found


def _audiences(data: Interactions) -> Iterable[tuple[str, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]:
    """Key, which interactions count, which items may stand in the list."""
    every = np.ones(data.rows.size, dtype=np.bool_)
    all_items = np.ones(len(data.items), dtype=np.bool_)
    yield "all", every, all_items
    for number, region in enumerate(data.regions):
        yield f"region:{region}", data.user_regions[data.users] == number, all_items
    for number, category in enumerate(data.items.categories):
        yield f"category:{category}", every, data.items.weights[:, number] > 0.0


def _best(data: Interactions, allowed: npt.NDArray[np.bool_], counts: tuple[Counts, ...]) -> tuple[str, ...]:
    order = np.lexsort(tuple(-column for column in reversed(counts)))
    return tuple(data.items.ids[row] for row in order[allowed[order]][:LIST_ITEMS])


def _visible(data: Interactions, ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.flatnonzero(np.arange(data.rows.size) < ends[data.users])


def _recent(data: Interactions, visible: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    if not visible.size:
        return visible
    times = data.times_s[visible]
    recent: npt.NDArray[np.int64] = visible[times > times.max() - TREND_WINDOW_S]
    return recent


def _count(data: Interactions, which: npt.NDArray[np.int64]) -> Counts:
    return np.bincount(data.rows[which], minlength=len(data.items)).astype(np.float64)
