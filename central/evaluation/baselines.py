"""Baselines in the same table as the model: popularity, first-order Markov, nearest items."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scipy.sparse

from central.datasets.interactions import Interactions
from infra.contracts.features import RECENT_EVENTS, FloatArray, ItemTables

Scorer = Callable[[npt.NDArray[np.int64]], FloatArray]
"""Scores `[queries, num_items]` for the interactions at the given positions, from the history before each."""

_TIE_BREAK = 1e-6


def popularity_scorer(data: Interactions, ends: npt.NDArray[np.int64]) -> Scorer:
    """Everybody gets the most frequent items of the visible part."""
    share = _share(data, ends)
    return lambda at: np.broadcast_to(share, (len(at), share.size)).copy()


def markov_scorer(data: Interactions, ends: npt.NDArray[np.int64]) -> Scorer:
    """What most often followed the last item; popularity breaks ties."""
    share = _share(data, ends)
    follows = _transitions(data, ends)

    def score(at: npt.NDArray[np.int64]) -> FloatArray:
        dense: FloatArray = follows[data.rows[at - 1]].toarray().astype(np.float32)
        return dense + _TIE_BREAK * share

    return score


def nearest_items_scorer(data: Interactions, ends: npt.NDArray[np.int64], tables: ItemTables) -> Scorer:
    """Sum of item-to-item scores over the last RECENT_EVENTS items, later ones weighing more."""
    share = _share(data, ends)

    def score(at: npt.NDArray[np.int64]) -> FloatArray:
        scores = np.tile(_TIE_BREAK * share, (len(at), 1))
        for line, place in enumerate(at):
            recent = data.rows[max(data.starts[data.users[place]], place - RECENT_EVENTS) : place][::-1]
            neighbours = tables.similar_rows[recent]
            weight = tables.similar_scores[recent] / (1.0 + np.arange(len(recent)))[:, None]
            known = neighbours >= 0
            np.add.at(scores[line], neighbours[known], weight[known])
        return scores

    return score


def _share(data: Interactions, ends: npt.NDArray[np.int64]) -> FloatArray:
    seen = np.arange(data.rows.size) < ends[data.users]
    counts = np.bincount(data.rows[seen], minlength=len(data.items))
    share: FloatArray = (counts / max(int(counts.max(initial=0)), 1)).astype(np.float32)
    return share


def _transitions(data: Interactions, ends: npt.NDArray[np.int64]) -> scipy.sparse.csr_matrix:
    """`[num_items, num_items]`: how often the column came right after the row."""
    first = np.flatnonzero(np.arange(1, data.rows.size + 1) < ends[data.users])
    first = first[data.users[first] == data.users[first + 1]] if first.size else first
    pairs = (np.ones(first.size), (data.rows[first], data.rows[first + 1]))
    return scipy.sparse.coo_matrix(pairs, shape=(len(data.items), len(data.items))).tocsr()
