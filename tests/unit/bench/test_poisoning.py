"""`bench poisoning`: what phones send against the rules is refused where it is said to be, and the sums stay exact."""

import numpy as np
import numpy.typing as npt
import pytest

from federation.messages import Part, Phase, RoundPlan, from_bytes, to_bytes
from federation.secure_aggregation.ring import STEPS, RingArray
from infra.bench.federated.poisoned_cohorts import Deed, Phones
from infra.bench.suites.poisoning import IN_A_ROW, STAGES, Found, Outcome, _measured

COUNT, BAD = 12, (3, 7)
RNG = np.random.default_rng(1)
UPDATES = [RNG.normal(size=(2, 3)) * 0.1 for _ in range(COUNT)]
PLAN = RoundPlan(
    round_id="r", release="x", part=Part.ITEMS, dim=2, rank=2, basis=to_bytes(np.eye(2)),
    core=to_bytes(np.zeros((2, 2))), rows=np.arange(2, dtype="<i4").tobytes(), clipping_norm=1.0, noise_multiplier=1e-6,
)  # fmt: skip


def summed(leave_out: tuple[int, ...]) -> npt.NDArray[np.float64]:
    kept = [one for number, one in enumerate(UPDATES) if number not in leave_out]
    total: npt.NDArray[np.float64] = np.stack(kept).sum(axis=0)
    return total


@pytest.fixture(scope="module")
def phones() -> Phones:
    return Phones(COUNT, cohorts=1)


@pytest.mark.parametrize(
    ("deed", "refused", "missing"),
    [(None, 0, ()), (Deed.NOT_FINITE, 2, BAD), (Deed.ANOTHER_SHAPE, 2, BAD), (Deed.TWICE, 2, ())],
)
def test_the_rest_is_summed_exactly(phones: Phones, deed: Deed | None, refused: int, missing: tuple[int, ...]) -> None:
    deeds = {} if deed is None else dict.fromkeys(BAD, deed)
    found = phones.round(PLAN, UPDATES, deeds, beyond={}, before={})
    assert (found.answer.phase, found.refused) == (Phase.CLOSED, refused)
    (cohort,) = found.answer.cohorts
    assert cohort.weight == COUNT - len(missing)
    np.testing.assert_allclose(from_bytes(cohort.total, PLAN.shape, what="sum"), summed(missing), atol=1e-3)


def test_what_is_longer_than_honest_phones_make_it_costs_the_cohort(phones: Phones) -> None:
    clean = phones.round(PLAN, UPDATES, {}, beyond={}, before={})
    large: RingArray = (1000 * UPDATES[0] * STEPS).astype(np.int64).astype(np.uint32).ravel()
    scaled = phones.round(PLAN, UPDATES, {}, beyond={3: large}, before={})
    replayed = phones.round(PLAN, UPDATES, {3: Deed.OF_BEFORE}, beyond={}, before=clean.masked)
    for found in (scaled, replayed):
        assert (found.answer.phase, found.refused) == (Phase.VOID, 1)
        assert "more than the clipping norm" in found.answer.reason


def test_phones_are_with_the_same_ones_in_every_round(phones: Phones) -> None:
    apart = Phones(4 * COUNT, cohorts=4)
    members = apart.members(PLAN)
    assert sorted(len(one) for one in members) == [COUNT] * 4
    assert sorted(number for one in members for number in one) == list(range(4 * COUNT))
    assert members == apart.members(PLAN)
    assert phones.members(PLAN) == [list(range(COUNT))]


def test_void_rounds_do_not_count_as_harmless_ones() -> None:
    clean = Outcome(0.2, void=False, refused=0)
    first = dict.fromkeys(STAGES["first"], clean) | {
        "": clean, "sign_flip": Outcome(0.19, void=False, refused=0), "scale": Outcome(0.0, void=True, refused=8),
    }  # fmt: skip
    later = dict.fromkeys(("", *STAGES["later"]), clean)
    rows = dict.fromkeys(("", *IN_A_ROW), (0.2, 0)) | {"colluding": (0.15, 1), "unclipped": (0.3, 0)}
    measured = _measured([Found(0.18, {"first": first, "later": later}, rows)])
    assert measured.figures["quality_change_max"] == pytest.approx(0.05)
    assert measured.figures["in_a_row_loss_max"] == pytest.approx(0.25)
    assert (measured.figures["void_rounds"], measured.figures["refused"]) == (1.0, 8.0)
    assert [bar.met for bar in measured.bars] == [False, False, True]
    assert measured.peers["colluding_in_a_row"]["void_rounds"] == 1.0
