"""Phones that send what they must not, under secure aggregation: a round keeps its quality, or is void.

One round over the sensitive items of MovieLens 100K (`bench federated`'s scene) with the plan of a run without
noise (`items_training`): 240 users are phones with their own updates, in eight cohorts of secure sums, the same ones in
every round, for the trimmed mean depends on who is with whom. A fifth of
them, at random and so in every cohort, do the same wrong thing at a time: sign flip (their update turned round, within
the norm), scale (their ring numbers a thousand times their update, past their own clipping), NaN, another shape, the
update twice, the update of an earlier round, and together: all of them push the slice's items up with the whole norm.
Gateway, central's judgement of the sums, the trimmed mean over cohorts and the judgement of the step are the deployed
code. `quality_change_max`: the largest change of NDCG@10 over all targets of all users, either way, against the same
round without attack, of rounds that were not void. `void_rounds`: rounds that changed nothing. `refused`: messages and
cohorts that were not taken.
Options: `phones` (default 240), `share` (of them that attack, default 0.2), `cohorts` (default 8), `epochs` (of the
central model, default 3), `made` (a `seed-N` folder of `bench federated`, instead of training).
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from federation.device.model import moved_items
from federation.flower.plan import items_training
from federation.messages import Part, RoundPlan, to_bytes
from federation.rounds.aggregate import judged, mean_update, noise_deviation
from federation.rounds.parts import Catalogue, ImplausibleStepError, ItemsPart
from federation.secure_aggregation.ring import STEPS, RingArray
from infra.bench.catalogue import BenchRequest
from infra.bench.federated.jobs import run_job
from infra.bench.federated.phone import PhoneSlice
from infra.bench.federated.poisoned_cohorts import REGION, Deed, Phones
from infra.bench.federated.scenes import CEILING, SENSITIVE
from infra.bench.federated.simulation import Scene
from infra.bench.results import Bar, Measured, at_most
from infra.plumbing.releases.stand_ins import NOT_READ

NOISE = 1e-6
"""So little noise that it is none: what is measured is the attack."""
QUERIES = 2000
"""User vectors on which a step is judged; a deployed run makes them up."""
JOB_S = 900.0
HARMLESS = 0.02
ATTACKS = ("sign_flip", "scale", "nan", "shape", "twice", "replay", "colluding")
SCALE = 1000
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A round: NDCG@10 over all targets after it, whether it was void, and what was refused in it."""

    quality: float
    void: bool
    refused: int


class Rounds:
    """The same round again and again, each with another attack."""

    def __init__(self, scene: Scene, *, phones: int, cohorts: int, share: float, seed: int) -> None:
        self._scene = scene
        self._training = items_training((), noise_multiplier=0.0)
        self._table = scene.towers[SENSITIVE].table
        self._directions = scene.directions(self._training.rank)
        rng = np.random.default_rng(seed)
        along = scene.released().along
        self._queries = along[rng.permutation(len(along))[:QUERIES]]
        reads = np.where(scene.heard > 0, np.arange(len(scene.heard)), NOT_READ)
        reads[scene.slice] = self._part().reads()
        self._vectors = scene.reading(reads)
        self._users = np.sort(rng.permutation(scene.phones)[:phones])
        self._updates = self._own_updates()
        self._phones = Phones(len(self._updates), cohorts=cohorts, division=seed)
        self.attackers = rng.permutation(len(self._updates))[: round(share * len(self._updates))].tolist()
        self._sent: Mapping[int, RingArray] = {}

    def _own_updates(self) -> list[Float64Array]:
        scene, core, basis = self._scene, self._part().core, self._directions.basis
        slices = (
            PhoneSlice(one, self._table, rows=scene.slice, directions=basis, check=False)
            for one in scene.examples(self._vectors, self._users) if len(one.base)
        )  # fmt: skip
        return [one.statistics(core) for one in slices]

    def quality(self, core: Float64Array) -> float:
        """NDCG@10 over all targets of every user, with the items where `core` has them."""
        moved = moved_items(self._table, rows=self._scene.slice, core=core, directions=self._directions.basis)
        return float(self._scene.ranked(self._vectors.last, moved).ndcg.mean())

    def released(self) -> float:
        """Before any round."""
        return self.quality(self._part().core)

    def run(self, attack: str) -> Outcome:
        """One round under an attack; "" for none."""
        part, plan = self._part(), self._plan()
        collected = self._phones.round(
            plan, self._turned(attack), self._deeds(attack), beyond=self._beyond(attack), before=self._sent
        )  # fmt: skip
        if not attack:
            self._sent = collected.masked
        found = judged([collected.answer], plan, regions=[REGION])
        refused = collected.refused + len(found.refused)
        if not found.sums:
            return Outcome(0.0, void=True, refused=refused)
        try:
            part.step(
                mean_update(found.sums), weight=sum(one.weight for one in found.sums),
                deviation=noise_deviation(found.sums),
            )  # fmt: skip
        except ImplausibleStepError:
            return Outcome(0.0, void=True, refused=refused)
        return Outcome(self.quality(part.core), void=False, refused=refused)

    def _turned(self, attack: str) -> Sequence[Float64Array]:
        """What phones' own training gives."""
        if attack not in ("sign_flip", "colluding"):
            return self._updates
        turned = list(self._updates)
        for number in self.attackers:
            turned[number] = -self._updates[number] if attack == "sign_flip" else self._push()
        return turned

    def _push(self) -> Float64Array:
        """Every item of the slice came up, and was never expected: the whole norm into popularity and mass."""
        shape = self._updates[0].shape
        pushed = np.zeros(shape)
        pushed[:, -2:] = 1e6
        return pushed

    def _deeds(self, attack: str) -> dict[int, Deed]:
        named = {one.value: one for one in Deed}
        return dict.fromkeys(self.attackers, named[attack]) if attack in named else {}

    def _beyond(self, attack: str) -> dict[int, RingArray]:
        if attack != "scale":
            return {}
        return {
            number: (SCALE * self._updates[number] * (STEPS / self._training.clipping_norm))
            .astype(np.int64)
            .astype(np.uint32)
            .ravel()
            for number in self.attackers
        }

    def _part(self) -> ItemsPart:
        return ItemsPart(
            self._training, released=np.eye(self._table.shape[1], dtype=np.float32), directions=self._directions,
            rows=self._scene.slice, catalogue=Catalogue(self._table, self._queries, self._scene.heard),
        )  # fmt: skip

    def _plan(self) -> RoundPlan:
        return RoundPlan(
            round_id="bench", release="bench", part=Part.ITEMS, dim=self._table.shape[1],
            rank=self._directions.basis.shape[1], basis=to_bytes(self._directions.basis),
            core=to_bytes(self._part().core), rows=self._scene.slice.astype("<i4").tobytes(),
            clipping_norm=self._training.clipping_norm, noise_multiplier=NOISE,
        )  # fmt: skip


