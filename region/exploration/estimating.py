"""What another policy would have brought, estimated from logged draws: pure.

With target chances `t`, logged propensities `p`, weights `w = t(shown) / p(shown)` and rewards `r` over `n` rounds:

* IPS (Horvitz and Thompson, 1952): mean of `w r`; unbiased where every arm that the target shows had a chance;
* clipped IPS (Ionides, 2008): mean of `min(w, clip) r`; less variance, biased downwards;
* SNIPS (Swaminathan and Joachims, 2015): sum of `w r` over sum of `w`; consistent, inside the range of the rewards;
* doubly robust (Dudik, Langford and Li, 2011): mean of `sum over arms of t q + w (r - q(shown))`, with `q` the click
  rates as they stood when the slot was drawn, so that no reward is used twice.

Intervals are normal with a variance that is robust to rounds of one subject going together (Liang and Zeger, 1986).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from infra.contracts.residency import Regional, RegionalMessage
from region.exploration.policy import Arms, Chances

Z_95 = 1.959964
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One slot that was drawn, and what came of it."""

    exposure: str
    position: int
    subject: str
    arms: Arms
    chances: Chances
    shown: int
    reward: float


class Estimate(RegionalMessage, frozen=True, kw_only=True):
    """A value per slot shown and its 95 % interval."""

    value: Regional[float]
    low: Regional[float]
    high: Regional[float]
    standard_error: Regional[float]


class Estimates(RegionalMessage, frozen=True, kw_only=True):
    """One policy, over the same rounds by every estimator. `logged` is what the policy that ran really brought."""

    rounds: Regional[int]
    subjects: Regional[int]
    logged: Regional[Estimate]
    ips: Regional[Estimate]
    clipped_ips: Regional[Estimate]
    snips: Regional[Estimate]
    doubly_robust: Regional[Estimate]
    effective_rounds: Regional[float]
    """`(sum w)^2 / sum w^2`: so many rounds of the target's own would tell as much."""
    clipped: Regional[float]
    """Share of the rounds whose weight was clipped."""
    not_covered: Regional[float]
    """Mean share of the target's chance that lies on arms which could not be shown: no estimate knows of it."""


def estimate(rounds: Sequence[Round], targets: Sequence[Chances], *, clip: float) -> Estimates:
    """Estimates of a target policy; `targets` are its chances over the arms of each round.

    Raises:
        ValueError: there is no round.
    """
    if not rounds:
        raise ValueError("there is nothing to estimate from")
    weights = np.asarray([target[one.shown] / one.chances[one.shown] for one, target in _pairs(rounds, targets)])
    rewards = np.asarray([one.reward for one in rounds])
    models = [one.arms.rates() for one in rounds]
    direct = np.asarray([float(target @ rates) for target, rates in zip(targets, models, strict=True)])
    of_shown = np.asarray([rates[one.shown] for one, rates in zip(rounds, models, strict=True)])
    clusters = _clusters([one.subject for one in rounds])
    total, squares = weights.sum(), float((weights**2).sum())
    uncovered = [float(target[one.chances <= 0.0].sum()) for one, target in _pairs(rounds, targets)]
    return Estimates(
        rounds=len(rounds),
        subjects=int(clusters.max()) + 1,
        logged=_mean(rewards, clusters),
        ips=_mean(weights * rewards, clusters),
        clipped_ips=_mean(np.minimum(weights, clip) * rewards, clusters),
        snips=_ratio(weights * rewards, weights, clusters),
        doubly_robust=_mean(direct + weights * (rewards - of_shown), clusters),
        effective_rounds=float(total**2 / squares) if squares > 0.0 else 0.0,
        clipped=float((weights > clip).mean()),
        not_covered=float(np.mean(uncovered)),
    )


def _pairs(rounds: Sequence[Round], targets: Sequence[Chances]) -> "zip[tuple[Round, Chances]]":
    return zip(rounds, targets, strict=True)


def _clusters(names: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.unique(np.asarray(names), return_inverse=True)[1].astype(np.int64)


def _mean(values: Values, clusters: npt.NDArray[np.int64]) -> Estimate:
    value = float(values.mean())
    return _with_interval(value, values - value, clusters)


def _ratio(numerators: Values, denominators: Values, clusters: npt.NDArray[np.int64]) -> Estimate:
    """A ratio of means; its interval by the delta method.

    Each subject's residual is divided by the share of the weight that is not its own (as HC3 does, MacKinnon and White,
    1985): a subject with much of the weight pulls the value towards itself, and its residual looks too small.
    """
    below = float(denominators.mean())
    if below <= 0.0:
        return Estimate(value=0.0, low=0.0, high=1.0, standard_error=math.inf)
    value = float(numerators.mean()) / below
    own = np.bincount(clusters, weights=denominators)[clusters] / denominators.sum()
    residuals = (numerators - value * denominators) / below / np.maximum(1.0 - own, 1e-9)
    return _with_interval(value, residuals, clusters)


def _with_interval(value: float, residuals: Values, clusters: npt.NDArray[np.int64]) -> Estimate:
    sums = np.bincount(clusters, weights=residuals)
    if sums.size < 2:
        return Estimate(value=value, low=-math.inf, high=math.inf, standard_error=math.inf)
    variance = float((sums**2).sum()) * sums.size / (sums.size - 1) / residuals.size**2
    error = math.sqrt(variance)
    return Estimate(value=value, low=value - Z_95 * error, high=value + Z_95 * error, standard_error=error)
