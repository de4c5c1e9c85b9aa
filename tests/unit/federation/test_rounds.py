"""Central's side: aggregation, the run, its outcome, and the commands."""

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.commands import ledger as ledger_report
from federation.commands import status
from federation.flower.plan import PrivacyPlan, RegionLink, RunPlan, TrainingPlan
from federation.flower.training import TrainingRun
from federation.messages import Phase, RegionalSum, RoundPlan, from_bytes, to_bytes
from federation.privacy.ledger import LedgerError, read_ledger
from federation.rounds.aggregate import (
    ServerState,
    judged,
    mean_update,
    noise_deviation,
    principal_basis,
    server_step,
    shrink,
    stepped_adapter,
)
from federation.rounds.outcome import OUTCOME_FILE, OutcomeError, load_adapter, load_outcome, save_outcome
from infra.contracts.residency import encode_global
from infra.plumbing.clock import ManualClock
from tests.unit.federation.building import DIM, RELEASE_ID, item_vectors, round_plan, write_release

REGIONS = ("us-central", "us-east", "us-west")


def _sum(region: str, value: float, *, weight: int = 10, plan: RoundPlan | None = None, **changes) -> RegionalSum:
    asked = plan or round_plan()
    shape = (asked.rank, asked.rank)
    answer = RegionalSum(
        round_id=asked.round_id, region=region, phase=Phase.CLOSED, shape=shape,
        total=to_bytes(np.full(shape, value * weight)), weight=weight, clipping_norm=asked.clipping_norm,
        noise_multiplier=asked.noise_multiplier,
    )  # fmt: skip
    return msgspec.structs.replace(answer, **changes)


def test_the_mean_weighs_users_equally_not_regions() -> None:
    mean = mean_update([_sum("a", 1.0, weight=30), _sum("b", 0.0, weight=10)])
    np.testing.assert_allclose(mean, 0.75)


@pytest.mark.parametrize("bad", [1e6, -1e6])
def test_with_enough_cohorts_one_bad_one_is_trimmed_away(bad: float) -> None:
    sums = [_sum(name, value) for name, value in (("a", 0.9), ("b", 1.0), ("c", 1.1), ("d", bad))]
    assert 0.9 <= float(mean_update(sums)[0, 0]) <= 1.1
    assert abs(float(mean_update(sums[1:])[0, 0])) > 1000.0  # three cohorts cannot outvote one


def test_no_sum_has_no_mean() -> None:
    with pytest.raises(ValueError, match="no sum"):
        mean_update([])


@pytest.mark.parametrize(
    "changes",
    [
        {"round_id": "b" * 16}, {"shape": (2, 2)}, {"weight": 0}, {"clipping_norm": 9.0}, {"noise_multiplier": 0.5},
        {"sampling_probability": 1.5},
    ],
)  # fmt: skip
def test_a_sum_that_does_not_answer_the_plan_is_refused(changes) -> None:
    bad, good = _sum("us-east", 1.0, **changes), _sum("us-west", 1.0)
    found = judged([bad, good], round_plan(), regions=REGIONS)
    assert "not used" in found.refused["us-east"]
    assert found.sums == (good,)  # one region's bad answer is no other's loss


def test_void_regions_are_left_out_and_nobody_answers_twice() -> None:
    void = RegionalSum(round_id="a" * 16, region="b", phase=Phase.VOID)
    stranger = _sum("x", 1.0)
    found = judged([_sum("c", 1.0), void, _sum("a", 1.0), stranger, _sum("a", 1.0)], round_plan(), regions="abc")
    assert ([one.region for one in found.sums], found.refused) == (["a", "c"], {})
    found = judged([_sum("a", 1.0), _sum("a", 2.0), _sum("b", 1.0)], round_plan(), regions="abc")
    assert [one.region for one in found.sums] == ["b"]
    assert "twice" in found.refused["a"]


def test_the_noise_of_a_mean_is_known() -> None:
    assert noise_deviation([_sum("a", 0.0), _sum("b", 0.0)]) == pytest.approx((2 * 0.25) ** 0.5 / 20)


@given(seed=st.integers(0, 1000), deviation=st.floats(0.0, 3.0), norm_max=st.floats(0.1, 5.0))
def test_shrinking_never_turns_never_lengthens_and_respects_the_bound(
    seed: int, deviation: float, norm_max: float
) -> None:
    update = np.random.default_rng(seed).normal(size=(4, 4))
    shrunk = shrink(update, deviation=deviation, norm_max=norm_max)
    scale = float((shrunk * update).sum() / (update**2).sum())
    np.testing.assert_allclose(shrunk, scale * update, atol=1e-12)
    assert 0.0 <= scale <= 1.0
    assert np.linalg.norm(shrunk) <= norm_max * (1 + 1e-9)


