"""Item-to-item lists: what people take close to each other, in time order, with shrinkage."""

from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.sparse

from central.datasets.interactions import Interactions
from infra.contracts.features import FloatArray, IntArray

NEIGHBOURS: Final = 50
WINDOW: Final = 10
"""Two interactions of one user count together when at most this many steps lie between them."""
SHRINKAGE: Final = 10.0
BLOCK: Final = 2048


def similar_items(
    data: Interactions, ends: npt.NDArray[np.int64], *, neighbours: int = NEIGHBOURS
) -> tuple[IntArray, FloatArray]:
    """Nearest items of every item by shrunk cosine of co-occurrence within WINDOW steps, nearer steps counting more.

    Dislikes (strength 1) do not count. Scores are scaled by the largest one, so they lie in [0, 1].

    Args:
        data: the dataset.
        ends: `[num_users]`, position at which each user's visible part ends.
        neighbours: length of a list.

    Returns:
        rows `[num_items, neighbours] int32`, best first, -1 behind the last, and scores of the same shape.
    """
    together = _co_occurrence(data, ends)
    mass = np.asarray(together.sum(axis=1)).ravel()
    similar_rows = np.full((len(data.items), neighbours), -1, dtype=np.int32)
    scores = np.zeros((len(data.items), neighbours), dtype=np.float32)
    for begin in range(0, len(data.items), BLOCK):
        block = together[begin : begin + BLOCK].tocoo()
        strength = block.data / (np.sqrt(mass[block.row + begin] * mass[block.col]) + SHRINKAGE)
        order = np.lexsort((block.col, -strength, block.row))
        row, col, value = block.row[order], block.col[order], strength[order]
        rank = np.arange(row.size) - np.searchsorted(row, row)
        kept = rank < neighbours
        similar_rows[row[kept] + begin, rank[kept]] = col[kept]
        scores[row[kept] + begin, rank[kept]] = value[kept]
    return similar_rows, scores / max(float(scores.max(initial=0.0)), 1e-9)


def _co_occurrence(data: Interactions, ends: npt.NDArray[np.int64]) -> scipy.sparse.csr_matrix:
    """`[num_items, num_items]`, symmetric, empty diagonal: sums of 1 / distance over pairs within WINDOW steps."""
    visible = np.flatnonzero((np.arange(data.rows.size) < ends[data.users]) & (data.strengths > 1))
    users, rows = data.users[visible], data.rows[visible]
    shape = (len(data.items), len(data.items))
    total = scipy.sparse.csr_matrix(shape, dtype=np.float64)
    for distance in range(1, WINDOW + 1):
        pair = (users[distance:] == users[:-distance]) & (rows[distance:] != rows[:-distance])
        left, right = rows[:-distance][pair], rows[distance:][pair]
        weight = np.full(left.size, 1.0 / distance)
        step = scipy.sparse.coo_matrix((weight, (left, right)), shape=shape).tocsr()
        total = total + step + step.T
    return total.tocsr()
