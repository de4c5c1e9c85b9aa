"""The arms of the two scenes, on what the central job left behind. NumPy only; phones by their own code.

A phone's part is `federation.device.model.item_statistics` with `federation.privacy.clipping.clip`, the server's is
`federation.rounds.aggregate.item_step`; noise comes from `federation.privacy.noise`, in full for every region. What is
simulated is the transport: sums are taken in float64 instead of the ring, which is exact to 2**-18 of the norm.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from federation.device.model import all_items, item_statistics, loss_and_gradients, moved_items
from federation.privacy.clipping import clip
from federation.privacy.noise import Entropy, gaussian
from federation.rounds.aggregate import item_step
from federation.rounds.directions import Directions, directions_of
from infra.bench.federated.scenes import CEILING, SENSITIVE, SILENT, Scenes
from infra.bench.federated.tower import NumpyTower, Sequences, Vectors

FloatArray = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.integer]

TOP, CHUNK, EXAMPLES_MAX, QUERIES = 10, 512, 200, 6000
PERSONAL_STEPS, PERSONAL_RATE, PERSONAL_DECAY = 15, 0.5, 0.2
PARITY_MAX = 1e-3


@dataclass(frozen=True, slots=True)
class Recipe:
    """How ours is trained: stages of rounds; after a stage phones read the new items in their towers (a release)."""

    rank: int
    stages: int
    rounds: int
    learning_rate: float
    clipping_norm: float = 0.0
    """0: no clipping."""
    noise_multiplier: float = 0.0


@dataclass(frozen=True, slots=True)
class Ranks:
    """NDCG@10 and HR@10 of every evaluated user, `[users]` each."""

    ndcg: Float64Array
    hits: Float64Array


class Scene:
    """One scene of one seed."""

    def __init__(self, folder: Path, name: str) -> None:
        with np.load(folder / "events.npz", allow_pickle=False) as events:
            self.events = Sequences(events["rows"], events["strengths"], events["times_s"], events["starts"])
            self.users: IntArray = events["evaluated"]
            self.regions: IntArray = events["regions"]
            self.scenes = Scenes(events["silent"], events["sensitive_items"], tuple(events["genres"].tolist()))
        self.name = name
        self.owners = np.repeat(np.arange(len(self.events.starts) - 1), np.diff(self.events.starts))
        self.towers = {which: NumpyTower(folder / f"{which}.npz") for which in (name, CEILING)}
        self.test_at = self.events.starts[1:][self.users] - 1
        self.targets = self.events.rows[self.test_at]
        self.visible = self.scenes.visible(name, self.owners, self.events.rows)
        if name == SENSITIVE:
            self.slice = np.flatnonzero(self.scenes.sensitive_items).astype(np.int32)
            self.phones = self.users
            self.asked: BoolArray = self.scenes.sensitive_items[self.targets]
        else:
            self.slice = np.arange(len(self.scenes.sensitive_items), dtype=np.int32)
            self.phones = self.users[self.scenes.silent[self.users]]
            self.asked = self.scenes.silent[self.users]

    def parity(self) -> float:
        """Largest difference of the NumPy tower from TensorFlow's own vectors."""
        tower = self.towers[self.name]
        return float(
            np.abs(tower.encode(self.events, self.users[: len(tower.check)], tower.table).last - tower.check).max()
        )

    def ranked(self, vectors: FloatArray | Float64Array, table: FloatArray) -> Ranks:
        """Full catalogue, the whole history taken out, ties by catalogue row."""
        places = [
            self._places(vectors[begin : begin + CHUNK] @ table.T, begin) for begin in range(0, len(self.users), CHUNK)
        ]
        place = np.concatenate(places)
        hits = place < TOP
        return Ranks(np.where(hits, 1.0 / np.log2(np.where(hits, place, 0) + 2.0), 0.0), hits.astype(np.float64))

    def _places(self, scores: npt.NDArray[np.floating], begin: int) -> IntArray:
        targets = self.targets[begin : begin + CHUNK]
        lines = np.arange(len(scores))
        for line, user in enumerate(self.users[begin : begin + CHUNK]):
            scores[line, self.events.rows[self.events.starts[user] : self.events.starts[user + 1] - 1]] = -np.inf
        own = scores[lines, targets][:, None]
        ahead = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < targets[:, None]))
        places: IntArray = np.where(np.isneginf(own[:, 0]), scores.shape[1], ahead.sum(axis=1))
        return places

    def popularity(self) -> Ranks:
        """What central can count, the same list for all."""
        seen = self.visible.copy()
        seen[self.test_at] = False
        counts = np.bincount(self.events.rows[seen], minlength=len(self.scenes.sensitive_items)).astype(np.float32)
        return self.ranked(np.ones((len(self.users), 1), dtype=np.float32), counts[:, None])

    def served(self) -> Ranks:
        """The released model over what the region knows."""
        tower = self.towers[self.name]
        known = self.visible.copy()
        known[self.test_at] = True
        return self.ranked(tower.encode(self.events.kept(known), self.users, tower.table).last, tower.table)

    def on_phone(self, table: FloatArray | None = None, *, which: str = "") -> Ranks:
        """A model over the whole history, with its own items or with `table`."""
        tower = self.towers[which or self.name]
        items = tower.table if table is None else table
        return self.ranked(tower.encode(self.events, self.users, items).last, items)

    def local_only(self) -> Ranks:
        """The released model over the whole history, plus the personal part that each phone makes for itself."""
        tower = self.towers[self.name]
        vectors = tower.encode(self.events, self.users, tower.table)
        moved = vectors.last.astype(np.float64)
        nothing = np.zeros((tower.table.shape[1], 1), dtype=np.float32)
        for line, (base, targets) in enumerate(self.examples(vectors, self.users)):
            personal = np.zeros(tower.table.shape[1])
            for _ in range(PERSONAL_STEPS if len(base) else 0):
                found = loss_and_gradients(
                    base, all_items(tower.table, targets), basis=nothing, core=np.zeros((1, 1)), personal=personal
                )
                personal -= PERSONAL_RATE * (found.personal + PERSONAL_DECAY * personal)
            moved[line] += personal
        return self.ranked(moved, tower.table)

    def examples(self, vectors: Vectors, users: IntArray) -> Iterator[tuple[FloatArray, IntArray]]:
        """Each user's newest examples: vectors before an event, and the event's item."""
        owners = self.owners[vectors.along_at]
        for user in users:
            begin, end = np.searchsorted(owners, (user, user + 1))
            begin = max(begin, end - EXAMPLES_MAX)
            yield vectors.along[begin:end], self.events.rows[vectors.along_at[begin:end]]

    def directions(self, rank: int) -> Directions:
        """From the vectors of the histories that central trained on itself."""
        tower = self.towers[self.name]
        known = self.events.kept(self.visible)
        several = np.flatnonzero(np.diff(known.starts) > 1)
        along = tower.encode(known, several, tower.table).along
        drawn = np.random.default_rng(0).permutation(len(along))[:QUERIES]
        return directions_of(along[drawn], min(rank, along.shape[1]))

    def ours(self, recipe: Recipe, *, entropy: Entropy) -> FloatArray:
        """The items after all rounds, `[num_items, dim]`."""
        tower, found = self.towers[self.name], self.directions(recipe.rank)
        core = np.zeros((len(self.slice), found.basis.shape[1]))
        table = tower.table
        for _ in range(recipe.stages):
            vectors = tower.encode(self.events, self.phones, table)
            for _ in range(recipe.rounds):
                mean, deviation = self._round(vectors, table, found, recipe, entropy)
                core = item_step(
                    core, mean, centre=found.centre, weight=len(self.phones), deviation=deviation,
                    learning_rate=recipe.learning_rate,
                )  # fmt: skip
                table = moved_items(tower.table, rows=self.slice, core=core, directions=found.basis)
        return table

    def _round(
        self, vectors: Vectors, table: FloatArray, found: Directions, recipe: Recipe, entropy: Entropy
    ) -> tuple[Float64Array, float]:
        total = np.zeros((len(self.slice), found.basis.shape[1] + 1))
        for base, targets in self.examples(vectors, self.phones):
            if len(base):
                one = item_statistics(base, targets, vectors=table, rows=self.slice, directions=found.basis)
                total += clip(one, recipe.clipping_norm) if recipe.clipping_norm else one
        deviation = recipe.noise_multiplier * recipe.clipping_norm
        regions = len(np.unique(self.regions[self.phones]))
        for _ in range(regions if deviation else 0):
            total += deviation * gaussian(total.shape, entropy=entropy)
        count = max(1, len(self.phones))
        return total / count, deviation * regions**0.5 / count

    def fedavg(self, *, rounds: int, rank: int, rate: float) -> FloatArray:
        """Federated averaging of the same slice: phones take local steps, the server takes the plain mean."""
        tower, found = self.towers[self.name], self.directions(rank)
        core = np.zeros((len(self.slice), found.basis.shape[1]))
        vectors = tower.encode(self.events, self.phones, tower.table)
        for _ in range(rounds):
            mean = np.zeros_like(core)
            for base, targets in self.examples(vectors, self.phones):
                mean += _local(base, targets, tower.table, self.slice, found.basis, core, rate) / len(self.phones)
            core = core + mean
        return moved_items(tower.table, rows=self.slice, core=core, directions=found.basis)


def _local(
    base: FloatArray, targets: IntArray, table: FloatArray, rows: IntArray, basis: FloatArray, core: Float64Array,
    rate: float, steps: int = 4,
) -> Float64Array:  # fmt: skip
    own = core.copy()
    for _ in range(steps if len(base) else 0):
        moved = moved_items(table, rows=rows, core=own, directions=basis)
        own += rate * item_statistics(base, targets, vectors=moved, rows=rows, directions=basis)[:, :-1] / len(base)
    return own - core


def scenes() -> tuple[str, str]:
    """Names of both."""
    return SILENT, SENSITIVE
