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


def recall_with(search: Search, asked: FloatArray, exact: IntArray) -> float:
    """recall@100 of `search` over `asked [queries, dim]`."""
    return recall_of(np.concatenate([search(query[None]) for query in asked]), exact)


def cpu_ms_of(search: Search, asked: FloatArray) -> float:
    """CPU of this thread for one query, in ms: the median of PASSES passes over all of them."""
    passes = []
    for _ in range(PASSES):
        before_s = thread_cpu_s()
        for query in asked:
            search(query[None])
        passes.append((thread_cpu_s() - before_s) * 1000 / len(asked))
    return float(np.median(passes))
