"""What a run trains: the core of the adapter, or the vectors of a slice of items. Central's side, no I/O but reading.

Both are a small matrix in public directions. The slice is chosen by categories, that is by the server and for all
phones alike: which of its items are in somebody's history changes nothing about what is sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from federation.device.model import moved_items
from federation.device.tower import load_device_release
from federation.flower.plan import TrainingPlan
from federation.messages import Part
from federation.rounds.aggregate import (
    NOISE_FLOOR,
    ServerState,
    StepBounds,
    item_step,
    principal_basis,
    server_step,
    stepped_adapter,
)
from federation.rounds.directions import Directions, directions_of, made_up_queries, rank_for
from federation.rounds.outcome import ItemMoves, OutcomeError, load_adapter
from federation.rounds.reading import stand_ins, start_of
from infra.contracts.release import FEDERATED_ADAPTER, ITEM_VECTORS
from infra.plumbing.catalogue.reading import open_catalogue
from infra.plumbing.errors import AtollError

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


TOP = 10
PLACES_FLOOR, PLACES_RATIO = 0.25, 2.0
"""A slice may take so much of the first places, or so many times its share of the catalogue, or its share more than it
had before. On MovieLens 100K an honest round takes 8 %, with a fifth of colluding phones 59 and 95 %."""


POPULARITY_SLACK = 1.5
"""Above what made-up users have, a phone may have so many times as much along popularity, where all have about 1."""
IMPOSSIBLE_MAX = 0.1
"""Share of a mean's mass that may contradict itself: trimming cuts each number by itself, and noise was added."""


