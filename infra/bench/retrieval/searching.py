"""What a search finds and what it costs, the same way for every index: queries one by one, CPU of the asking thread."""

from collections.abc import Callable

import numpy as np

from central.release.tuning import recall_of
from infra.contracts.features import FloatArray, IntArray
from infra.plumbing.clock import thread_cpu_s

NEIGHBOURS = 100
PASSES = 3
Search = Callable[[FloatArray], IntArray]
"""Rows `[1, NEIGHBOURS]` for a query `[1, dim]`."""


def recall_with(search: Search, asked: FloatArray, exact: IntArray) -> tuple[float, float]:
    """recall@100 of `search` over `asked [queries, dim]`, and what a query cost in ms of CPU of this thread."""
    before_s = thread_cpu_s()
    found = [search(query[None]) for query in asked]
    cpu_ms = (thread_cpu_s() - before_s) * 1000 / len(asked)
    return recall_of(np.concatenate(found), exact), cpu_ms


def cpu_ms_of(search: Search, asked: FloatArray, exact: IntArray) -> float:
    """CPU of this thread for one query, in ms: the median of PASSES passes over all of them."""
    return float(np.median([recall_with(search, asked, exact)[1] for _ in range(PASSES)]))
