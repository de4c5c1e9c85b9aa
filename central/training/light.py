"""L1, the light first ranking: a linear student of the ranker over what is at hand for a whole pool.

The region's funnel has more candidates than its ranker takes. L1 decides which ones the ranker sees, so it is taught
what the ranker thinks of whole pools: listwise distillation (its softmax over a pool is drawn to the ranker's).
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from central.datasets.interactions import Interactions
from central.training.ranker import RankerNetwork
from central.training.ranking_data import retrieve
from central.training.runtime import tf
from central.training.tables import query_state
from infra.contracts.features import (
    LIGHT_FEATURES,
    LIGHT_WEIGHTS,
    RECENT_EVENTS,
    FloatArray,
    IntArray,
    ItemTables,
    QueryState,
    light_features,
    ranking_features,
)
from infra.contracts.release import LightRanker

LIGHT_USERS_MAX: Final = 600
LIGHT_USERS_MIN: Final = 30
"""With fewer nothing is learned, and the usual weights stay."""
HELD_OUT: Final = 3
"""One user of so many is tried on instead of learned from."""
RETRIEVED: Final = 500
SIMILAR: Final = 200
POPULAR: Final = 100
KEPT: Final = 100
"""How many of a pool the recall is told for: a ranker that is short of time takes about this many."""
TOP: Final = 10
STRENGTH_LIKED_MIN: Final = 3
RIDGE: Final = 1e-4


@dataclass(frozen=True, slots=True)
class LightPool:
    """Candidates as a region's sources put them up. `similar`: the score of "similar to recent"."""

    state: QueryState
    rows: IntArray
    similar: FloatArray


def pool_for(data: Interactions, at: int, vector: FloatArray, tables: ItemTables) -> LightPool:
    """The pool for the interaction at `at`: nearest, similar to what was liked lately, popular; history taken out."""
    state = query_state(data, at, vector)
    nearest = retrieve(data, at, vector, tables.vectors, RETRIEVED)
    similar_rows, similar_scores = _similar_to_recent(state, tables)
    popular = np.argsort(-tables.popularity, kind="stable")[: POPULAR + state.rows.size]
    rows = np.union1d(np.union1d(nearest, similar_rows), popular[~np.isin(popular, state.rows)][:POPULAR])
    rows = rows[~np.isin(rows, state.rows)].astype(np.int32)
    similar = np.zeros(rows.size, dtype=np.float32)
    known = np.isin(similar_rows, rows)
    similar[np.searchsorted(rows, similar_rows[known])] = similar_scores[known]
    return LightPool(state, rows, similar)


def _similar_to_recent(state: QueryState, tables: ItemTables) -> tuple[IntArray, FloatArray]:
    liked = state.rows[state.strengths >= STRENGTH_LIKED_MIN][-RECENT_EVENTS:][::-1]
    fading = (1.0 / (1.0 + np.arange(liked.size, dtype=np.float32)))[:, None]
    rows, scores = tables.similar_rows[liked].ravel(), (tables.similar_scores[liked] * fading).ravel()
    unique, inverse = np.unique(rows[rows >= 0], return_inverse=True)
    summed = np.bincount(inverse, weights=scores[rows >= 0], minlength=unique.size).astype(np.float32)
    best = np.argsort(-summed, kind="stable")[:SIMILAR]
    return unique[best].astype(np.int32), summed[best]


def ranker_scores(network: RankerNetwork, pool: LightPool, tables: ItemTables) -> FloatArray:
    """`[candidates]`: the first head's logit."""
    features = ranking_features(pool.state, pool.rows, tables)
    logits: FloatArray = network(tf.constant(features), training=False).numpy()[:, 0]
    return logits


def distil(pools: list[LightPool], scores: list[FloatArray], tables: ItemTables) -> LightRanker:
    """Weights for LIGHT_FEATURES, learned from two of three pools; the usual ones where those do better on the third.

    Args:
        pools: of different users.
        scores: the ranker's, of each pool's candidates.
        tables: what is known about items.
    """
    features = [light_features(pool.state, pool.rows, pool.similar, tables) for pool in pools]
    tried = np.arange(len(pools)) % HELD_OUT == 0
    usual = np.asarray([LIGHT_WEIGHTS.get(name, 0.0) for name in LIGHT_FEATURES])
    learned = fit([features[at] for at in np.flatnonzero(~tried)], [scores[at] for at in np.flatnonzero(~tried)])
    which = np.flatnonzero(tried)
    before, after = (
        float(np.mean([recall_kept(features[at] @ weights, scores[at]) for at in which]))
        for weights in (usual, learned)
    )
    chosen = learned if after > before else usual
    return LightRanker(
        weights={name: round(float(weight), 6) for name, weight in zip(LIGHT_FEATURES, chosen, strict=True)},
        kept=KEPT, recall_before=before, recall_after=max(before, after), users=which.size,
    )  # fmt: skip


def fit(features: list[FloatArray], scores: list[FloatArray]) -> npt.NDArray[np.float64]:
    """The weights whose softmax over each pool is nearest to that of `scores` (cross entropy, convex; L-BFGS)."""
    wanted = [_softmax(one.astype(np.float64)) for one in scores]

    def loss(weights: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        value, gradient = RIDGE * float(weights @ weights), 2.0 * RIDGE * weights
        for inputs, target in zip(features, wanted, strict=True):
            own = _softmax(inputs @ weights)
            value -= float(target @ np.log(np.maximum(own, 1e-30))) / len(features)
            gradient = gradient + (own - target) @ inputs / len(features)
        return value, gradient

    found: Any = minimize(loss, np.ones(len(LIGHT_FEATURES)), jac=True, method="L-BFGS-B")
    weights: npt.NDArray[np.float64] = found.x
    return weights


def recall_kept(light: npt.NDArray[np.floating[Any]], ranked: FloatArray) -> float:
    """Share of the ranker's TOP that are among the first KEPT of L1's order."""
    best = np.argsort(-ranked, kind="stable")[:TOP]
    kept = np.argsort(-light, kind="stable")[:KEPT]
    return float(np.isin(best, kept).mean()) if best.size else 1.0


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    raised = np.exp(logits - logits.max())
    share: npt.NDArray[np.float64] = raised / raised.sum()
    return share
