"""A phone's part of an arm, arranged so that thousands of phones take minutes.

The phone's own code (`federation.device.model`) scores the whole catalogue at every step. Here what does not change
between steps is kept: scores outside of the slice, and of the items as they were released. It is the same computation
in another order, and where `check` is true it is held against the phone's own.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from federation.device.model import all_items, item_statistics, loss_and_gradients, moved_items
from infra.plumbing.errors import AtollError

FloatArray = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.integer]
PERSONAL_STEPS, PERSONAL_RATE, PERSONAL_DECAY = 15, 0.5, 0.2
DIFFERENCE_MAX = 1e-3
"""Largest difference from the phone's own figures, as a share of their norm: both are sums in float32."""


class PhoneDiffersError(AtollError):
    """The measurement's arrangement does not compute what a phone computes."""


@dataclass(frozen=True, slots=True)
class Examples:
    """A phone's examples: user vectors before an event, `base [examples, dim]`, and the rows that came next."""

    base: FloatArray
    targets: IntArray


class PhoneSlice:
    """One phone's statistics on a slice of the catalogue, for any core of the slice's items.

    Args:
        one: the examples, at least one.
        table: `[num_items, dim]`, as released.
        rows: `[rows]` of the slice.
        directions: `[dim, rank]`.
        check: hold every figure against the phone's own code.
    """

    def __init__(
        self, one: Examples, table: FloatArray, *, rows: IntArray, directions: FloatArray, check: bool
    ) -> None:
        place = np.full(len(table), -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))
        self._examples, self._table, self._rows, self._directions = one, table, rows, directions
        self._at = place[one.targets]
        self._features = one.base @ directions
        self._outside = _log_sum_exp(one.base @ table[place < 0].T)
        self._check = check

    def statistics(self, core: Float64Array) -> Float64Array:
        """`item_statistics` on items moved by `core [rows, rank]`: `[rows, rank + 1]`."""
        found = self._of(self._released() + self._features @ core.T.astype(np.float32))
        if self._check:
            moved = moved_items(self._table, rows=self._rows, core=core, directions=self._directions)
            own = item_statistics(
                self._examples.base, self._examples.targets, vectors=moved, rows=self._rows, directions=self._directions
            )
            _compare(found, own)
        return found

    def stepped(self, core: Float64Array, *, rate: float, steps: int) -> Float64Array:
        """`core` after `steps` local steps of gradient ascent on this phone's mean log-likelihood."""
        own, released = core.copy(), self._released()
        for _ in range(steps):
            logits = released + self._features @ own.T.astype(np.float32)
            own += rate * self._of(logits)[:, :-1] / len(self._at)
        return own

    def _released(self) -> FloatArray:
        logits: FloatArray = self._examples.base @ self._table[self._rows].T
        return logits

    def _of(self, logits: FloatArray) -> Float64Array:
        top = np.maximum(logits.max(axis=1), self._outside)[:, None]
        np.exp(logits - top, out=logits)
        logits /= logits.sum(axis=1, keepdims=True) + np.exp(self._outside[:, None] - top)
        found = np.zeros((len(self._rows), self._features.shape[1] + 1))
        found[:, :-1] = -(logits.T @ self._features)
        found[:, -1] = logits.sum(axis=0)
        inside = self._at >= 0
        np.add.at(found[:, :-1], self._at[inside], self._features[inside])
        np.add.at(found[:, -1], self._at[inside], 1.0)
        return found


def personal_part(one: Examples, table: FloatArray, *, check: bool) -> Float64Array:
    """`[dim]`: what a phone adds to its user vectors, by gradient descent on its own examples with weight decay."""
    released = one.base @ table.T
    counts = np.bincount(one.targets, minlength=len(table)).astype(np.float32)
    personal = np.zeros(table.shape[1])
    for step in range(PERSONAL_STEPS):
        logits = released + table @ personal.astype(np.float32)
        logits -= logits.max(axis=1, keepdims=True)
        np.exp(logits, out=logits)
        expected = (1.0 / logits.sum(axis=1)) @ logits
        gradient = ((expected - counts) @ table).astype(np.float64) / len(one.base)
        if check and step == PERSONAL_STEPS - 1:
            nothing = np.zeros((table.shape[1], 1), dtype=np.float32)
            own = loss_and_gradients(
                one.base, all_items(table, one.targets), basis=nothing, core=np.zeros((1, 1)), personal=personal
            )
            _compare(gradient, own.personal)
        personal -= PERSONAL_RATE * (gradient + PERSONAL_DECAY * personal)
    return personal


def _log_sum_exp(logits: FloatArray) -> FloatArray:
    """By row; minus infinity where there is no column."""
    if not logits.shape[1]:
        return np.full(len(logits), -np.inf, dtype=np.float32)
    top = logits.max(axis=1)
    found: FloatArray = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return found


def _compare(found: Float64Array, own: Float64Array) -> None:
    difference = float(np.linalg.norm(found - own)) / max(1.0, float(np.linalg.norm(own)))
    if not difference <= DIFFERENCE_MAX:
        raise PhoneDiffersError(f"a phone's figures differ from its own code's by {difference:.1e} of their norm.")
