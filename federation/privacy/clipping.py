"""Clipping: the bound on what one user can change (L2, the whole update as one vector)."""

import numpy as np
import numpy.typing as npt

NORM_TOLERANCE = 1e-4
"""Relative room for float32 rounding when a norm is checked; the noise is scaled to the norm plus this room."""


def l2_norm(update: npt.NDArray[np.floating]) -> float:
    """Euclidean norm over all numbers, in float64."""
    return float(np.linalg.norm(update.astype(np.float64).ravel()))


def clip(update: npt.NDArray[np.floating], clipping_norm: float) -> npt.NDArray[np.float32]:
    """`update`, scaled down to `clipping_norm` if its norm is larger. Same shape, float32.

    Raises:
        ValueError: the norm is not positive and finite, or the update holds a number that is not finite.
    """
    if not 0.0 < clipping_norm < float("inf"):
        raise ValueError(f"the clipping norm must be positive and finite, not {clipping_norm}")
    norm = l2_norm(update)
    if not np.isfinite(norm):
        raise ValueError("an update that is not finite cannot be clipped")
    scale = min(1.0, clipping_norm / norm) if norm > 0.0 else 1.0
    return (update.astype(np.float64) * scale).astype(np.float32)


def within_norm(update: npt.NDArray[np.floating], clipping_norm: float) -> bool:
    """Whether the norm is at most `clipping_norm`, with NORM_TOLERANCE for rounding."""
    norm = l2_norm(update)
    return bool(np.isfinite(norm)) and norm <= clipping_norm * (1.0 + NORM_TOLERANCE)
