"""The arms of the two scenes, on what the central job left behind. NumPy only; phones by their own code.

A phone's part is `federation.device.model` (in `phone.py`'s arrangement, which is held against it on some phones of
every arm) with `federation.privacy.clipping.clip`, the server's is `federation.rounds.parts.ItemsPart`; noise comes
from `federation.privacy.noise`, in full for every region. What is simulated is the transport: sums are taken in float64
instead of the ring, which is exact to 2**-18 of the norm.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from federation.device.model import moved_items
from federation.flower.plan import TrainingPlan
from federation.privacy.clipping import clip
from federation.privacy.noise import Entropy, gaussian
from federation.rounds.directions import Directions, directions_of, rank_for
from federation.rounds.parts import Catalogue, ImplausibleStepError, ItemsPart
from infra.bench.federated.made_up import made_up_vectors
from infra.bench.federated.phone import Examples, PhoneSlice, personal_part
from infra.bench.federated.scenes import CEILING, SENSITIVE, SILENT, Scenes
from infra.bench.federated.tower import NumpyTower, Sequences, Vectors
from infra.plumbing.releases.stand_ins import NOT_READ

FloatArray = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.integer]

TOP, CHUNK, EXAMPLES_MAX, QUERIES = 10, 512, 200, 6000
LOCAL_STEPS = 4
CHECKED = 20
"""Phones of every arm whose part is computed by the phone's own code too."""
PARITY_MAX = 1e-3


@dataclass(frozen=True, slots=True)
class Recipe:
    """How ours is trained: as `federate round` does by this plan, in so many rounds."""

    training: TrainingPlan
    rounds: int
    noise_multiplier: float = 0.0


