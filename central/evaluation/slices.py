"""Who is served how well, and how sure that is: by region, cohort and popularity, with intervals over users."""

from typing import Final

import numpy as np
import numpy.typing as npt

from central.datasets.interactions import Interactions, Split
from central.evaluation.metrics import Ranks, ranking_metrics
from central.evaluation.results import Interval

COHORTS: Final = (("1-9", 0, 10), ("10-49", 10, 50), ("50-199", 50, 200), ("200+", 200, np.iinfo(np.int64).max))
"""By the number of interactions that a user brings to the test: name, from, below."""
POPULARITY_BUCKETS: Final = ("head", "middle", "tail")
"""Items of the test that make up the first, second and last third of all interactions, most popular first."""
RESAMPLES: Final = 1000
CONFIDENCE: Final = 0.95

Slices = dict[str, dict[str, dict[str, float]]]


def sliced(data: Interactions, split: Split, ranks: Ranks, counts: npt.NDArray[np.float64]) -> Slices:
    """HR@10, NDCG@10 and the number of users, by `region`, `cohort` and `popularity` of the item tested.

    Args:
        data: the dataset.
        split: who is evaluated.
        ranks: of the evaluated users.
        counts: `[num_items]` interactions that may be known.
    """
    region = data.user_regions[split.users]
    length = split.test_at - data.starts[split.users]
    bucket = popularity_bucket(counts)[data.rows[split.test_at]]
    return {
        "region": _figures(ranks, {name: region == at for at, name in enumerate(data.regions)}),
        "cohort": _figures(ranks, {name: (length >= least) & (length < below) for name, least, below in COHORTS}),
        "popularity": _figures(ranks, {name: bucket == at for at, name in enumerate(POPULARITY_BUCKETS)}),
    }


def popularity_bucket(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """`[num_items]`: place in POPULARITY_BUCKETS; each holds about a third of all interactions."""
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    bucket = np.zeros(counts.size, dtype=np.int64)
    bucket[order] = np.minimum(3.0 * before / max(float(counts.sum()), 1.0), 2.0).astype(np.int64)
    return bucket


def intervals(ranks: Ranks, *, seed: int = 0) -> dict[str, Interval]:
    """Bootstrap intervals over users (Efron, 1979) of `hr10` and `ndcg10`, CONFIDENCE of the resamples inside."""
    if not ranks.size:
        return {}
    hit = (ranks <= 10).astype(np.float64)
    gain = np.where(ranks <= 10, 1.0 / np.log2(np.minimum(ranks, 10) + 1.0), 0.0)
    both = np.stack([hit, gain])
    rng = np.random.default_rng(seed)
    drawn = np.stack([both[:, rng.integers(0, ranks.size, ranks.size)].mean(axis=1) for _ in range(RESAMPLES)])
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return {name: (float(low[at]), float(high[at])) for at, name in enumerate(("hr10", "ndcg10"))}


def _figures(ranks: Ranks, masks: dict[str, npt.NDArray[np.bool_]]) -> dict[str, dict[str, float]]:
    figures = {}
    for name, inside in masks.items():
        if inside.any():
            found = ranking_metrics(ranks[inside])
            figures[name] = {"hr10": found["hr10"], "ndcg10": found["ndcg10"], "users": float(inside.sum())}
    return figures
