"""What training, evaluation and a release know about every item, from the visible part of the data."""

from typing import Final

import numpy as np
import numpy.typing as npt

from central.datasets.interactions import Interactions
from central.training.ease import ease_weights
from central.training.popularity import first_seen, item_counts, log_share, mean_strength, recent_counts
from central.training.similar import similar_items
from central.training.sparse_rows import bounded_length, furthest_of_dense
from central.training.transitions import follower_links, soon_links
from infra.contracts.features import FloatArray, ItemLinks, ItemTables, QueryState

EASE_NEIGHBOURS: Final = 128
"""Weights that an item keeps, those furthest from zero. What lies behind them moves the sum over a history little; what
speaks against an item lies before them as often as what speaks for it."""


def item_tables(
    data: Interactions, ends: npt.NDArray[np.int64], vectors: FloatArray, *, ease_penalty: float
) -> ItemTables:
    """The tables that `infra.contracts.features.ranking_features` reads.

    Args:
        data: the dataset.
        ends: `[num_users]`, exclusive end of each user's visible part.
        vectors: `[num_items, dim] float32` of the item tower.
        ease_penalty: chosen by validation.
    """
    similar_rows, similar_scores = similar_items(data, ends)
    return ItemTables(
        vectors=vectors,
        popularity=log_share(item_counts(data, ends)),
        trend=log_share(recent_counts(data, ends)),
        strength=mean_strength(data, ends),
        first_seen_s=first_seen(data, ends),
        categories=data.items.weights,
        similar_rows=similar_rows,
        similar_scores=similar_scores,
        followers=follower_links(data, ends),
        soon=soon_links(data, ends),
        ease=_ease_links(data, ends, ease_penalty),
    )


def query_state(data: Interactions, at: int, vector: FloatArray) -> QueryState:
    """The history before position `at`, asked at the moment of `at`."""
    start = data.starts[data.users[at]]
    return QueryState(data.rows[start:at], data.strengths[start:at], data.times_s[start:at], data.times_s[at], vector)


def _ease_links(data: Interactions, ends: npt.NDArray[np.int64], penalty: float) -> ItemLinks:
    """The weights of every item that are furthest from zero, of both signs, in catalogue rows."""
    weights, chosen = ease_weights(data, ends, penalty)
    length = min(bounded_length(EASE_NEIGHBOURS, len(data.items)), chosen.size)
    near = furthest_of_dense(weights, length)
    rows = np.full((len(data.items), length), -1, dtype=np.int32)
    scores = np.zeros((len(data.items), length), dtype=np.float32)
    rows[chosen] = np.where(near.rows >= 0, chosen[near.rows], -1)
    scores[chosen] = near.scores
    return ItemLinks(rows, scores)