@dataclass(frozen=True, slots=True)
class Learned:
    """What rounds leave: the items, `[num_items, dim]`, what is read in place of each, `[num_items]`; void rounds."""

    table: FloatArray
    reads: IntArray
    void: int = 0


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
        seen = self.visible.copy()
        seen[self.test_at] = False
        self.heard = np.bincount(self.events.rows[seen], minlength=len(self.scenes.sensitive_items))
        self._released: Vectors | None = None
        self._queries: FloatArray | None = None

    def released(self) -> Vectors:
        """The released model's vectors over what it can read of each phone, of every evaluated user; computed once."""
        if self._released is None:
            self._released = self.reading(self.unmoved())
        return self._released

    def reading(self, reads: IntArray) -> Vectors:
        """The released tower's vectors where `reads [num_items]` is read in place of each item; NOT_READ: nothing.

        An event's vector is that of all that is read of what came before it. Where events in between are not read, the
        gap that the tower is told of is that to the next event that is.
        """
        tower, rows = self.towers[self.name], reads[self.events.rows]
        known = rows >= 0
        known[self.test_at] = True
        read = replace(self.events, rows=np.maximum(rows, 0)).kept(known)
        found = tower.encode(read, self.users, tower.table)
        place = np.full(len(read.rows), -1, dtype=np.int64)
        place[found.along_at] = np.arange(len(found.along_at))
        place[read.starts[1:][self.users] - 1] = len(found.along) + np.arange(len(self.users))
        before = place[np.minimum(np.cumsum(known) - known, len(read.rows) - 1)]
        ends = self.events.starts[1:][self.owners] - 1
        numbers = np.arange(len(rows))
        wanted = np.isin(self.owners, self.users) & (numbers < ends) & (numbers >= ends - EXAMPLES_MAX)
        # Who has nothing before an event that is read has no example there.
        wanted &= (before >= 0) & (np.cumsum(known) - known > read.starts[:-1][self.owners])
        at = np.flatnonzero(wanted)
        return Vectors(found.last, np.concatenate([found.along, found.last])[before[at]], at)

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
        return self.ranked(tower.last(self.events.kept(known), self.users, tower.table), tower.table)

    def on_phone(self, learned: Learned | None = None) -> Ranks:
        """The released model over what it can read of the whole history, with its own items or those learned."""
        if learned is None:
            return self.ranked(self.released().last, self.towers[self.name].table)
        return self.ranked(self.reading(learned.reads).last, learned.table)

    def ceiling(self) -> Ranks:
        """The model that saw everything, over the whole history."""
        tower = self.towers[CEILING]
        return self.ranked(tower.last(self.events, self.users, tower.table), tower.table)

    def local_only(self) -> Ranks:
        """The released model over the whole history, plus the personal part that each phone makes for itself."""
        return self._personal(self.released(), self.towers[self.name].table)

    def personal(self, learned: Learned) -> Ranks:
        """What was learned, plus the personal part that each phone makes for itself."""
        return self._personal(self.reading(learned.reads), learned.table)

    def _personal(self, vectors: Vectors, table: FloatArray) -> Ranks:
        moved, of = vectors.last.astype(np.float64), np.isin(self.users, self.phones)
        for line, one in enumerate(self.examples(vectors, self.users)):
            # Whose events central has anyway uses no phone.
            if of[line] and len(one.base):
                moved[line] += personal_part(one, table, check=line < CHECKED)
        return self.ranked(moved, table)

    def examples(self, vectors: Vectors, users: IntArray) -> Iterator[Examples]:
        """Each user's newest examples: vectors before an event, and the event's item."""
        owners = self.owners[vectors.along_at]
        for user in users:
            begin, end = np.searchsorted(owners, (user, user + 1))
            begin = max(begin, end - EXAMPLES_MAX)
            yield Examples(vectors.along[begin:end], self.events.rows[vectors.along_at[begin:end]])

    def directions(self, rank: int) -> Directions:
        """Of the user vectors of the histories that central trained on itself."""
        queries = self._some_queries()
        return directions_of(queries, rank_for(rank, dim=queries.shape[1], rows=len(self.slice)))

    def _some_queries(self) -> FloatArray:
        tower = self.towers[self.name]
        if self._queries is None:
            known = self.events.kept(self.visible)
            several = np.flatnonzero(np.diff(known.starts) > 1)
            along = tower.encode(known, several, tower.table).along
            self._queries = along[np.random.default_rng(0).permutation(len(along))[:QUERIES]]
        return self._queries

    def part(self, training: TrainingPlan) -> ItemsPart:
        """Central's side of rounds over the slice."""
        table = self.towers[self.name].table
        judged_on = made_up_vectors(self.towers[self.name], self.heard)
        return ItemsPart(
            training, released=np.eye(table.shape[1], dtype=np.float32), directions=self.directions(training.rank),
            rows=self.slice, catalogue=Catalogue(table, self._some_queries(), self.heard, judged_on=judged_on),
        )  # fmt: skip

    def ours(self, recipe: Recipe, *, entropy: Entropy) -> Learned:
        """The items after all rounds; a round whose step is implausible changes nothing, as where it is deployed."""
        part, vectors, reads, void = self.part(recipe.training), self.released(), self.unmoved(), 0
        for number in range(recipe.rounds):
            if number % recipe.training.stage_rounds == 0:
                if number and not self.heard[self.slice].all():
                    reads[self.slice] = part.reads()
                    vectors = self.reading(reads)
                phones = self._phones(vectors, part.basis)
            mean, deviation = self._round(phones, part.core, recipe, entropy)
            try:
                part.step(mean, weight=len(self.phones), deviation=deviation)
            except ImplausibleStepError:
                void += 1
        return Learned(self.moved(part), reads, void)

    def moved(self, part: ItemsPart) -> FloatArray:
        """All items, those of the slice where `part` has them, `[num_items, dim]`."""
        return moved_items(self.towers[self.name].table, rows=self.slice, core=part.core, directions=part.basis)

    def unmoved(self) -> IntArray:
        """What is read in place of each item before any round: nothing of those that central never heard of."""
        return np.where(self.heard > 0, np.arange(len(self.heard)), NOT_READ)

    def _phones(self, vectors: Vectors, directions: FloatArray) -> list[PhoneSlice]:
        """What every phone that has something to say works on, in the stage whose vectors these are."""
        table = self.towers[self.name].table
        return [
            PhoneSlice(one, table, rows=self.slice, directions=directions, check=line < CHECKED)
            for line, one in enumerate(self.examples(vectors, self.phones)) if len(one.base)
        ]  # fmt: skip

    def _round(
        self, phones: list[PhoneSlice], core: Float64Array, recipe: Recipe, entropy: Entropy
    ) -> tuple[Float64Array, float]:
        total = np.zeros((core.shape[0], core.shape[1] + 1))
        for phone in phones:
            total += clip(phone.statistics(core), recipe.training.clipping_norm)
        deviation = recipe.noise_multiplier * recipe.training.clipping_norm
        regions = len(np.unique(self.regions[self.phones]))
        for _ in range(regions if deviation else 0):
            total += deviation * gaussian(total.shape, entropy=entropy)
        count = max(1, len(self.phones))
        return total / count, deviation * regions**0.5 / count

    def fedavg(self, *, rounds: int, rank: int, rate: float) -> Learned:
        """Federated averaging of the same slice: phones take local steps, the server takes the plain mean."""
        tower, found = self.towers[self.name], self.directions(rank)
        core = np.zeros((len(self.slice), found.basis.shape[1]))
        phones = self._phones(self.released(), found.basis)
        for _ in range(rounds):
            mean = np.zeros_like(core)
            for phone in phones:
                mean += (phone.stepped(core, rate=rate, steps=LOCAL_STEPS) - core) / len(self.phones)
            core = core + mean
        table = moved_items(tower.table, rows=self.slice, core=core, directions=found.basis)
        return Learned(table, self.unmoved())


def scenes() -> tuple[str, str]:
    """Names of both."""
    return SILENT, SENSITIVE
