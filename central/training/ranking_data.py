"""Lists for the ranker: the real retrieval's candidates for an interaction, with their features."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from central.datasets.interactions import Interactions
from central.training.tables import query_state
from infra.contracts.features import RANKING_FEATURES, FloatArray, IntArray, ItemTables, ranking_features

CANDIDATES: Final = 300
"""As many as a region's ranker takes (`infra.contracts.release.ModelShape.ranker_batch`)."""
LISTS_MAX: Final = 8000


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateLists:
    """One list for each query.

    `rows`: `[queries, candidates] int32`, by falling retrieval score. `features`:
    `[queries, candidates, num_inputs] float32`. `target_at`: `[queries] int64`, place of the target in its list, -1
    when retrieval did not find it. `learn_at`: the same, but the last place where retrieval did not find it: an
    inserted target stands there, if it was to be inserted. `strengths`: `[queries] int32`, of the targets.
    """

    rows: IntArray
    features: FloatArray
    target_at: npt.NDArray[np.int64]
    learn_at: npt.NDArray[np.int64]
    strengths: IntArray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, which: npt.NDArray[np.int64]) -> "CandidateLists":
        """The lists at the given places."""
        return CandidateLists(**{name: getattr(self, name)[which] for name in _FIELDS})

    def joined(self, other: "CandidateLists") -> "CandidateLists":
        """These lists and then the others, of the same width."""
        both = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in _FIELDS}
        return CandidateLists(**both)


_FIELDS: Final = ("rows", "features", "target_at", "learn_at", "strengths")


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
    width: int | None = None,
) -> CandidateLists:
    """Lists for the interactions at `at`.

    Args:
        data: the dataset.
        at: positions of the interactions to predict.
        vectors: `[len(at), dim]` of the user tower.
        tables: what is known about items; must not have seen the interactions at `at`.
        insert_target: put a target that retrieval missed into the last place (to learn from, never to evaluate).
        width: candidates of a list; `list_width` of these interactions when not given.
    """
    width = width or list_width(data, at)
    rows = np.zeros((len(at), width), dtype=np.int32)
    features = np.zeros((len(at), width, len(RANKING_FEATURES)), dtype=np.float32)
    target_at = np.full(len(at), -1, dtype=np.int64)
    for line, place in enumerate(at):
        found = retrieve(data, int(place), vectors[line], tables.vectors, width)
        hit = np.flatnonzero(found == data.rows[place])
        if hit.size:
            target_at[line] = hit[0]
        elif insert_target:
            found[-1] = data.rows[place]
        rows[line] = found
        features[line] = ranking_features(query_state(data, int(place), vectors[line]), found, tables)
    learn_at = np.where(target_at >= 0, target_at, width - 1)
    return CandidateLists(
        rows=rows, features=features, target_at=target_at, learn_at=learn_at, strengths=data.strengths[at]
    )


def list_width(data: Interactions, at: npt.NDArray[np.int64]) -> int:
    """Candidates of a list: CANDIDATES, less where the catalogue less the longest history is smaller."""
    longest = int(max(np.max(at - data.starts[data.users[at]], initial=0), 0))
    return max(1, min(CANDIDATES, len(data.items) - longest))
