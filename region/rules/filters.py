"""Hard filters: what may not be shown, whatever its score."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from infra.contracts.features import IntArray


def row_set(*groups: Iterable[int]) -> IntArray:
    """The rows of all groups, each once, ascending."""
    rows = {row for group in groups for row in group}
    return np.asarray(sorted(rows), dtype=np.int32)


def union(*groups: IntArray) -> IntArray:
    """The rows of all groups, each once, ascending. For a few hundred rows a fifth of what `np.union1d` takes."""
    rows = np.concatenate(groups)
    rows.sort()
    fresh = np.ones(rows.size, dtype=np.bool_)
    np.not_equal(rows[1:], rows[:-1], out=fresh[1:])
    united: IntArray = rows[fresh]
    return united


def outside(rows: IntArray, blocked: IntArray) -> npt.NDArray[np.bool_]:
    """Which of `rows` are not in `blocked` (ascending, each once). Same length as `rows`."""
    if not blocked.size:
        return np.ones(rows.shape, dtype=np.bool_)
    place = np.minimum(np.searchsorted(blocked, rows), blocked.size - 1)
    allowed: npt.NDArray[np.bool_] = blocked[place] != rows
    return allowed


def without(rows: IntArray, others: IntArray) -> IntArray:
    """Those of `rows` that are not among `others`, which stand in any order."""
    return rows[outside(rows, union(others))] if rows.size else rows


def first_outside(rows: IntArray, blocked: IntArray, limit: int, *, chunk: int = 1024) -> IntArray:
    """The first `limit` of `rows` that are not in `blocked`, reading no further than needed."""
    found: list[IntArray] = []
    count = 0
    for start in range(0, rows.size, chunk):
        part = rows[start : start + chunk]
        part = part[outside(part, blocked)]
        found.append(part)
        count += part.size
        if count >= limit:
            break
    return np.concatenate(found)[:limit] if found else rows[:0]
