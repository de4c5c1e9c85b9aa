"""What is left of a figure when the seed changes: means over models of several seeds, with intervals over seeds."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import stdtrit

from central.evaluation.results import Evaluation, SeedFigures, Spread
from central.evaluation.slices import CONFIDENCE
from infra.plumbing.errors import InvalidInputError


def spread(values: Sequence[float], users: Sequence[tuple[float, float]] = ()) -> Spread:
    """Mean of one figure over seeds, with Student's interval of that mean; one value is its own interval.

    Args:
        values: by seed.
        users: the intervals over users, by seed; their bounds are averaged. The users are the same for every seed, so
            this is what their choice leaves open however many seeds are tried.
    """
    drawn = np.asarray(values, dtype=np.float64)
    mean = float(drawn.mean())
    deviation = float(drawn.std(ddof=1)) if drawn.size > 1 else 0.0
    half = 0.0
    if drawn.size > 1:
        half = float(stdtrit(drawn.size - 1, (1 + CONFIDENCE) / 2)) * deviation / float(np.sqrt(drawn.size))
    bounds = np.asarray(users, dtype=np.float64).mean(axis=0) if users else None
    return Spread(
        mean=mean, deviation=deviation, low=mean - half, high=mean + half, values=tuple(float(one) for one in values),
        users=None if bounds is None else (float(bounds[0]), float(bounds[1])),
    )  # fmt: skip


def over_seeds(
    evaluations: Sequence[Evaluation], variants: Mapping[str, Sequence[Mapping[str, float]]]
) -> SeedFigures:  # fmt: skip
    """The figures of one recipe, by stage, and of what was trained beside it, by kind.

    Args:
        evaluations: of models that differ by their seed.
        variants: retrieval figures by kind, one for each seed.

    Raises:
        InvalidInputError: the evaluations are not of the same data, split and ties.
    """
    first = evaluations[0]
    for other in evaluations:
        if (other.dataset_sha256, other.protocol, other.ties) != (first.dataset_sha256, first.protocol, first.ties):
            raise InvalidInputError("the models were not evaluated alike.", fix="Train them with --seeds.")
    kept = [one.served_share_of_exact for one in evaluations if one.served_share_of_exact is not None]
    return SeedFigures(
        seeds=tuple(one.seed for one in evaluations),
        stage={name: _stage(evaluations, name) for name in first.stage},
        variants={kind: _spreads(figures) for kind, figures in variants.items()},
        train_s=spread([one.train_s for one in evaluations]),
        served_share_of_exact=spread(kept) if kept else None,
    )  # fmt: skip


def _stage(evaluations: Sequence[Evaluation], stage: str) -> dict[str, Spread]:
    doubts = [one.intervals.get(stage, {}) for one in evaluations]
    figures = [one.stage[stage] for one in evaluations if stage in one.stage]
    return {
        name: spread([one[name] for one in figures], [doubt[name] for doubt in doubts if name in doubt])
        for name in figures[0]
    }


def _spreads(figures: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    return {name: spread([one[name] for one in figures]) for name in figures[0]}