def run(request: BenchRequest) -> Measured:
    """Every attack once a run; each run draws other attackers."""
    scene = Scene(_made(request), SENSITIVE)
    found: list[dict[str, Outcome]] = []
    runs = 1 if request.quick else request.runs
    released: list[float] = []
    for number in range(runs):
        rounds = Rounds(
            scene, phones=int(request.number("phones", 240)), cohorts=int(request.number("cohorts", 8)),
            share=request.number("share", 0.2), seed=number,
        )  # fmt: skip
        released.append(rounds.released())
        outcomes: dict[str, Outcome] = {}
        for place, attack in enumerate(("", *ATTACKS)):
            request.progress.advance(number * (len(ATTACKS) + 1) + place, runs * (len(ATTACKS) + 1), attack or "clean")
            outcomes[attack] = rounds.run(attack)
        found.append(outcomes)
    return _measured(found, released=float(np.mean(released)))


def _measured(found: Sequence[Mapping[str, Outcome]], *, released: float) -> Measured:
    peers = {
        attack: {
            "ndcg10_change": float(np.mean([_change(one, attack) for one in found])),
            "void_rounds": float(sum(one[attack].void for one in found)),
            "refused": float(np.mean([one[attack].refused for one in found])),
        }
        for attack in ATTACKS
    }  # fmt: skip
    clean = float(np.mean([one[""].quality for one in found]))
    peers["clean"] = {
        "ndcg10": clean,
        "ndcg10_released": released,
        "void_rounds": float(sum(one[""].void for one in found)),
    }
    changes = [abs(_change(one, attack)) for one in found for attack in ATTACKS if not one[attack].void]
    figures = {
        "quality_change_max": max(changes, default=0.0),
        "void_rounds": float(sum(one[attack].void for one in found for attack in ATTACKS)),
        "refused": float(sum(one[attack].refused for one in found for attack in ATTACKS)),
    }
    bars = (
        at_most("quality of rounds under attack", figures["quality_change_max"], HARMLESS, unit="of NDCG@10"),
        Bar(
            bar="a round without attack is not void", figure=peers["clean"]["void_rounds"], goal=0.0, unit="rounds",
            met=not peers["clean"]["void_rounds"],
        ),
    )  # fmt: skip
    notes = (
        f"{len(found)} runs of {len(ATTACKS)} attacks; NDCG@10 {released:.4f} as released, {clean:.4f} after the round",
        "the step is judged on user vectors of the data; a deployed run makes them up",
        "one round by itself: what an attack in all of a run's thirty would add up to is not measured",
    )
    return Measured(figures=figures, bars=bars, peers=peers, notes=notes)


def _change(outcomes: Mapping[str, Outcome], attack: str) -> float:
    """Against the same round without attack; 0 for a void round, which changed nothing."""
    return 0.0 if outcomes[attack].void else outcomes[attack].quality / outcomes[""].quality - 1.0


def _made(request: BenchRequest) -> Path:
    """A folder with the scene's central model; trained here unless an earlier run left it."""
    if "made" in request.options:
        return Path(request.options["made"])
    dataset, out = request.work / "dataset", request.work / "seed-0"
    run_job(request, "central", "infra.cli", "data", "import", "ml-100k", "--to", str(dataset), within_s=JOB_S)
    request.progress.advance(0, 1, "training the central model")
    run_job(
        request, "central", "infra.bench.federated.central_job", "--dataset", str(dataset), "--out", str(out),
        "--seed", "0", "--epochs", "1" if request.quick else f"{request.number('epochs', 3):.0f}", "--scene", SENSITIVE,
        within_s=JOB_S,
    )  # fmt: skip
    # Nothing is held against the ceiling here; the scene opens one.
    shutil.copyfile(out / f"{SENSITIVE}.npz", out / f"{CEILING}.npz")
    return out
