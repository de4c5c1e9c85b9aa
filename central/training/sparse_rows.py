"""The best few entries of every row of a sparse or dense matrix, as a release ships them: bounded, padded, sorted."""

from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.sparse

from infra.contracts.features import ItemLinks

ENTRIES_MAX: Final = 60_000_000
"""Entries of one table of a release at most: half a gigabyte. A larger catalogue keeps fewer for each item."""
LENGTH_MIN: Final = 8


def bounded_length(wanted: int, num_items: int, *, tables: int = 1) -> int:
    """How many entries each item keeps: `wanted`, less where the catalogue is large, LENGTH_MIN at least."""
    return max(min(wanted, ENTRIES_MAX // max(num_items * tables, 1)), min(LENGTH_MIN, wanted))


def best_of_sparse(matrix: scipy.sparse.csr_matrix, length: int) -> ItemLinks:
    """The `length` largest positive entries of every row, best first, ties by column."""
    entries = matrix.tocoo()
    positive = entries.data > 0.0
    row, column, value = entries.row[positive], entries.col[positive], entries.data[positive]
    order = np.lexsort((column, -value, row))
    row, column, value = row[order], column[order], value[order]
    place = np.arange(row.size) - np.searchsorted(row, row)
    kept = place < length
    columns = np.full((matrix.shape[0], length), -1, dtype=np.int32)
    values = np.zeros((matrix.shape[0], length), dtype=np.float32)
    columns[row[kept], place[kept]] = column[kept]
    values[row[kept], place[kept]] = value[kept]
    return ItemLinks(columns, values)


def furthest_of_dense(matrix: npt.NDArray[np.floating], length: int) -> ItemLinks:
    """The `length` entries of every row that are furthest from zero, of both signs, furthest first, ties by column."""
    length = min(length, matrix.shape[1])
    size = np.abs(matrix)
    near = np.argpartition(-size, length - 1, axis=1)[:, :length]
    order = np.lexsort((near, -np.take_along_axis(size, near, axis=1)), axis=1)
    columns = np.take_along_axis(near, order, axis=1)
    values = np.take_along_axis(matrix, columns, axis=1)
    columns = np.where(values == 0.0, -1, columns)
    return ItemLinks(columns.astype(np.int32), values.astype(np.float32))