def test_shrinking_helps_where_noise_swamps_the_signal() -> None:
    rng = np.random.default_rng(0)
    signal = np.full((8, 8), 0.01)
    errors = []
    for _ in range(200):
        noised = signal + rng.normal(scale=0.05, size=(8, 8))
        kept = shrink(noised, deviation=0.05, norm_max=10.0)
        errors.append((np.sum((kept - signal) ** 2), np.sum((noised - signal) ** 2)))
    shrunk, plain = np.mean(errors, axis=0)
    assert shrunk < 0.3 * plain
    np.testing.assert_array_equal(shrink(np.zeros((2, 2)), deviation=1.0, norm_max=1.0), np.zeros((2, 2)))


def test_the_server_step_has_momentum() -> None:
    state = ServerState(np.zeros((1, 1)), np.zeros((1, 1)))
    for _ in range(2):
        state = server_step(state, np.ones((1, 1)), learning_rate=0.5, momentum=0.9)
    assert state.momentum[0, 0] == pytest.approx(1.9)
    assert state.core[0, 0] == pytest.approx(0.5 + 0.95)


def test_the_basis_is_orthonormal_and_in_order_of_variance() -> None:
    vectors = item_vectors() * np.arange(1, DIM + 1)
    basis = principal_basis(vectors, 3)
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-6)
    spread = (vectors @ basis).std(axis=0)
    assert (np.diff(spread) < 0).all()
    np.testing.assert_array_equal(basis, principal_basis(vectors.copy(), 3))
    for rank in (0, DIM + 1):
        with pytest.raises(ValueError, match="rank"):
            principal_basis(vectors, rank)


def test_the_stepped_adapter_moves_vectors_as_phones_moved_them() -> None:
    rng = np.random.default_rng(0)
    adapter, core, hidden = rng.normal(size=(DIM, DIM)), rng.normal(size=(2, 2)), rng.normal(size=DIM)
    basis = principal_basis(item_vectors(), 2)
    stepped = stepped_adapter(adapter, basis=basis, core=core)
    base = hidden @ adapter
    np.testing.assert_allclose(hidden @ stepped, base + (base @ basis) @ core @ basis.T, rtol=1e-4, atol=1e-5)


# --- a run


class _Regions:
    """Regions that answer as told."""

    def __init__(self, answer: Callable[[RoundPlan], Sequence[RegionalSum]]) -> None:
        self._answer = answer
        self.plans: list[RoundPlan] = []

    def ask(self, plan: RoundPlan, *, timeout_s: float) -> Sequence[RegionalSum]:
        assert timeout_s > 0.0
        self.plans.append(plan)
        return self._answer(plan)


def _all_answer(plan: RoundPlan) -> list[RegionalSum]:
    return [_sum(region, 0.1, plan=plan) for region in REGIONS]


def _all_void(plan: RoundPlan) -> list[RegionalSum]:
    return [
        RegionalSum(round_id=plan.round_id, region=region, phase=Phase.VOID, reason="too few") for region in REGIONS
    ]


def _plan(directory: Path, *, rounds: int = 1, epsilon_max: float = 20.0, **training) -> RunPlan:
    release = directory / RELEASE_ID
    if not release.exists():
        write_release(directory)
    return RunPlan(
        rounds=rounds, regions={name: RegionLink(gateway_url="http://x", round_key_file="k") for name in REGIONS},
        release_directory=str(release), outcome_directory=str(directory / "state" / "outcome"),
        training=TrainingPlan(rank=2, **training),
        privacy=PrivacyPlan(ledger_file=str(directory / "ledger"), population="phones", epsilon_max=epsilon_max),
    )  # fmt: skip


def _run(plan: RunPlan, regions: _Regions):
    return TrainingRun(plan, regions=regions, clock=ManualClock(), entropy=secrets.token_bytes).run()


def test_a_run_steps_books_and_leaves_an_outcome(tmp_path: Path) -> None:
    regions = _Regions(_all_answer)
    plan = _plan(tmp_path, rounds=2)
    outcome = _run(plan, regions)
    assert (outcome.ok, outcome.devices, outcome.stopped, len(outcome.rounds)) == (True, 60, "", 2)
    assert outcome.epsilon == read_ledger(tmp_path / "ledger")[-1].epsilon
    first, second = regions.plans
    assert first.round_id != second.round_id
    core = from_bytes(second.core, (2, 2), what="core")
    assert np.linalg.norm(core) == pytest.approx(outcome.rounds[0].step_norm, rel=1e-5)
    found = status(state_directory=tmp_path / "state", ledger_file=tmp_path / "ledger")
    assert found.last is not None
    assert Path(found.last.adapter_path).is_absolute()
    adapter = load_adapter(Path(found.last.adapter_path))
    assert adapter.shape == (DIM, DIM)
    assert not np.allclose(adapter, np.eye(DIM))
    assert (found.ledger.rounds, found.ledger.population) == (2, "phones")
    assert encode_global(found)
    assert {one.clipping_norm for one in found.last.rounds} == {plan.training.clipping_norm}
    assert found.last.norm.startswith(f"{plan.training.clipping_norm:g}, ")


