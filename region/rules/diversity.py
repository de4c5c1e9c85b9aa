"""How much an item adds to those already placed: maximal marginal relevance, and a determinantal point process."""

from typing import Protocol

import numpy as np

from infra.contracts.features import FloatArray
from region.rules.schema import Diversity

RESIDUAL_MIN = 1e-3
"""Floor of what an item may add under a DPP: its logarithm stays above anything that backfill can reach."""


class Diversifier(Protocol):
    """Values of all offered items in the light of what is placed; the largest goes next."""

    def values(self) -> FloatArray:
        """`[count] float32`, above `arranging.BACKFILL_VALUE`; to be read, not changed, until the next call."""
        ...

    def place(self, choice: int) -> None:
        """The item at `choice` is in the slate now."""
        ...


class Mmr:
    """Carbonell and Goldstein (1998): ``(1 - s) * relevance - s * (largest cosine to an item already placed)``."""

    def __init__(self, relevance: FloatArray, unit_vectors: FloatArray, strength: float) -> None:
        self._base = (np.float32(1.0 - strength) * relevance).astype(np.float32)
        self._vectors = unit_vectors
        self._strength = np.float32(strength)
        self._closest = np.zeros(relevance.size, dtype=np.float32)
        # A slate asks thirty times: what is made anew each time costs more than what is computed.
        self._values, self._cosines = np.empty_like(self._base), np.empty_like(self._base)

    def values(self) -> FloatArray:
        """See `Diversifier`."""
        if not self._strength:
            return self._base
        np.multiply(self._closest, self._strength, out=self._values)
        return np.subtract(self._base, self._values, out=self._values)

    def place(self, choice: int) -> None:
        """See `Diversifier`."""
        if self._strength:
            np.dot(self._vectors, self._vectors[choice], out=self._cosines)
            np.maximum(self._closest, self._cosines, out=self._closest)


class Dpp:
    """Greedy MAP of a DPP, kernel ``L = Diag(q) S Diag(q)``, by the incremental Cholesky factor of Chen et al. (2018).

    ``q = exp(a * relevance)`` with ``a = (1 - s) / (2 s)``, and ``S_ij = (1 + cos(i, j)) / 2``. The greedy step takes
    the largest gain of ``log det L``, which is ``2 log q_i + log d_i^2`` with ``d_i^2`` of S alone; times s that is
    ``(1 - s) * relevance_i + s * log d_i^2``, on the scale of `Mmr`. A step costs O(count * placed).
    """

    def __init__(self, relevance: FloatArray, unit_vectors: FloatArray, strength: float, *, slots: int) -> None:
        self._base = (np.float32(1.0 - strength) * relevance).astype(np.float32)
        self._vectors = unit_vectors
        self._strength = np.float32(strength)
        # d_i^2 of nothing placed is S_ii: 1 for a vector of length one, 1/2 for the zero vector.
        self._residual = ((1.0 + np.einsum("ij,ij->i", unit_vectors, unit_vectors)) / 2.0).astype(np.float32)
        self._factor = np.zeros((slots, relevance.size), dtype=np.float32)
        self._placed = 0

    def values(self) -> FloatArray:
        """See `Diversifier`."""
        gain: FloatArray = np.log(np.maximum(self._residual, np.float32(RESIDUAL_MIN)))
        return self._base + self._strength * gain

    def place(self, choice: int) -> None:
        """See `Diversifier`."""
        similar = (1.0 + self._vectors @ self._vectors[choice]) / 2.0
        known = self._factor[: self._placed]
        own = np.sqrt(max(float(self._residual[choice]), RESIDUAL_MIN))
        row = ((similar - known[:, choice] @ known) / own).astype(np.float32)
        if self._placed < len(self._factor):
            self._factor[self._placed] = row
            self._placed += 1
        np.maximum(self._residual - row * row, 0.0, out=self._residual)


def diversifier(settings: Diversity, relevance: FloatArray, unit_vectors: FloatArray, *, slots: int) -> Diversifier:
    """The one that `settings` ask for."""
    if settings.method == "dpp" and settings.strength > 0.0:
        return Dpp(relevance, unit_vectors, settings.strength, slots=slots)
    return Mmr(relevance, unit_vectors, settings.strength)
