"""Full-catalogue ranking metrics in NumPy. One relevant item for each user, so recall@K is the hit rate HR@K.

Ranks count from 1. Items of the history are taken out before ranking; equal scores are ordered by catalogue row.
"""

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from central.datasets.interactions import Interactions
from infra.contracts.features import FloatArray, IntArray

CUTS: Final = (10, 20, 50)
SCORE_CHUNK: Final = 512
NEVER: Final = np.iinfo(np.int64).max // 2
"""Rank of a target that cannot be recommended, because it is in the history already."""

Ranks = npt.NDArray[np.int64]


def rank_of(scores: FloatArray, target: int, history: IntArray) -> int:
    """Rank of `target` among all items without `history`. `scores`: `[num_items]`."""
    return int(_ranks(scores[None], np.array([target]), [history])[0])


def ranks_of_targets(
    vectors: FloatArray, table: FloatArray, data: Interactions, at: npt.NDArray[np.int64], targets: IntArray
) -> Ranks:
    """Rank of the interaction at each position of `at`, by dot product, the user's earlier items taken out.

    Args:
        vectors: `[len(at), dim]`.
        table: `[num_items, dim]`.
        data: where the histories lie.
        at: positions of the interactions to predict.
        targets: catalogue row of every interaction of `data`.
    """
    return ranks_of_scores((vectors[part] @ table.T for part in _parts(len(at))), data, at, targets)


def ranks_of_scores(
    score_chunks: Iterable[FloatArray], data: Interactions, at: npt.NDArray[np.int64], targets: IntArray
) -> Ranks:
    """As `ranks_of_targets`, for scores that come in chunks `[chunk, num_items]` in the order of `at`."""
    ranks: list[Ranks] = []
    begin = 0
    for scores in score_chunks:
        places = at[begin : begin + len(scores)]
        histories = [data.rows[data.starts[data.users[place]] : place] for place in places]
        ranks.append(_ranks(scores, targets[places], histories))
        begin += len(scores)
    return np.concatenate(ranks) if ranks else np.zeros(0, dtype=np.int64)


def _parts(total: int) -> Iterable[slice]:
    return (slice(begin, begin + SCORE_CHUNK) for begin in range(0, total, SCORE_CHUNK))


def _ranks(scores: FloatArray, targets: npt.NDArray[np.integer], histories: list[IntArray]) -> Ranks:
    lines = np.arange(len(scores))
    masked = scores.copy()
    for line, history in enumerate(histories):
        masked[line, history] = -np.inf
    own = masked[lines, targets][:, None]
    columns = np.arange(scores.shape[1])
    before = (masked > own) | ((masked == own) & (columns < targets[:, None]))
    ranks: Ranks = before.sum(axis=1).astype(np.int64) + 1
    return np.where(np.isneginf(own[:, 0]), NEVER, ranks)


def ranking_metrics(ranks: Ranks) -> dict[str, float]:
    """`hr10`, `recall10`, `ndcg10`, `mrr10`, ... for every cut of CUTS; zeros when nobody is evaluated."""
    figures: dict[str, float] = {}
    for cut in CUTS:
        hit = ranks <= cut
        known = np.where(hit, ranks, 1)
        figures[f"hr{cut}"] = figures[f"recall{cut}"] = _mean(hit.astype(np.float64))
        figures[f"ndcg{cut}"] = _mean(np.where(hit, 1.0 / np.log2(known + 1.0), 0.0))
        # With one relevant item the average precision is the reciprocal rank, and precision the hit rate over K.
        figures[f"mrr{cut}"] = figures[f"map{cut}"] = _mean(np.where(hit, 1.0 / known, 0.0))
        figures[f"precision{cut}"] = figures[f"hr{cut}"] / cut
    return figures


def list_metrics(lists: IntArray, popularity: npt.NDArray[np.float64], traits: FloatArray) -> dict[str, float]:
    """Of the lists that users would get: `coverage10` (share of the catalogue shown), `novelty10`, `diversity10`.

    Args:
        lists: `[users, k] int32` catalogue rows, best first, -1 behind the last.
        popularity: `[num_items]` interactions of each item; novelty, in bits, is the mean of -log2 of its share
            (Zhou et al., 2010), items never seen counted as seen once.
        traits: `[num_items, num_categories]`; diversity is one less the mean cosine of two items of a list
            (Ziegler et al., 2005), 1 where nothing is known of any.
    """
    top = lists[:, :10]
    shown = top[top >= 0]
    if not shown.size:
        return {"coverage10": 0.0, "novelty10": 0.0, "diversity10": 0.0}
    share = np.maximum(popularity, 1.0) / max(float(popularity.sum()), 1.0)
    return {
        "coverage10": float(np.unique(shown).size / popularity.size),
        "novelty10": float(-np.log2(share[shown]).mean()),
        "diversity10": _diversity(top, traits),
    }


def _diversity(top: IntArray, traits: FloatArray) -> float:
    norms = np.linalg.norm(traits, axis=1, keepdims=True)
    unit = traits / np.maximum(norms, 1e-12)
    known = top >= 0
    sizes = known.sum(axis=1)
    pairs = np.maximum(sizes * (sizes - 1), 1)
    vectors = unit[np.where(known, top, 0)] * known[:, :, None]
    # The square of the sum holds every ordered pair, and every item with itself.
    own = (vectors**2).sum(axis=(1, 2))
    together = (vectors.sum(axis=1) ** 2).sum(axis=1) - own
    return float(1.0 - (together / pairs)[sizes > 1].mean()) if (sizes > 1).any() else 0.0


def standard_errors(ranks: Ranks) -> dict[str, float]:
    """Standard errors over users of `hr10` and `ndcg10`."""
    hit = (ranks <= 10).astype(np.float64)
    gain = np.where(ranks <= 10, 1.0 / np.log2(np.minimum(ranks, 10) + 1.0), 0.0)
    root = np.sqrt(max(len(ranks), 1))
    return {"hr10": float(hit.std() / root), "ndcg10": float(gain.std() / root)} if len(ranks) else {}


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else 0.0
