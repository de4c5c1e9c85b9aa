"""What the ranker would make of the whole catalogue: the ceiling that the funnel's short cuts are held against."""

from typing import Final

import numpy as np
import numpy.typing as npt

from central.datasets.interactions import Interactions
from central.evaluation.metrics import NEVER, Ranks
from central.training.ranker import RankerNetwork
from central.training.runtime import tf
from central.training.tables import query_state
from infra.contracts.features import RANKING_FEATURES, FloatArray, ItemTables, ranking_features

SCORES_MAX: Final = 6_000_000
"""Items scored altogether, so that a large catalogue is judged on fewer users, not for hours."""
USERS_MIN: Final = 50
CHUNK: Final = 50_000


def exact_sample(num_users: int, num_items: int, *, seed: int = 0) -> npt.NDArray[np.int64]:
    """Places of the users to score exactly, ascending: as many as SCORES_MAX allows."""
    wanted = max(SCORES_MAX // max(num_items, 1), USERS_MIN)
    return np.sort(np.random.default_rng(seed).permutation(num_users)[:wanted])


def exact_ranks(
    network: RankerNetwork, data: Interactions, at: npt.NDArray[np.int64], vectors: FloatArray, tables: ItemTables
) -> Ranks:
    """Rank of the interaction at each position of `at` when the ranker scores every item that is not in the history.

    Args:
        network: the ranker.
        data: the dataset.
        at: positions of the interactions to predict.
        vectors: `[len(at), dim]` of the user tower.
        tables: of the release.
    """
    score = _scorer(network)
    every = np.arange(len(data.items), dtype=np.int32)
    ranks = np.full(len(at), NEVER, dtype=np.int64)
    for line, place in enumerate(at.tolist()):
        target = int(data.rows[place])
        state = query_state(data, place, vectors[line])
        rows = np.setdiff1d(every, state.rows)
        own = int(np.searchsorted(rows, target))
        if own == rows.size or rows[own] != target:
            continue  # taken before: it cannot be recommended
        scores = np.concatenate(
            [score(ranking_features(state, rows[part : part + CHUNK], tables)) for part in range(0, rows.size, CHUNK)]
        )
        ranks[line] = 1 + int((scores > scores[own]).sum() + (scores[:own] == scores[own]).sum())
    return ranks


def _scorer(network: RankerNetwork):  # type: ignore[no-untyped-def]
    @tf.function(input_signature=[tf.TensorSpec([None, len(RANKING_FEATURES)], tf.float32)], autograph=False)
    def compiled(features):  # type: ignore[no-untyped-def]
        return network(features, training=False)[:, 0]

    return lambda features: compiled(tf.constant(features)).numpy()
