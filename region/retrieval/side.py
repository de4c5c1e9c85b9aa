"""The side index: vectors of items that came between two releases, searched exactly beside the release's own index."""

import numpy as np

from infra.contracts.features import FloatArray, IntArray
from region.retrieval.index import Index

NO_ROWS: IntArray = np.empty((0, 0), dtype=np.int32)
NO_SCORES: FloatArray = np.empty((0, 0), dtype=np.float32)


class WithSide:
    """An index and what stands beside it, searched as one. Replacing is one reference swap: no search sees half of it.

    Args:
        index: of the release.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self.kind, self.dim, self.num_items = index.kind, index.dim, index.num_items
        self._side: tuple[IntArray, FloatArray] | None = None

    def replace(self, rows: IntArray, vectors: FloatArray) -> None:
        """`rows [count] int32` with `vectors [count, dim] float32` stand beside the index now; none: nothing does."""
        self._side = (rows, vectors) if rows.size else None

    def search(self, vectors: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
        """As `region.retrieval.index.Index.search`, over both."""
        rows, scores = self._index.search(vectors, k)
        side = self._side
        if side is None:
            return rows, scores
        beside = vectors @ side[1].T
        all_scores = np.concatenate([scores, beside], axis=1)
        all_rows = np.concatenate([rows, np.broadcast_to(side[0], beside.shape)], axis=1)
        best = np.argsort(-all_scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(all_rows, best, axis=1), np.take_along_axis(all_scores, best, axis=1)
