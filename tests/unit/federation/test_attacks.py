"""Phones that send what they must not, through a region's gateway and central's own judgement to the step."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from federation.device.rounds import DeviceRound
from federation.device.tower import load_device_release
from federation.device.training import LocalTraining, train_round
from federation.flower.plan import items_training
from federation.messages import Part, Phase, RegionalSum, RoundPlan, to_bytes
from federation.privacy.clipping import clip
from federation.rounds.aggregate import judged, mean_update, noise_deviation
from federation.rounds.parts import ImplausibleStepError, ItemsPart, shared_part
from federation.secure_aggregation.messages import MaskedUpdate
from federation.secure_aggregation.ring import STEPS, to_wire
from infra.plumbing.errors import InvalidInputError
from tests.unit.federation.building import RELEASE_ID, history, write_release
from tests.unit.federation.test_gateway import _Gateway

PHONES, COLLUDERS = 20, 4
TRAINING = items_training(("quiet",), noise_multiplier=0.0)
FIRST, SECOND = "a" * 16, "b" * 16
Float32Array = npt.NDArray[np.float32]


def _part(release: Path) -> ItemsPart:
    part = shared_part(TRAINING, release)
    assert isinstance(part, ItemsPart)
    return part


def _plan(part: ItemsPart, round_id: str) -> RoundPlan:
    return RoundPlan(
        round_id=round_id, release=RELEASE_ID, part=Part.ITEMS, dim=part.dim, rank=part.rank,
        basis=to_bytes(part.basis), core=to_bytes(part.core), rows=part.rows.astype("<i4").tobytes(),
        reads=part.reads().astype("<i4").tobytes(), clipping_norm=TRAINING.clipping_norm, noise_multiplier=1e-6,
    )  # fmt: skip


class _Region:
    """A gateway, its phones' own updates, and what the first COLLUDERS of them do instead."""

    def __init__(self, directory: Path) -> None:
        self.world = _Gateway(
            directory / "region", goal_count=PHONES, over_selection=1.0, noise_multiplier_min=0.0,
        )  # fmt: skip
        self.release = load_device_release(write_release(directory))
        self.sent: dict[int, bytes] = {}
        self.refused = 0

    def round(self, plan: RoundPlan, deed: str) -> RegionalSum:
        """One whole round; what comes of it leaves the region."""
        world = self.world
        world.gateway.start(plan)
        devices = world.select(*(f"s{number}" for number in range(PHONES)))
        world.share(devices)
        left = {}
        for number, (ticket, device) in enumerate(devices.items()):
            mailbox = world.gateway.mailbox(ticket)
            assert mailbox is not None
            device.receive(mailbox)
            try:
                world.gateway.update(ticket, self._update(number, device, plan, deed if number < COLLUDERS else ""))
                left[ticket] = device
            except (InvalidInputError, ValueError):
                self.refused += 1
        if world.gateway.phase() is Phase.REPORTING:
            world.clock.advance(world.policy.reporting_s)
        world.unmask(left)
        return world.gateway.standing(plan.round_id)

    def _update(self, number: int, device: DeviceRound, plan: RoundPlan, deed: str) -> MaskedUpdate:
        seen = history(30, seed=number)
        own = train_round(plan, self.release, seen, rng=np.random.default_rng(number)).update
        if deed == "scale":
            return self._unclipped(device, plan, 1000.0 * own)
        if deed == "contradiction":
            return self._unclipped(device, plan, 3.0 * _turned(own, deed, plan))
        sent = device.masked(plan, LocalTraining(_turned(own, deed, plan), 30, 0.0, 0.0, clipped=True))
        if deed == "shape":
            return MaskedUpdate(round_id=plan.round_id, masked=sent.masked[:-4])
        if deed == "replay":
            return MaskedUpdate(round_id=plan.round_id, masked=self.sent[number])
        self.sent[number] = sent.masked
        return sent

    def _unclipped(self, device: DeviceRound, plan: RoundPlan, update: Float32Array) -> MaskedUpdate:
        """What a phone of another make sends: nobody looks into an update but the phone itself."""
        assert device._mailbox is not None
        ring = (update.ravel() * (STEPS / plan.clipping_norm)).astype(np.int64).astype(np.uint32)
        return MaskedUpdate(
            round_id=plan.round_id, masked=to_wire(device._client.mask(ring, device._mailbox, task=plan.digest()))
        )


def _turned(own: Float32Array, deed: str, plan: RoundPlan) -> Float32Array:
    pushed = np.zeros_like(own)
    match deed:
        case "sign_flip":
            return -own
        case "nan":
            return np.where(own == own.max(), np.float32("nan"), own)
        case "colluding":
            pushed[:, -2:] = 1.0
        case "contradiction":
            pushed[:, -2] = 1.0
        case _:
            return own
    return clip(1e6 * pushed, plan.clipping_norm)


def _stepped(part: ItemsPart, answer: RegionalSum, plan: RoundPlan) -> str:
    """What central makes of it; returns why nothing, where it is nothing."""
    found = judged([answer], plan, regions=("us-east",))
    if not found.sums:
        return answer.reason
    try:
        part.step(
            mean_update(found.sums), weight=sum(one.weight for one in found.sums), deviation=noise_deviation(found.sums)
        )
    except ImplausibleStepError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("deed", "refused", "void"),
    [
        ("", 0, ""), ("sign_flip", 0, ""), ("nan", COLLUDERS, ""), ("shape", COLLUDERS, ""), ("colluding", 0, ""),
        ("scale", 0, "more than the clipping norm"), ("replay", 0, "more than the clipping norm"),
        ("contradiction", 0, "less than never"),
    ],
)  # fmt: skip
def test_a_fifth_of_all_phones_moves_items_within_bounds_or_the_round_is_void(
    tmp_path: Path, deed: str, refused: int, void: str
) -> None:
    region = _Region(tmp_path)
    part = _part(tmp_path / RELEASE_ID)
    if deed == "replay":
        region.round(_plan(part, FIRST), "")
    before, plan = part.core.copy(), _plan(part, SECOND)
    answer = region.round(plan, deed)
    why = _stepped(part, answer, plan)
    assert region.refused == refused
    assert (void in why) if void else not why
    moved = part.core - before
    if void:
        assert not moved.any()
        return
    weights = part._weights
    assert np.abs(moved[:, -1]).max() <= TRAINING.popularity_region + 1e-9
    assert np.linalg.norm(moved[:, :-1] * weights[:-1], axis=1).max() <= TRAINING.taste_region + 1e-9
    assert moved.any()
    assert answer.weight == PHONES - refused
