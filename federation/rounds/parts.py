"""What a run trains: the core of the adapter, or the vectors of a slice of items. Central's side, no I/O but reading.

Both are a small matrix in public directions. The slice is chosen by categories, that is by the server and for all
phones alike: which of its items are in somebody's history changes nothing about what is sent.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from federation.device.tower import load_device_release
from federation.flower.plan import TrainingPlan
from federation.messages import Part
from federation.rounds.aggregate import (
    ServerState,
    item_step,
    principal_basis,
    server_step,
    stepped_adapter,
)
from federation.rounds.directions import Directions, directions_of, made_up_queries
from federation.rounds.outcome import ItemMoves, OutcomeError, load_adapter
from infra.contracts.release import CATALOGUE, FEDERATED_ADAPTER, ITEM_VECTORS, CatalogueItem

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


class SharedPart(Protocol):
    """The state that rounds move."""

    part: Part
    basis: Float32Array
    rows: npt.NDArray[np.int32]

    @property
    def dim(self) -> int:
        """Of the released vectors."""
        ...

    @property
    def rank(self) -> int:
        """Columns of `basis`."""
        ...

    @property
    def core(self) -> Float64Array:
        """As plans carry it."""
        ...

    def step(self, mean: Float64Array, *, weight: float, deviation: float) -> float:
        """One step by the mean of a round; returns how far it went (Frobenius norm)."""
        ...

    def saved(self) -> tuple[bytes, bytes]:
        """Core and momentum, float64."""
        ...

    def restore(self, core: bytes, momentum: bytes) -> None:
        """Inverse of `saved`."""
        ...

    def adapter(self) -> Float32Array:
        """The adapter after these rounds."""
        ...

    def items(self) -> ItemMoves | None:
        """The items' moves after these rounds, if items are what is trained."""
        ...


class _Part:
    """What both parts share: a core and its momentum in public directions."""

    part: Part

    def __init__(self, training: TrainingPlan, *, released: Float32Array, basis: Float32Array, rows: int) -> None:
        self.basis = basis
        self.rows = np.zeros(0, dtype=np.int32)
        self._training = training
        self._released = released
        self._state = ServerState(np.zeros((rows, basis.shape[1])), np.zeros((rows, basis.shape[1])))

    @property
    def dim(self) -> int:
        """Of the released vectors."""
        return int(self.basis.shape[0])

    @property
    def rank(self) -> int:
        """Columns of `basis`."""
        return int(self.basis.shape[1])

    @property
    def core(self) -> Float64Array:
        """As plans carry it."""
        return self._state.core

    def saved(self) -> tuple[bytes, bytes]:
        """Core and momentum, float64."""
        return self._state.core.tobytes(), self._state.momentum.tobytes()

    def restore(self, core: bytes, momentum: bytes) -> None:
        """Inverse of `saved`."""
        shape = self._state.core.shape
        self._state = ServerState(*(np.frombuffer(raw).reshape(shape).copy() for raw in (core, momentum)))

    def items(self) -> ItemMoves | None:
        """None, unless items are what is trained."""
        return None


class CorePart(_Part):
    """The core of the adapter, `[rank, rank]`."""

    part = Part.CORE

    def step(self, mean: Float64Array, *, weight: float, deviation: float) -> float:  # noqa: ARG002 (of the protocol)
        """FedAvgM; `mean` has been shrunk by what its noise explains."""
        training = self._training
        self._state = server_step(
            self._state, mean, learning_rate=training.server_learning_rate, momentum=training.server_momentum
        )
        return float(np.linalg.norm(mean))

    def adapter(self) -> Float32Array:
        """The adapter after these rounds."""
        return stepped_adapter(self._released, basis=self.basis, core=self._state.core)


class ItemsPart(_Part):
    """The vectors of a slice of items, `[rows, rank]`."""

    part = Part.ITEMS

    def __init__(
        self, training: TrainingPlan, *, released: Float32Array, directions: Directions, rows: npt.NDArray[np.int32]
    ) -> None:
        super().__init__(training, released=released, basis=directions.basis, rows=len(rows))
        self.rows = rows
        self._centre = directions.centre

    def step(self, mean: Float64Array, *, weight: float, deviation: float) -> float:
        """Popularity and tastes of each item, row by row."""
        core = item_step(
            self._state.core, mean, centre=self._centre, weight=weight, deviation=deviation,
            learning_rate=self._training.server_learning_rate,
        )  # fmt: skip
        moved = float(np.linalg.norm(core - self._state.core))
        self._state = ServerState(core, self._state.momentum)
        return moved

    def adapter(self) -> Float32Array:
        """The adapter as it was released."""
        return self._released

    def items(self) -> ItemMoves | None:
        """How far each item of the slice has moved."""
        return ItemMoves(self.rows, (self._state.core @ self.basis.T).astype(np.float32))


def shared_part(training: TrainingPlan, release: Path) -> SharedPart:
    """The part that `training` names, as the release in `release` starts it.

    Raises:
        OutcomeError: the release has no item of the categories named.
    """
    released = load_adapter(release / FEDERATED_ADAPTER)
    vectors = np.load(release / ITEM_VECTORS, allow_pickle=False)
    rank = min(training.rank, released.shape[0])
    if training.part is Part.CORE:
        return CorePart(training, released=released, basis=principal_basis(vectors, rank), rows=rank)
    rows = slice_rows(release, training.categories)
    directions = directions_of(made_up_queries(load_device_release(release)), rank)
    return ItemsPart(training, released=released, directions=directions, rows=rows)


def slice_rows(release: Path, categories: Sequence[str]) -> npt.NDArray[np.int32]:
    """Catalogue rows of the items in any of `categories`; of all items when none is named.

    Raises:
        OutcomeError: there are none.
    """
    catalogue = msgspec.msgpack.decode((release / CATALOGUE).read_bytes(), type=tuple[CatalogueItem, ...])
    wanted = set(categories)
    rows = [
        row for row, item in enumerate(catalogue) if not wanted or not wanted.isdisjoint(item.categories)
    ]  # fmt: skip
    if not rows:
        raise OutcomeError(f"the release has no item in {', '.join(categories)}.", fix="Name its own categories.")
    return np.array(rows, dtype=np.int32)
