"""From a logit to a probability (Platt, 1999), and how far a set of probabilities is off."""

from typing import Final

import numpy as np
import numpy.typing as npt

BINS: Final = 15


def fit_platt(logits: npt.NDArray[np.float64], labels: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Slope (positive) and offset that make sigmoid(slope * logit + offset) a probability; Newton's method."""
    positives = int(labels.sum())
    rate = (positives + 1.0) / (labels.size + 2.0)  # Platt's smoothed targets: no certainty from few examples
    goal = np.where(labels, (positives + 1.0) / (positives + 2.0), 1.0 / (labels.size - positives + 2.0))
    weights = np.array([1.0, np.log(rate / (1.0 - rate)) - float(logits.mean())])
    design = np.stack([logits, np.ones_like(logits)], axis=1)
    for _ in range(50):
        probability = 1.0 / (1.0 + np.exp(-np.clip(design @ weights, -30.0, 30.0)))
        curvature = (design * (probability * (1.0 - probability))[:, None]).T @ design + 1e-6 * np.eye(2)
        change = np.linalg.solve(curvature, design.T @ (probability - goal))
        weights -= np.clip(change, -2.0, 2.0)
        if np.abs(change).max() < 1e-8:
            break
    # The order must survive calibration, whatever little the examples say.
    return max(float(weights[0]), 1e-3), float(weights[1])


def calibration_error(probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.bool_]) -> float:
    """Expected calibration error (Naeini et al., 2015) over BINS bins of equally many examples, relative to the rate.

    0: what is said to happen in one of ten cases happens in one of ten; 1: off by as much as things happen at all.
    """
    if not labels.any():
        return 0.0
    order = np.argsort(probabilities, kind="stable")
    off = sum(abs(float(probabilities[part].sum()) - float(labels[part].sum())) for part in np.array_split(order, BINS))
    return off / float(labels.sum())
