"""Phones that send what they must not, under secure aggregation: a round keeps its quality, or is void.

Rounds over the sensitive items of a data set (`bench federated`'s scene) with the plan of a run without noise
(`items_training`): 240 users are phones with their own updates, in eight cohorts of secure sums, the same ones in
every round, for the trimmed mean depends on who is with whom. A fifth of them, at random and so in every cohort, do
the same wrong thing at a time: sign flip (their update turned round, within the norm), scale (their ring numbers a
thousand times their update, past their own clipping), NaN, another shape, the update twice, the update of an earlier
round; and together, knowing the rules: `colluding` pushes the slice's items up with the whole norm, `contradiction` the
same without saying that they came up, `inner_product` turns the honest mean round with the whole norm, `tastes` its
tastes only; `unclipped`, `unclipped_inner_product` and `unclipped_tastes` do so past their own clipping, as far as the
cohort's sum may be long. Each attack is tried in the first round, and what no message gives away again in the one after
`clean` honest ones. Gateway, central's judgement of the sums, the trimmed mean over cohorts and the judgement of the
step are the deployed code. `quality_change_max`: the largest change of NDCG@10 over all targets of all users, either
way, against the same round without attack, of rounds that were not void. `void_rounds`: rounds that changed nothing.
`refused`: messages and cohorts that were not taken. Then colluders attack in each of `rounds` rounds in a row (in the
first run only): `in_a_row_loss_max` is what NDCG@10 lost most against as many honest rounds.
Options: `phones` (default 240), `share` (of them that attack, default 0.2), `cohorts` (default 8), `clean` (default 2),
`rounds` (default 5), `epochs` (of the central model, default 3), `made` (a `seed-N` folder of `bench federated`, of any
data set, instead of training).
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from federation.flower.plan import items_training
from federation.messages import Part, RoundPlan, to_bytes
from federation.privacy.clipping import clip
from federation.rounds.aggregate import judged, mean_update, noise_deviation
from federation.rounds.parts import ImplausibleStepError
from federation.secure_aggregation.ring import STEPS, RingArray
from infra.bench.catalogue import BenchRequest
from infra.bench.federated.jobs import run_job
from infra.bench.federated.phone import PhoneSlice
from infra.bench.federated.poisoned_cohorts import REGION, Deed, Phones
from infra.bench.federated.scenes import CEILING, SENSITIVE
from infra.bench.federated.simulation import Scene
from infra.bench.results import Bar, Measured, at_most

NOISE = 1e-6
"""So little noise that it is none: what is measured is the attack."""
JOB_S = 900.0
HARMLESS = 0.02
ATTACKS = (
    "sign_flip", "scale", "nan", "shape", "twice", "replay", "colluding", "contradiction", "inner_product", "tastes",
    "unclipped", "unclipped_inner_product", "unclipped_tastes",
)  # fmt: skip
IN_A_ROW = ATTACKS[6:]
STAGES = {"first": ATTACKS, "later": ("sign_flip", *IN_A_ROW)}
"""What is tried in which round: what a message gives away is the same in all."""
SCALE = 1000
UNCLIPPED = "unclipped"
ROOM = 1.0 - 1e-6
"""Of what a cohort's sum may be long, so that what is cut off on the way into the ring does not decide."""
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A round: NDCG@10 over all targets after it, whether it was void, and what was refused in it."""

    quality: float
    void: bool
    refused: int


class Rounds:
    """Rounds from any state, each with its attack."""

    def __init__(self, scene: Scene, *, phones: int, cohorts: int, share: float, seed: int) -> None:
        self._scene = scene
        self._training = items_training((), noise_multiplier=0.0)
        self._part = scene.part(self._training)
        reads = scene.unmoved()
        reads[scene.slice] = self._part.reads()
        self._vectors = scene.reading(reads)
        rng = np.random.default_rng(seed)
        self._slices = [
            PhoneSlice(one, scene.towers[SENSITIVE].table, rows=scene.slice, directions=self._part.basis, check=False)
            for one in scene.examples(self._vectors, np.sort(rng.permutation(scene.phones)[:phones])) if len(one.base)
        ]  # fmt: skip
        self._phones = Phones(len(self._slices), cohorts=cohorts, division=seed)
        self.attackers = rng.permutation(len(self._slices))[: round(share * len(self._slices))].tolist()
        self._sent: Mapping[int, RingArray] = {}

    def quality(self) -> float:
        """NDCG@10 over all targets of every user, with the items where rounds have them."""
        return float(self._scene.ranked(self._vectors.last, self._scene.moved(self._part)).ndcg.mean())

    def state(self) -> tuple[bytes, bytes]:
        """To go back to."""
        return self._part.saved()

    def restore(self, state: tuple[bytes, bytes]) -> None:
        """Go back."""
        self._part.restore(*state)

    def run(self, attack: str) -> Outcome:
        """The next round, under an attack; "" for none."""
        plan, updates = self._plan(), [one.statistics(self._part.core) for one in self._slices]
        collected = self._phones.round(
            plan, self._turned(attack, updates), self._deeds(attack), beyond=self._beyond(attack, updates),
            before=self._sent,
        )  # fmt: skip
        if not attack:
            self._sent = collected.masked
        found = judged([collected.answer], plan, regions=[REGION])
        refused = collected.refused + len(found.refused)
        if not found.sums:
            return Outcome(self.quality(), void=True, refused=refused)
        try:
            self._part.step(
                mean_update(found.sums), weight=sum(one.weight for one in found.sums),
                deviation=noise_deviation(found.sums),
            )  # fmt: skip
        except ImplausibleStepError:
            return Outcome(self.quality(), void=True, refused=refused)
        return Outcome(self.quality(), void=False, refused=refused)

    def _turned(self, attack: str, updates: Sequence[Float64Array]) -> Sequence[Float64Array]:
        """What phones' own training gives; they clip it afterwards."""
        turned = list(updates)
        for number in self.attackers:
            if attack == "sign_flip":
                turned[number] = -updates[number]
            elif attack in IN_A_ROW:
                turned[number] = 1e6 * self._aim(attack, updates)
        return turned

    def _aim(self, attack: str, updates: Sequence[Float64Array]) -> Float64Array:
        """What colluders push, of length 1."""
        aim = np.zeros(updates[0].shape)
        if attack.endswith(("inner_product", "tastes")):
            aim = -self._honest(updates, range(len(updates)))
            aim[:, -2:] *= attack.endswith("inner_product")
        elif attack == "contradiction":
            aim[:, -2] = 1.0
        else:
            aim[:, -2:] = 1.0
        return aim / max(float(np.linalg.norm(aim)), np.finfo(np.float64).tiny)

    def _honest(self, updates: Sequence[Float64Array], numbers: Iterable[int]) -> Float64Array:
        """The sum of what the honest among these phones send."""
        norm, bad = self._training.clipping_norm, set(self.attackers)
        total = np.zeros(updates[0].shape)
        for number in numbers:
            total += 0.0 if number in bad else clip(updates[number], norm)
        return total

    def _deeds(self, attack: str) -> dict[int, Deed]:
        named = {one.value: one for one in Deed}
        return dict.fromkeys(self.attackers, named[attack]) if attack in named else {}

    def _beyond(self, attack: str, updates: Sequence[Float64Array]) -> dict[int, RingArray]:
        """Ring numbers of phones that do not clip."""
        if attack == "scale":
            return {number: self._in_ring(SCALE * updates[number]) for number in self.attackers}
        if not attack.startswith(UNCLIPPED):
            return {}
        aim, found = self._aim(attack, updates), dict[int, RingArray]()
        for members in self._phones.members(self._plan()):
            bad = [number for number in members if number in set(self.attackers)]
            if bad:
                most = self._most(self._honest(updates, members), aim, count=len(members))
                found |= dict.fromkeys(bad, self._in_ring(aim * (most / len(bad))))
        return found

    def _most(self, honest: Float64Array, aim: Float64Array, *, count: int) -> float:
        """How much of `aim` goes into the sum of a cohort of `count` until the gateway throws it away."""
        along, bound = float((honest * aim).sum()), ROOM * count * self._training.clipping_norm
        return float(np.sqrt(max(along**2 + bound**2 - float((honest**2).sum()), 0.0)) - along)

    def _in_ring(self, update: Float64Array) -> RingArray:
        scaled = update * (STEPS / self._training.clipping_norm)
        return scaled.astype(np.int64).astype(np.uint32).ravel()

    def _plan(self) -> RoundPlan:
        part = self._part
        return RoundPlan(
            round_id="bench", release="bench", part=Part.ITEMS, dim=part.dim, rank=part.rank,
            basis=to_bytes(part.basis), core=to_bytes(part.core), rows=self._scene.slice.astype("<i4").tobytes(),
            clipping_norm=self._training.clipping_norm, noise_multiplier=NOISE,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """A run: NDCG@10 as released, outcomes by stage and attack, and NDCG@10 and void rounds after rounds in a row."""

    released: float
    stages: Mapping[str, Mapping[str, Outcome]]
    rows: Mapping[str, tuple[float, int]]


def run(request: BenchRequest) -> Measured:
    """Every attack in its stages once a run, and some in a row once; each run draws other attackers."""
    scene, runs = Scene(_made(request), SENSITIVE), 1 if request.quick else request.runs
    found: list[Found] = []
    for number in range(runs):
        rounds = Rounds(
            scene, phones=int(request.number("phones", 240)), cohorts=int(request.number("cohorts", 8)),
            share=request.number("share", 0.2), seed=number,
        )  # fmt: skip
        request.progress.advance(number, runs, "attacks")
        in_a_row = 0 if number else int(request.number("rounds", 5))
        found.append(_tried(rounds, clean=int(request.number("clean", 2)), in_a_row=in_a_row))
    return _measured(found)


def _tried(rounds: Rounds, *, clean: int, in_a_row: int) -> Found:
    released, start = rounds.quality(), rounds.state()
    stages: dict[str, dict[str, Outcome]] = {}
    for stage, before in (("first", 0), ("later", clean)):
        rounds.restore(start)
        for _ in range(before):
            rounds.run("")
        here = rounds.state()
        stages[stage] = {}
        for attack in ("", *STAGES[stage]):
            rounds.restore(here)
            stages[stage][attack] = rounds.run(attack)
    rows: dict[str, tuple[float, int]] = {}
    for attack in ("", *IN_A_ROW) if in_a_row else ():
        rounds.restore(start)
        outcomes = [rounds.run(attack) for _ in range(in_a_row)]
        rows[attack] = (outcomes[-1].quality, sum(one.void for one in outcomes))
    return Found(released, stages, rows)


def _measured(found: Sequence[Found]) -> Measured:
    tried = [(one.stages[stage], attack) for one in found for stage, attacks in STAGES.items() for attack in attacks]
    losses = [1.0 - one.rows[attack][0] / one.rows[""][0] for one in found for attack in IN_A_ROW if one.rows]
    clean_void = float(sum(one.stages[stage][""].void for one in found for stage in STAGES))
    figures = {
        "quality_change_max": max(abs(_change(outcomes, attack)) for outcomes, attack in tried),
        "void_rounds": float(sum(outcomes[attack].void for outcomes, attack in tried)),
        "refused": float(sum(outcomes[attack].refused for outcomes, attack in tried)),
        "in_a_row_loss_max": max(losses, default=0.0),
    }
    bars = (
        at_most("quality of rounds under attack", figures["quality_change_max"], HARMLESS, unit="of NDCG@10"),
        at_most("loss by attacks in each of a run's rounds", figures["in_a_row_loss_max"], HARMLESS, unit="of NDCG@10"),
        Bar(
            bar="a round without attack is not void", figure=clean_void, goal=0.0, unit="rounds", met=not clean_void
        ),
    )  # fmt: skip
    notes = (
        f"{len(found)} runs; NDCG@10 {np.mean([one.released for one in found]):.4f} as released",
        "a round after which NDCG@10 is higher than without attack counts as changed too, a run of them as not worse",
    )
    return Measured(figures=figures, bars=bars, peers=_peers(found), notes=notes)


def _peers(found: Sequence[Found]) -> dict[str, dict[str, float]]:
    peers = {
        f"{attack or 'clean'}_{stage}": {
            "ndcg10_change": float(np.mean([_change(one.stages[stage], attack) for one in found])),
            "ndcg10": float(np.mean([one.stages[stage][attack].quality for one in found])),
            "void_rounds": float(sum(one.stages[stage][attack].void for one in found)),
            "refused": float(np.mean([one.stages[stage][attack].refused for one in found])),
        }
        for stage, attacks in STAGES.items() for attack in ("", *attacks)
    }  # fmt: skip
    for rows in (one.rows for one in found if one.rows):
        peers |= {
            f"{attack or 'clean'}_in_a_row": {
                "ndcg10_change": quality / rows[""][0] - 1.0, "ndcg10": quality, "void_rounds": float(void),
            }
            for attack, (quality, void) in rows.items()
        }  # fmt: skip
    return peers


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
