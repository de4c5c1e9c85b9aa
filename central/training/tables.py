"""What training, evaluation and a release know about every item, from the visible part of the data."""

import numpy as np
import numpy.typing as npt

from central.datasets.interactions import Interactions
from central.training.popularity import item_counts, log_share, recent_counts
from central.training.similar import similar_items
from infra.contracts.features import FloatArray, ItemTables, QueryState


def item_tables(data: Interactions, ends: npt.NDArray[np.int64], vectors: FloatArray) -> ItemTables:
    """The tables that `infra.contracts.features.ranking_features` reads.

    Args:
        data: the dataset.
        ends: `[num_users]`, exclusive end of each user's visible part.
        vectors: `[num_items, dim] float32` of the item tower.
    """
    similar_rows, similar_scores = similar_items(data, ends)
    return ItemTables(
        vectors=vectors,
        popularity=log_share(item_counts(data, ends)),
        trend=log_share(recent_counts(data, ends)),
        categories=data.items.weights,
        similar_rows=similar_rows,
        similar_scores=similar_scores,
    )


def query_state(data: Interactions, at: int, vector: FloatArray) -> QueryState:
    """The history before position `at`, asked at the moment of `at`."""
    start = data.starts[data.users[at]]
    return QueryState(data.rows[start:at], data.strengths[start:at], data.times_s[start:at], data.times_s[at], vector)
