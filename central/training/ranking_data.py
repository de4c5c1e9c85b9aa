"""Lists for the ranker: the real retrieval's candidates for an interaction, with their features."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from central.datasets.interactions import Interactions
from central.training.tables import query_state
from infra.contracts.features import FloatArray, IntArray, ItemTables, ranking_features

CANDIDATES: Final = 100
LISTS_MAX: Final = 6000
LIKED: Final = 4
"""An interaction of this strength or more is a like."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateLists:
    """One list for each query.

    `rows`: `[queries, candidates] int32`, by falling retrieval score. `features`:
    `[queries, candidates, num_inputs] float32`. `target_at`: `[queries] int64`, place of the target in its list, -1
    when retrieval did not find it. `liked`: `[queries] bool`.
    """

    rows: IntArray
    features: FloatArray
    target_at: npt.NDArray[np.int64]
    liked: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, which: npt.NDArray[np.int64]) -> "CandidateLists":
        """The lists at the given places."""
        return CandidateLists(
            rows=self.rows[which], features=self.features[which], target_at=self.target_at[which],
            liked=self.liked[which],
        )  # fmt: skip


def retrieve(data: Interactions, at: int, vector: FloatArray, table: FloatArray, k: int) -> IntArray:
    """The `k` best rows for the history before `at` by dot product, history taken out; ties by catalogue row."""
    scores = table @ vector
    scores[data.rows[data.starts[data.users[at]] : at]] = -np.inf
    k = min(k, int(np.isfinite(scores).sum()))
    if not k:
        return np.zeros(0, dtype=np.int32)
    # All that reach the k-th score, so that a tie at the edge is cut by row and not by chance.
    least = np.partition(scores, -k)[-k]
    near = np.flatnonzero(scores >= least)
    return near[np.lexsort((near, -scores[near]))][:k].astype(np.int32)


def candidate_lists(
    data: Interactions,
    at: npt.NDArray[np.int64],
    vectors: FloatArray,
    tables: ItemTables,
    *,
    insert_target: bool,
    candidates: int = CANDIDATES,
) -> CandidateLists:
    """Lists for the interactions at `at`.

    Args:
        data: the dataset.
        at: positions of the interactions to predict.
        vectors: `[len(at), dim]` of the user tower.
        tables: what is known about items; must not have seen the interactions at `at`.
        insert_target: put a target that retrieval missed into the last place (to learn from, never to evaluate).
        candidates: length of a list, less in a catalogue that is too small.
    """
    longest = int(max(np.max(at - data.starts[data.users[at]], initial=0), 0))
    width = max(1, min(candidates, len(data.items) - longest))
    rows = np.zeros((len(at), width), dtype=np.int32)
    features: list[FloatArray] = []
    target_at = np.full(len(at), -1, dtype=np.int64)
    for line, place in enumerate(at):
        found = retrieve(data, int(place), vectors[line], tables.vectors, width)
        if insert_target and data.rows[place] not in found:
            found[-1] = data.rows[place]
        rows[line] = found
        hit = np.flatnonzero(found == data.rows[place])
        target_at[line] = hit[0] if hit.size else -1
        features.append(ranking_features(query_state(data, int(place), vectors[line]), found, tables))
    return CandidateLists(
        rows=rows, features=np.stack(features), target_at=target_at, liked=data.strengths[at] >= LIKED
    )