class ImplausibleStepError(AtollError):
    """A step that honest phones would not have caused; it is not made."""


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
        """One step by the mean of a round; returns how far it went (Frobenius norm).

        Raises:
            ImplausibleStepError: it would do harm that honest phones do not; nothing was changed.
        """
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

    def reads(self) -> npt.NDArray[np.int32]:
        """What phones' towers read in place of each of `rows`, as things stand; empty where no items are trained."""
        ...

    def items(self, reads: npt.NDArray[np.int32]) -> ItemMoves | None:
        """The items' moves after these rounds, if items are what is trained; `reads` as the last round's plan says."""
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

    def reads(self) -> npt.NDArray[np.int32]:
        """Empty, unless items are what is trained."""
        return self.rows

    def items(self, reads: npt.NDArray[np.int32]) -> ItemMoves | None:  # noqa: ARG002 (of the protocol)
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


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What a step over items is judged on, all of it public.

    `vectors [items, dim]`; made-up `queries [n, dim]`; `heard [items]`: how many events central's training had of each,
    `reading [items]`: what the release itself reads in place of each; None: as one without stand-ins. `judged_on
    [m, dim]`: whose first places are looked at, where that is not on `queries`.
    """

    vectors: Float32Array
    queries: Float32Array
    heard: npt.NDArray[np.int64]
    reading: npt.NDArray[np.int32] | None = None
    judged_on: Float32Array | None = None


class ItemsPart(_Part):
    """The vectors of a slice of items, `[rows, rank]`."""

    part = Part.ITEMS

    def __init__(
        self, training: TrainingPlan, *, released: Float32Array, directions: Directions, rows: npt.NDArray[np.int32],
        catalogue: Catalogue,
    ) -> None:  # fmt: skip
        self._weights = directions.weights(training.taste_norm)
        weighed = (directions.basis * self._weights).astype(np.float32)
        super().__init__(training, released=released, basis=weighed, rows=len(rows))
        self.rows = rows
        self._popularity_max = POPULARITY_SLACK * float(np.abs(catalogue.queries @ directions.basis[:, -1]).max())
        self._bounds = StepBounds(
            learning_rate=training.server_learning_rate, momentum=training.server_momentum,
            taste_region=training.taste_region, popularity_region=training.popularity_region,
        )  # fmt: skip
        self._centre = directions.centre
        self._catalogue = catalogue
        core = start_of(
            catalogue.vectors, rows=rows, rank=self.rank, heard=catalogue.heard > 0, queries=catalogue.queries,
            released=catalogue.reading,
        )  # fmt: skip
        self._start = core
        self._state = ServerState(core, np.zeros_like(core))
        share = len(rows) / len(catalogue.vectors)
        self._places_max = max(PLACES_FLOOR, PLACES_RATIO * share, self._places(core) + share)

    @property
    def core(self) -> Float64Array:
        """As plans carry it: in the directions as they weigh them. The state is in whitened ones."""
        return self._state.core / self._weights

    def step(self, mean: Float64Array, *, weight: float, deviation: float) -> float:
        """Popularity and tastes of each item, row by row.

        Raises:
            ImplausibleStepError: no honest phones have such a mean, or the slice would crowd the other items out;
                nothing was changed.
        """
        self._require_possible(mean, deviation)
        unweighed = mean / np.append(self._weights, 1.0)
        state = item_step(
            self._state, unweighed, centre=self._centre, heard=self._catalogue.heard[self.rows], weight=weight,
            deviation=deviation, taste_deviation=deviation / float(self._weights[0]), bounds=self._bounds,
        )  # fmt: skip
        places = self._places(state.core)
        if places > self._places_max:
            raise ImplausibleStepError(
                f"after this step the slice's items would take {places:.0%} of the first {TOP} places of made-up users;"
                f" no more than {self._places_max:.0%} is plausible.",
                fix="Nothing was changed. Look for poisoned updates before the next round.",
            )
        moved = float(np.linalg.norm(state.core - self._state.core))
        self._state = state
        return moved

    def adapter(self) -> Float32Array:
        """The adapter as it was released."""
        return self._released

    def reads(self) -> npt.NDArray[np.int32]:
        """The items themselves where central knows them; else what stands in, once they moved or by the release."""
        catalogue = self._catalogue
        return stand_ins(
            catalogue.vectors, rows=self.rows, core=self.core, directions=self.basis, heard=catalogue.heard > 0,
            queries=catalogue.queries, released=catalogue.reading,
        )  # fmt: skip

    def _require_possible(self, mean: Float64Array, deviation: float) -> None:
        """An item cannot have come up, or been expected, less than never: gradients are bounded by the mass.

        It holds for every honest phone, clipped or not, and so for sums of them. Who pushes an item has to tell of
        mass too, which takes of the norm.
        """
        excess, mass = mean[:, -2], mean[:, -1]
        noise = NOISE_FLOOR * deviation * (1.0 + self._popularity_max)
        beyond = float(np.maximum(np.abs(excess) - self._popularity_max * mass - noise, 0.0).sum())
        told = float(np.abs(mass).sum())
        if beyond > IMPOSSIBLE_MAX * told:
            raise ImplausibleStepError(
                f"{beyond:.3g} of {told:.3g} that phones tell of their events contradicts itself: items would have"
                " come up, or been expected, less than never.",
                fix="Nothing was changed. Look for poisoned updates before the next round.",
            )

    def _places(self, core: Float64Array) -> float:
        """The share of the first places of made-up users that the slice's items take after a step to `core`.

        `core` as the state has it, in whitened directions.
        """
        carried = core / self._weights
        vectors = moved_items(self._catalogue.vectors, rows=self.rows, core=carried, directions=self.basis)
        judged_on = self._catalogue.judged_on
        scores = (self._catalogue.queries if judged_on is None else judged_on) @ vectors.T
        top = np.argpartition(-scores, min(TOP, scores.shape[1]) - 1, axis=1)[:, :TOP]
        return float(np.isin(top, self.rows).mean())

    def items(self, reads: npt.NDArray[np.int32]) -> ItemMoves | None:
        """How far each item of the slice has moved; nowhere where no round moved any."""
        core = self.core * (not np.array_equal(self._state.core, self._start))
        return ItemMoves(self.rows, (core @ self.basis.T).astype(np.float32), reads)


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
    held = load_device_release(release)
    catalogue = Catalogue(vectors.astype(np.float32), made_up_queries(held), held.heard, held.reading)
    return ItemsPart(
        training, released=released, rows=rows, catalogue=catalogue,
        directions=directions_of(catalogue.queries, rank_for(training.rank, dim=vectors.shape[1], rows=len(rows))),
    )  # fmt: skip


def slice_rows(release: Path, categories: Sequence[str]) -> npt.NDArray[np.int32]:
    """Catalogue rows of the items in any of `categories`; of all items when none is named.

    Raises:
        OutcomeError: there are none.
    """
    catalogue = open_catalogue(release)
    if not categories:
        return np.arange(len(catalogue), dtype=np.int32)
    known = [catalogue.categories[name] for name in categories if name in catalogue.categories]
    rows = np.unique(np.concatenate([np.zeros(0, dtype=np.int32), *known])).astype(np.int32)
    if not rows.size:
        raise OutcomeError(f"the release has no item in {', '.join(categories)}.", fix="Name its own categories.")
    return rows
