"""Merging candidates of several sources, and the light first ranking (L1) that keeps what the ranker can take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from infra.contracts.features import FloatArray, IntArray, QueryState, light_features
from infra.contracts.messages import Source
from region.funnel.sources import Candidates
from region.funnel.tables import ReleaseTables

SOURCES: tuple[Source, ...] = tuple(Source)
RANK_OFFSET = 60.0
"""`k` of reciprocal rank fusion (Cormack, Clarke and Buettcher, 2009)."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Candidates of all sources, each row once, best fused rank first.

    `rows [count] int32`; `owners [count] int8`: place in SOURCES of the source that put each row up highest;
    `fused [count] float32`: reciprocal rank fusion; `similar [count] float32`: the similar-to-recent score, 0 where
    that source did not put the row up.
    """

    rows: IntArray
    owners: npt.NDArray[np.int8]
    fused: FloatArray
    similar: FloatArray

    def take(self, positions: IntArray) -> "Pool":
        """The pool at these positions, in their order."""
        return Pool(self.rows[positions], self.owners[positions], self.fused[positions], self.similar[positions])

    def keep(self, mask: npt.NDArray[np.bool_]) -> "Pool":
        """The pool where `mask` holds."""
        return self if mask.all() else self.take(np.flatnonzero(mask).astype(np.int32))


def merge(groups: Sequence[Candidates], weights: Mapping[Source, float]) -> Pool:
    """Fuse the groups by weighted reciprocal rank; the order of `groups` settles which source a tie goes to."""
    filled = [group for group in groups if group.rows.size]
    if not filled:
        empty = np.zeros(0, dtype=np.float32)
        return Pool(empty.astype(np.int32), empty.astype(np.int8), empty, empty)
    rows = np.concatenate([group.rows for group in filled])
    parts = np.concatenate(
        [weights[group.source] / (RANK_OFFSET + 1.0 + np.arange(group.rows.size)) for group in filled]
    )
    places = np.asarray([SOURCES.index(group.source) for group in filled], dtype=np.int8)
    owner = np.repeat(np.arange(len(filled)), [group.rows.size for group in filled])
    # Each row's parts stand together, the best of them first, of equals the first group's: its owner names the row's
    # source. The sort keeps the order of equals, and groups stand in theirs.
    order = np.lexsort((-parts, rows))
    ordered = rows[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    unique, fused = ordered[first], np.add.reduceat(parts[order], first)
    similar = _scores_of(Source.SIMILAR_TO_RECENT, filled, unique)
    best = np.argsort(-fused, kind="stable")
    owners = places[owner[order[first[best]]]]
    return Pool(unique[best].astype(np.int32), owners, fused[best].astype(np.float32), similar[best])


def light_scores(pool: Pool, state: QueryState, tables: ReleaseTables) -> FloatArray:
    """L1 for a query with a vector: the release's own blend of what is at hand. `[count] float32`."""
    blend: FloatArray = light_features(state, pool.rows, pool.similar, tables.arrays) @ tables.light
    return blend


def best_first(scores: FloatArray, limit: int) -> IntArray:
    """Positions of the `limit` largest scores, largest first; equal scores keep their order."""
    return np.argsort(-scores, kind="stable")[:limit].astype(np.int32)


def _scores_of(source: Source, groups: Sequence[Candidates], unique: IntArray) -> FloatArray:
    scores = np.zeros(unique.size, dtype=np.float32)
    for group in groups:
        if group.source is source:
            scores[np.searchsorted(unique, group.rows)] = group.scores
    return scores
