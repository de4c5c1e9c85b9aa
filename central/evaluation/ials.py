"""Implicit alternating least squares (Hu, Koren and Volinsky, "Collaborative filtering for implicit feedback", 2008).

Every pair of user and item that was not seen counts with weight 1 and target 0, every seen one with 1 + alpha and
target 1. With the factors of one side held still the best ones of the other side are a ridge regression per row::

    (Y'Y + alpha * Y_u'Y_u + regularization * I) x_u = (1 + alpha) * sum of the rows of Y_u

Rows are solved many at a time, those with about as many entries together. NumPy only: the packaged ones need an
OpenMP library that a bare machine has not.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.sparse

from infra.contracts.features import FloatArray

CELLS_MAX: Final = 4_000_000
"""Numbers that one batch gathers at most: rows x entries of the longest x factors."""
START_SCALE: Final = 0.01


def factorise(
    taken: scipy.sparse.csr_matrix, *, factors: int, iterations: int, regularization: float, alpha: float, seed: int
) -> tuple[FloatArray, FloatArray]:
    """Factors of users `[num_users, factors]` and items `[num_items, factors]` of a matrix of ones `[users, items]`."""
    rng = np.random.default_rng(seed)
    users, items = ((START_SCALE * rng.standard_normal((count, factors))).astype(np.float32) for count in taken.shape)
    by_item = taken.T.tocsr()
    for _ in range(iterations):
        users = _solved(taken, items, regularization, alpha)
        items = _solved(by_item, users, regularization, alpha)
    return users, items


def _solved(rows: scipy.sparse.csr_matrix, other: FloatArray, regularization: float, alpha: float) -> FloatArray:
    factors = other.shape[1]
    common = other.T @ other + regularization * np.eye(factors, dtype=np.float32)
    # One row of zeros behind the last, for the places of a batch that a shorter row leaves open.
    padded = np.concatenate([other, np.zeros((1, factors), dtype=np.float32)])
    found: FloatArray = np.zeros((rows.shape[0], factors), dtype=np.float32)
    for batch, columns in _batches(rows, open_column=len(other), factors=factors):
        near = padded[columns]
        left = common + alpha * (near.transpose(0, 2, 1) @ near)
        right = (1.0 + alpha) * near.sum(axis=1)
        found[batch] = np.linalg.solve(left, right[:, :, None])[:, :, 0]
    return found


def _batches(
    rows: scipy.sparse.csr_matrix, *, open_column: int, factors: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Rows with entries, and their columns `[rows, longest]` filled up with `open_column`, shortest rows first."""
    lengths = np.diff(rows.indptr)
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    while order.size:
        # As many of the next rows as fit when each takes what the longest of them takes.
        cells = lengths[order] * factors * np.arange(1, order.size + 1)
        count = max(1, int(np.searchsorted(cells, CELLS_MAX, side="right")))
        batch, order = order[:count], order[count:]
        place = np.arange(lengths[batch[-1]])
        inside = place < lengths[batch][:, None]
        columns = np.full(inside.shape, open_column, dtype=np.int64)
        columns[inside] = rows.indices[(rows.indptr[batch][:, None] + place)[inside]]
        yield batch, columns