def test_void_rounds_book_nothing_and_change_nothing(tmp_path: Path) -> None:
    outcome = _run(_plan(tmp_path), _Regions(_all_void))
    assert (outcome.ok, outcome.devices, outcome.epsilon) == (False, 0, 0.0)
    assert outcome.rounds[0].regions[0].reason == "too few"
    np.testing.assert_array_equal(load_adapter(tmp_path / "state" / "outcome" / "adapter.npy"), np.eye(DIM))


def test_a_region_that_is_silent_keeps_the_reservation(tmp_path: Path) -> None:
    """It may have given its sum away already: what cannot be known is booked."""
    outcome = _run(_plan(tmp_path), _Regions(lambda plan: _all_void(plan)[:2]))
    assert not outcome.ok
    assert outcome.epsilon is not None
    assert outcome.epsilon > 4.0
    assert outcome.rounds[0].regions[2].reason == "no answer"


def test_part_of_the_regions_is_enough(tmp_path: Path) -> None:
    outcome = _run(_plan(tmp_path), _Regions(lambda plan: [*_all_answer(plan)[:1], *_all_void(plan)[1:]]))
    assert (outcome.ok, outcome.devices) == (True, 10)


def test_a_crash_while_regions_work_leaves_the_round_booked(tmp_path: Path) -> None:
    def crash(_plan: RoundPlan) -> list[RegionalSum]:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        _run(_plan(tmp_path), _Regions(crash))
    assert ledger_report(tmp_path / "ledger").rounds == 1


def test_the_budget_ends_a_run_and_no_later_run_gets_around_it(tmp_path: Path) -> None:
    regions = _Regions(_all_answer)
    outcome = _run(_plan(tmp_path, rounds=5, epsilon_max=8.0), regions)
    assert len(outcome.rounds) == len(regions.plans) == 2
    assert "budget" in outcome.stopped
    again = _Regions(_all_answer)
    assert _run(_plan(tmp_path, rounds=1, epsilon_max=8.0), again).rounds == ()
    assert again.plans == []
    with pytest.raises(LedgerError, match="cannot be changed"):
        _run(_plan(tmp_path, rounds=1, epsilon_max=80.0), again)


def test_sums_that_do_not_answer_the_plan_are_not_used_and_the_round_stays_booked(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    privacy = msgspec.structs.replace(plan.privacy, sampling_probability=0.5)
    outcome = _run(msgspec.structs.replace(plan, privacy=privacy), _Regions(_all_answer))
    assert not outcome.ok
    assert all("does not answer" in part.reason for part in outcome.rounds[0].regions)
    assert ledger_report(tmp_path / "ledger").rounds == 1


def test_one_region_that_answers_badly_does_not_end_the_run_of_the_others(tmp_path: Path) -> None:
    def one_bad(plan: RoundPlan) -> list[RegionalSum]:
        first, *others = _all_answer(plan)
        nothing = to_bytes(np.full(plan.shape, np.nan))
        return [msgspec.structs.replace(first, total=nothing), *others]

    outcome = _run(_plan(tmp_path, rounds=2), _Regions(one_bad))
    assert [[part.phase for part in one.regions] for one in outcome.rounds] == [["void", "closed", "closed"]] * 2
    assert outcome.ok
    assert "not finite" in outcome.rounds[0].regions[0].reason


def test_outcomes_that_do_not_hold_are_refused(tmp_path: Path) -> None:
    outcome = _run(_plan(tmp_path), _Regions(_all_void))
    with pytest.raises(OutcomeError, match="square"):
        save_outcome(tmp_path, outcome, np.ones((2, 3), np.float32))
    with pytest.raises(OutcomeError, match="no outcome"):
        load_outcome(tmp_path / "nowhere")
    with pytest.raises(OutcomeError, match="cannot be read"):
        load_adapter(tmp_path / "nowhere.npy")
    (tmp_path / OUTCOME_FILE).write_bytes(b"{")
    with pytest.raises(OutcomeError, match="no outcome"):
        load_outcome(tmp_path)


def test_an_empty_federation_reports_nothing(tmp_path: Path) -> None:
    found = status(state_directory=tmp_path, ledger_file=tmp_path / "none")
    assert found.last is None
    assert found.ledger.epsilon == 0.0
