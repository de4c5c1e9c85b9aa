"""Baselines in the same table as the model: popularity, first-order Markov, nearest items, iALS, EASE."""

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.sparse

from central.datasets.interactions import Interactions
from central.evaluation.ials import factorise
from central.training.ease import ease_scores, ease_weights
from infra.contracts.features import RECENT_EVENTS, FloatArray, ItemTables

Scorer = Callable[[npt.NDArray[np.int64]], FloatArray]
"""Scores `[queries, num_items]` for the interactions at the given positions, from the history before each."""

_TIE_BREAK = 1e-6
IALS_FACTORS: Final = 64
IALS_ITERATIONS: Final = 15
IALS_REGULARIZATION: Final = 0.05
IALS_ALPHAS: Final = (1.0, 10.0, 40.0)
"""Weights of an observed interaction to choose from (Hu, Koren and Volinsky, 2008)."""
IALS_TRIED_MAX: Final = 2000


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


def ease_scorer(data: Interactions, ends: npt.NDArray[np.int64], penalty: float) -> Scorer:
    """EASE with all its weights (the ranker's feature keeps the largest); popularity breaks ties."""
    share = _share(data, ends)
    one = ease_scores(data, *ease_weights(data, ends, penalty))

    def score(at: npt.NDArray[np.int64]) -> FloatArray:
        return np.stack([one(place) for place in at.tolist()]) + _TIE_BREAK * share

    return score


def ials_scorer(
    data: Interactions, ends: npt.NDArray[np.int64], *, valid_ends: npt.NDArray[np.int64],
    valid_at: npt.NDArray[np.int64], seed: int = 0,
) -> Scorer:  # fmt: skip
    """Matrix factorisation for implicit feedback (iALS); the weight of an interaction is chosen by validation.

    Args:
        data: the dataset.
        ends: `[num_users]`, exclusive end of what the scorer may know.
        valid_ends: the same while the weight is chosen; nothing of `valid_at` may lie before it.
        valid_at: positions to choose by.
        seed: of the start and of the sample of `valid_at`.
    """
    tried = np.sort(np.random.default_rng(seed).permutation(valid_at)[:IALS_TRIED_MAX])

    def validated(alpha: float) -> float:
        scores = _factorised(data, valid_ends, alpha, IALS_ITERATIONS // 2, seed)(tried)
        own = scores[np.arange(tried.size), data.rows[tried]][:, None]
        return float(np.mean(1.0 / (1.0 + (scores > own).sum(axis=1))))

    best = max(IALS_ALPHAS, key=validated) if tried.size else IALS_ALPHAS[0]
    return _factorised(data, ends, best, IALS_ITERATIONS, seed)


def _factorised(data: Interactions, ends: npt.NDArray[np.int64], alpha: float, iterations: int, seed: int) -> Scorer:
    visible = np.flatnonzero((np.arange(data.rows.size) < ends[data.users]) & (data.strengths > 1))
    entries = (np.ones(visible.size, dtype=np.float32), (data.users[visible], data.rows[visible]))
    taken = scipy.sparse.csr_matrix(entries, shape=(data.num_users, len(data.items)))
    taken.data[:] = 1.0
    users, items = factorise(
        taken, factors=IALS_FACTORS, iterations=iterations, regularization=IALS_REGULARIZATION, alpha=alpha, seed=seed
    )

    def score(at: npt.NDArray[np.int64]) -> FloatArray:
        scores: FloatArray = users[data.users[at]] @ items.T
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
