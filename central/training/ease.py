"""EASE (Steck, 2019): the item-to-item weights of a linear autoencoder without a diagonal, in closed form."""

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse

from central.datasets.interactions import Interactions
from infra.contracts.features import FloatArray

ITEMS_MAX: Final = 12_000
"""Solved over this many items, the most popular ones: the time grows with the third power."""
PENALTIES: Final = (50.0, 200.0, 800.0)
"""L2 penalties to choose from by validation; Steck found a few hundred for MovieLens."""
TRIED_MAX: Final = 2000


def ease_weights(
    data: Interactions, ends: npt.NDArray[np.int64], penalty: float
) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Weights `[m, m] float32` from an item of the history (row) to an item to recommend, and the m catalogue rows.

    Args:
        data: the dataset; dislikes (strength 1) do not count.
        ends: `[num_users]`, exclusive end of each user's visible part.
        penalty: the L2 penalty.
    """
    visible = np.flatnonzero((np.arange(data.rows.size) < ends[data.users]) & (data.strengths > 1))
    rows = data.rows[visible]
    counts = np.bincount(rows, minlength=len(data.items))
    chosen = np.sort(np.argsort(-counts, kind="stable")[:ITEMS_MAX])
    chosen = chosen[counts[chosen] > 0]
    place = np.full(len(data.items), -1, dtype=np.int64)
    place[chosen] = np.arange(chosen.size)
    kept = place[rows] >= 0
    entries = (np.ones(int(kept.sum()), dtype=np.float32), (data.users[visible][kept], place[rows][kept]))
    taken = scipy.sparse.csr_matrix(entries, shape=(data.num_users, chosen.size))
    taken.data[:] = 1.0  # an item taken twice counts once
    gram = (taken.T @ taken).toarray().astype(np.float32)
    gram[np.diag_indices_from(gram)] += penalty
    inverse = scipy.linalg.inv(gram, overwrite_a=True, check_finite=False)
    weights: FloatArray = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights.astype(np.float32), chosen


def choose_penalty(
    data: Interactions, ends: npt.NDArray[np.int64], at: npt.NDArray[np.int64], *, seed: int = 0
) -> float:
    """The one of PENALTIES whose weights rank the interactions at `at` best (mean reciprocal rank).

    Args:
        data: the dataset.
        ends: `[num_users]`, exclusive end of each user's visible part; nothing of `at` may lie before it.
        at: positions to predict; a sample of TRIED_MAX is looked at.
        seed: of that sample.
    """
    if not at.size:
        return PENALTIES[1]
    tried = np.random.default_rng(seed).permutation(at)[:TRIED_MAX]
    found = []
    for penalty in PENALTIES:
        weights, chosen = ease_weights(data, ends, penalty)
        scorer = ease_scores(data, weights, chosen)
        found.append(float(np.mean([_reciprocal_rank(scorer(place), data, place) for place in tried.tolist()])))
    return PENALTIES[int(np.argmax(found))]


def ease_scores(data: Interactions, weights: FloatArray, chosen: npt.NDArray[np.int64]) -> Callable[[int], FloatArray]:
    """A function from a position to the scores `[num_items]` that its user's history gives."""
    place = np.full(len(data.items), -1, dtype=np.int64)
    place[chosen] = np.arange(chosen.size)

    def score(at: int) -> FloatArray:
        past = slice(int(data.starts[data.users[at]]), at)
        known = place[np.unique(data.rows[past][data.strengths[past] > 1])]
        scores = np.zeros(len(data.items), dtype=np.float32)
        scores[chosen] = weights[known[known >= 0]].sum(axis=0)
        return scores

    return score


def _reciprocal_rank(scores: FloatArray, data: Interactions, at: int) -> float:
    scores[data.rows[data.starts[data.users[at]] : at]] = -np.inf
    own = scores[data.rows[at]]
    return 0.0 if np.isneginf(own) else 1.0 / float((scores >= own).sum())
