"""What a phone's tower reads in place of items that central's training never had an event of. Public: it costs nothing.

Such an item's released vector is what training made of a thing that never came up, and a tower that reads it gives
worse vectors than one that skips it. Once rounds have moved the item, one that central does know and whose taste is
most alike stands in for it: that is something the tower has learned to read.
"""

import numpy as np
import numpy.typing as npt

from federation.device.model import moved_items
from infra.plumbing.releases.stand_ins import NOT_READ

Float64Array = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]


def stand_ins(
    vectors: Float32Array, *, rows: IntArray, core: Float64Array, directions: Float32Array,
    heard: npt.NDArray[np.bool_], queries: Float32Array, released: IntArray | None = None,
) -> IntArray:  # fmt: skip
    """The row that is read in place of each of `rows`, `[rows] int32`; the item itself where central knows it.

    Two items are alike by the correlation of their scores over user vectors: `queries [n, dim]`, at least two. An item
    that central does not know and whose taste has not moved is read as the release says (`released`), or not at all.

    Args:
        vectors: `[num_items, dim]`, as released.
        rows: the slice.
        core: `[rows, rank]`, how far it has moved.
        directions: `[dim, rank]`.
        heard: `[num_items]`, which items central's training had events of.
        queries: user vectors.
        released: `[num_items]`, what the release itself reads in place of each item.
    """
    found = np.where(heard[rows], rows, NOT_READ if released is None else released[rows]).astype(np.int32)
    known = np.flatnonzero(heard)
    moved = np.flatnonzero(~heard[rows] & core[:, :-1].any(axis=1))
    if not len(known) or not len(moved):
        return found
    root = np.linalg.svd(queries - queries.mean(axis=0), full_matrices=False)
    scale = (root.S[:, None] * root.Vh).T
    scores = moved_items(vectors, rows=rows, core=core, directions=directions) @ scale
    scores /= np.maximum(np.linalg.norm(scores, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    found[moved] = known[np.argmax(scores[rows[moved]] @ scores[known].T, axis=1)]
    return found


def start_of(
    vectors: Float32Array, *, rows: IntArray, rank: int, heard: npt.NDArray[np.bool_], queries: Float32Array,
    released: IntArray | None = None,
) -> Float64Array:  # fmt: skip
    """Where rounds start a slice, `[rows, rank]`: items that central does not know as popular as known ones on average.

    Training has pushed them so far down that nobody's events would be expected to be of them, and it would take rounds
    to find that out. Those with a stand-in start where they lie: earlier rounds found out how popular they are.
    Arguments as for `stand_ins`; the last of the `rank` columns is popularity.
    """
    placed = heard[rows] if released is None else released[rows] != NOT_READ
    core = np.zeros((len(rows), rank))
    scores = vectors @ queries.mean(axis=0)
    if heard.any():
        core[:, -1] = np.where(placed, 0.0, np.maximum(scores[heard].mean() - scores[rows], 0.0))
    return core
