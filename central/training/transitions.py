"""What comes next after an item: first-order transitions by the gap in time, and what follows within a few steps."""

from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.sparse

from central.datasets.interactions import Interactions
from central.training.sparse_rows import best_of_sparse, bounded_length
from infra.contracts.features import GAP_CLASSES, ItemLinks, gap_class

FOLLOWERS: Final = 64
"""Followers that an item keeps for each class of gaps."""
STEPS: Final = 10
"""How far apart two events may lie to count as one soon after the other; nearer ones count more."""
PRIOR: Final = 5.0
"""Events that the estimate over all gaps is worth in the estimate for one class of gaps, and nothing in the former."""
FLOOR: Final = 1e-3
"""Probabilities far below this are all the same; above it the score grows with their logarithm."""


def follower_links(data: Interactions, ends: npt.NDArray[np.int64]) -> ItemLinks:
    """Followers `[num_items, GAP_CLASSES, length]` and their scores in [0, 1]; see `ItemTables`.

    The probability that the column is next, given the row and the class of the gap in between, shrunk towards the
    estimate over all gaps; its score is log(1 + p / FLOOR), scaled.
    """
    first = _pairs(data, ends, 1)
    gaps = gap_class(data.times_s[first + 1] - data.times_s[first])
    everywhere = _shares(_count(data, first, 1), PRIOR)
    length = bounded_length(FOLLOWERS, len(data.items), tables=GAP_CLASSES)
    rows = np.full((len(data.items), GAP_CLASSES, length), -1, dtype=np.int32)
    scores = np.zeros((len(data.items), GAP_CLASSES, length), dtype=np.float32)
    for kind in range(GAP_CLASSES):
        counts = _count(data, first[gaps == kind], 1)
        weight = 1.0 / (np.asarray(counts.sum(axis=1)).ravel() + PRIOR)
        share = scipy.sparse.diags(weight) @ (counts + PRIOR * everywhere)
        rows[:, kind], scores[:, kind] = best_of_sparse(_logarithmic(share), length)
    return ItemLinks(rows, scores)


def soon_links(data: Interactions, ends: npt.NDArray[np.int64]) -> ItemLinks:
    """Items `[num_items, length]` that follow within STEPS events, and their scores in [0, 1]."""
    shape = (len(data.items), len(data.items))
    total = scipy.sparse.csr_matrix(shape, dtype=np.float64)
    for distance in range(1, STEPS + 1):
        total = total + _count(data, _pairs(data, ends, distance), distance) / distance
    return best_of_sparse(_logarithmic(_shares(total, PRIOR)), bounded_length(FOLLOWERS, len(data.items)))


def _pairs(data: Interactions, ends: npt.NDArray[np.int64], distance: int) -> npt.NDArray[np.int64]:
    """Positions whose user has another visible event of another item `distance` events later; dislikes count too."""
    first = np.flatnonzero(np.arange(distance, data.rows.size) < ends[data.users[:-distance]])
    pairs: npt.NDArray[np.int64] = first[data.rows[first] != data.rows[first + distance]]
    return pairs


def _count(data: Interactions, first: npt.NDArray[np.int64], distance: int) -> scipy.sparse.csr_matrix:
    entries = (np.ones(first.size), (data.rows[first], data.rows[first + distance]))
    return scipy.sparse.coo_matrix(entries, shape=(len(data.items), len(data.items))).tocsr()


def _shares(counts: scipy.sparse.csr_matrix, prior: float) -> scipy.sparse.csr_matrix:
    total = np.asarray(counts.sum(axis=1)).ravel()
    return (scipy.sparse.diags(1.0 / (total + prior)) @ counts).tocsr()


def _logarithmic(shares: scipy.sparse.csr_matrix) -> scipy.sparse.csr_matrix:
    scored = shares.tocsr().copy()
    scored.data = np.log1p(scored.data / FLOOR) / np.log1p(1.0 / FLOOR)
    return scored
