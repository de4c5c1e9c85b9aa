"""Training the vectors of a slice of items: what a phone sends, and what the server makes of it."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from federation.device.model import item_statistics, moved_items
from federation.device.tower import load_device_release
from federation.device.training import TrainingError, train_round
from federation.flower.plan import PrivacyPlan, RegionLink, RunPlan, TrainingPlan, items_training, norm_in_words
from federation.flower.training import TrainingRun
from federation.messages import Part, Phase, RegionalSum, RoundPlan, reads_of, rows_of, to_bytes
from federation.privacy.clipping import clip
from federation.privacy.ledger import read_ledger
from federation.rounds.aggregate import ServerState, StepBounds, item_step
from federation.rounds.directions import directions_of, made_up_queries
from federation.rounds.outcome import OutcomeError
from federation.rounds.parts import ImplausibleStepError, shared_part, slice_rows
from federation.rounds.reading import stand_ins
from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import InvalidInputError
from tests.unit.federation.building import DIM, ITEMS, fixed_entropy, history, round_plan, small_release, write_release

ROWS = np.arange(0, ITEMS, 4, dtype=np.int32)
RANK = 3
TASTE_REGION = 0.15


def _plan(**changes):
    plan = msgspec.structs.replace(
        round_plan(rank=RANK), part=Part.ITEMS, rows=ROWS.astype("<i4").tobytes(),
        core=to_bytes(np.zeros((len(ROWS), RANK))), clipping_norm=5.0,
    )  # fmt: skip
    return msgspec.structs.replace(plan, **changes)


def test_the_statistics_are_the_gradient_of_the_likelihood() -> None:
    rng = np.random.default_rng(4)
    vectors, base = rng.normal(size=(ITEMS, DIM)), rng.normal(size=(9, DIM))
    targets = rng.integers(0, ITEMS, size=9)
    directions = rng.normal(size=(DIM, RANK))

    def likelihood(core: np.ndarray) -> float:
        logits = base @ (vectors + np.zeros((ITEMS, DIM))).T
        logits[:, ROWS] += base @ directions @ core.T
        return float((logits[np.arange(9), targets] - np.log(np.exp(logits).sum(axis=1))).sum())

    found = item_statistics(base, targets, vectors=vectors, rows=ROWS, directions=directions)
    for row, column in ((0, 0), (3, 2), (9, 1)):
        step = np.zeros((len(ROWS), RANK))
        step[row, column] = 1e-6
        slope = (likelihood(step) - likelihood(-step)) / 2e-6
        assert found[row, column] == pytest.approx(slope, abs=1e-5)
    assert (found[:, -1] > 0.0).all()
    observed = np.isin(targets, ROWS).sum()
    assert found[:, -1].sum() > observed


def test_every_phone_answers_for_the_whole_slice_whatever_it_has_seen() -> None:
    release = small_release()
    seen = history(30)
    for known in (seen, history(30, seed=9), history(0)):
        trained = train_round(_plan(), release, known, rng=np.random.default_rng(0))
        assert trained.update.shape == (len(ROWS), RANK + 1)
        assert np.linalg.norm(trained.update) <= 5.0 * (1 + 1e-6)
    # Items that never came up are moved too (down), so zero rows do not tell what is in a history.
    assert (train_round(_plan(), release, seen, rng=np.random.default_rng(0)).update != 0.0).all()


def test_a_slice_beyond_the_catalogue_is_refused() -> None:
    plan = _plan(rows=np.array([ITEMS], dtype="<i4").tobytes(), core=to_bytes(np.zeros((1, RANK))))
    with pytest.raises(TrainingError, match="items"):
        train_round(plan, small_release(), history(5), rng=np.random.default_rng(0))
    for rows in (b"", b"123", np.array([1, 1], "<i4").tobytes(), np.array([-1], "<i4").tobytes()):
        with pytest.raises(InvalidInputError):
            rows_of(_plan(rows=rows))


def test_steps_recover_items_that_the_release_does_not_know() -> None:
    """Many phones with a taste of their own: held-out likelihood rises to near that of the true vectors."""
    rng = np.random.default_rng(7)
    truth = rng.normal(size=(ITEMS, DIM)).astype(np.float32)
    start = truth.copy()
    start[ROWS] = 0.0
    # Like a trained tower's, user vectors have a part in common.
    base = (rng.normal(size=(4000, DIM)) + 1.5).astype(np.float32)
    logits = base @ truth.T
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    targets = np.array([rng.choice(ITEMS, p=row) for row in chances])
    found = directions_of(base, DIM)
    state = ServerState(np.zeros((len(ROWS), DIM)), np.zeros((len(ROWS), DIM)))

    def loss(vectors: np.ndarray) -> float:
        scores = base[3000:] @ vectors.T
        return float(np.mean(np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(1000), targets[3000:]]))

    for _ in range(25):
        vectors = moved_items(start, rows=ROWS, core=state.core, directions=found.basis)
        total = item_statistics(base[:3000], targets[:3000], vectors=vectors, rows=ROWS, directions=found.basis)
        state = item_step(
            state, total / 3000, centre=found.centre, heard=np.zeros(len(ROWS), np.int64), weight=3000, deviation=0.0,
            taste_deviation=0.0, bounds=StepBounds(learning_rate=0.2, momentum=0.7, taste_region=0.15),
        )  # fmt: skip
    after = loss(moved_items(start, rows=ROWS, core=state.core, directions=found.basis))
    before, best = loss(start), loss(truth)
    assert (before - after) / (before - best) > 0.8


def _stepped(
    mean: np.ndarray, *, weight: float, deviation: float, heard: int = 0, popularity_region: float = 50.0
) -> np.ndarray:
    start = ServerState(np.zeros((len(mean), RANK)), np.zeros((len(mean), RANK)))
    return item_step(
        start, mean, centre=np.zeros(RANK - 1), heard=np.full(len(mean), heard), weight=weight, deviation=deviation,
        taste_deviation=deviation,
        bounds=StepBounds(
            learning_rate=1.0, momentum=0.7, taste_region=TASTE_REGION, popularity_region=popularity_region
        ),
    ).core  # fmt: skip


def test_popularity_is_fitted_and_cannot_overshoot() -> None:
    """An item seen e times as often as expected moves by one along popularity, tastes that stand still do not move."""
    expected, seen = 0.5, 0.5 * np.e
    mean = np.zeros((1, RANK + 1))
    mean[0, -2], mean[0, -1] = seen - expected, seen + expected
    core = _stepped(mean, weight=1e9, deviation=0.0)
    np.testing.assert_allclose(core, [[0.0, 0.0, 1.0]], atol=1e-6)


def test_popularity_moves_no_further_than_its_region_whatever_phones_say() -> None:
    mean = np.zeros((3, RANK + 1))
    mean[:, -2], mean[:, -1] = (1e6, -1e6, 0.1), (1e6, 1e6, 1.0)
    core = _stepped(mean, weight=1e9, deviation=0.0, popularity_region=0.5)
    np.testing.assert_allclose(core[:, -1], [0.5, -0.5, np.log(0.55 / 0.45)], atol=1e-6)


def test_a_taste_moves_no_further_than_its_region_whatever_phones_say() -> None:
    mean = np.zeros((2, RANK + 1))
    mean[0, 0], mean[1, 0], mean[:, -1] = 1e9, 0.05, 1.0
    core = _stepped(mean, weight=1e9, deviation=0.0)
    assert np.linalg.norm(core[0, :-1]) == pytest.approx(TASTE_REGION)
    assert core[1, 0] == pytest.approx(0.1)


def test_what_central_has_heard_of_an_item_holds_it_where_it_was() -> None:
    mean = np.zeros((1, RANK + 1))
    mean[0, 0], mean[0, -2], mean[0, -1] = 0.05, 0.2, 1.0
    free, held = (_stepped(mean, weight=100, deviation=0.0, heard=heard) for heard in (0, 300))
    assert (np.abs(held[0, [0, -1]]) > 0.0).all()
    assert (np.abs(held[0, [0, -1]]) < 0.3 * np.abs(free[0, [0, -1]])).all()


def test_items_that_central_has_not_heard_of_are_not_read_until_they_moved_and_then_by_what_is_alike() -> None:
    rng = np.random.default_rng(2)
    vectors, queries = rng.normal(size=(ITEMS, DIM)).astype(np.float32), rng.normal(size=(50, DIM)).astype(np.float32)
    rows = np.array([3, 5, 7], dtype=np.int32)
    heard = np.ones(ITEMS, dtype=np.bool_)
    heard[rows[:2]] = False
    core = np.zeros((3, DIM))

    def reads() -> object:
        found = stand_ins(
            vectors, rows=rows, core=core, directions=np.eye(DIM, dtype=np.float32), heard=heard, queries=queries
        )
        return found.tolist()

    assert reads() == [-1, -1, 7]
    core[0] = vectors[11] - vectors[3]
    assert reads() == [11, -1, 7]


def test_a_phone_reads_what_the_plan_says() -> None:
    release, known = small_release(), history(60)
    as_released, stood_in, nothing = (
        train_round(_plan(reads=one), release, known, rng=np.random.default_rng(0)).update
        for one in (b"", (ROWS + 1).astype("<i4").tobytes(), np.full(len(ROWS), -1, "<i4").tobytes())
    )
    assert not np.array_equal(as_released, stood_in)
    assert not np.array_equal(as_released, nothing)
    for wrong in (b"123", np.full(len(ROWS), -2, "<i4").tobytes()):
        with pytest.raises(InvalidInputError, match="read"):
            reads_of(_plan(reads=wrong))
    with pytest.raises(TrainingError, match="items"):
        train_round(
            _plan(reads=np.full(len(ROWS), ITEMS, "<i4").tobytes()), release, known, rng=np.random.default_rng(0)
        )


def test_rows_that_noise_explains_do_not_move_in_their_tastes() -> None:
    mean = np.zeros((4, RANK + 1))
    mean[0, : RANK - 1], mean[:, -1] = 5.0, 1.0
    mean[1, : RANK - 1] = 0.01
    core = _stepped(mean, weight=100, deviation=0.1)
    assert (core[0, :-1] > 0.0).all()
    np.testing.assert_array_equal(core[1:, :-1], 0.0)


def test_the_part_is_made_of_the_release_and_goes_on_where_it_was(tmp_path: Path) -> None:
    release = write_release(tmp_path)
    assert len(slice_rows(release, ("quiet",))) == ITEMS // 4
    assert len(slice_rows(release, ())) == ITEMS
    with pytest.raises(OutcomeError, match="no item in nonsense"):
        slice_rows(release, ("nonsense",))
    training = TrainingPlan(part=Part.ITEMS, categories=("quiet",), rank=RANK)
    part, again = shared_part(training, release), shared_part(training, release)
    np.testing.assert_array_equal(part.basis, again.basis)
    assert part.step(np.ones((ITEMS // 4, RANK + 1)), weight=10, deviation=0.0) > 0.0
    again.restore(*part.saved())
    np.testing.assert_array_equal(again.core, part.core)
    moves = part.items(part.reads())
    assert moves is not None
    assert moves.moves.shape == (ITEMS // 4, DIM)
    queries = made_up_queries(load_device_release(release), count=20)
    assert queries.shape == (20, DIM)
    with pytest.raises(ValueError, match="rank"):
        directions_of(queries, DIM + 1)


def _statistics(rows: int, rank: int, *, excess: float) -> np.ndarray:
    """Per user: each item of the slice came up more often than it was expected, by `excess`."""
    mean = np.zeros((rows, rank + 1))
    mean[:, -2], mean[:, -1] = excess, abs(excess)
    return mean


def test_a_step_that_crowds_the_other_items_out_is_not_made(tmp_path: Path) -> None:
    release = write_release(tmp_path)
    training = TrainingPlan(part=Part.ITEMS, categories=("quiet",), rank=RANK)
    part = shared_part(training, release)
    before = part.core.copy()
    with pytest.raises(ImplausibleStepError, match="first 10 places"):
        part.step(_statistics(len(part.rows), part.rank, excess=1000.0), weight=100.0, deviation=0.0)
    assert np.array_equal(part.core, before)
    assert part.step(_statistics(len(part.rows), part.rank, excess=1e-4), weight=100.0, deviation=0.0) > 0.0
    assert not np.array_equal(part.core, before)


def test_weighing_tastes_changes_what_is_clipped_and_nothing_of_the_step(tmp_path: Path) -> None:
    release = write_release(tmp_path)
    training = TrainingPlan(part=Part.ITEMS, categories=("quiet",), rank=RANK)
    plain = shared_part(training, release)
    weighed = shared_part(msgspec.structs.replace(training, taste_norm=1.0), release)
    held, rng = load_device_release(release), np.random.default_rng(5)
    base, targets = made_up_queries(held, count=40), rng.integers(0, ITEMS, size=40)
    for _ in range(2):
        for part in (plain, weighed):
            vectors = moved_items(held.item_vectors, rows=part.rows, core=part.core, directions=part.basis)
            told = item_statistics(base, targets, vectors=vectors, rows=part.rows, directions=part.basis)
            part.step(told / 40, weight=40.0, deviation=1e-4)
        lengths = [np.linalg.norm(base @ part.basis[:, :-1], axis=1).mean() for part in (plain, weighed)]
        assert lengths[1] == pytest.approx(lengths[0] / (RANK - 1) ** 0.5, rel=1e-5)
        np.testing.assert_allclose(weighed.core @ weighed.basis.T, plain.core @ plain.basis.T, atol=2e-4)
        assert np.linalg.norm(plain.core[:, :-1]) > 0.0
    again = shared_part(msgspec.structs.replace(training, taste_norm=1.0), release)
    again.restore(*weighed.saved())
    np.testing.assert_array_equal(again.core, weighed.core)


def test_an_eventful_phone_and_a_colluder_have_about_the_same_say() -> None:
    """By `items_training`'s norm: what a push of popularity alone has room for an honest phone has used up."""
    training = items_training((), noise_multiplier=0.0)
    rng = np.random.default_rng(6)
    found = directions_of(rng.normal(size=(500, 40)) + 1.0, 33)
    weights = np.append(found.weights(training.taste_norm), 1.0)
    told, rows = np.zeros((200, 34)), rng.permutation(200)[:30]
    told[rows, :-1] = (rng.normal(size=(30, 40)) + 1.0) @ found.basis
    told[rows, -1] = 1.0
    honest = clip(told * weights, training.clipping_norm)
    push = np.zeros_like(told)
    push[:, -2:] = 1e6
    room = np.linalg.norm(clip(push, training.clipping_norm)[:, -2:]) / np.linalg.norm(honest[:, -2:])
    assert room < 1.5
    unweighed = clip(told, training.clipping_norm)
    assert np.linalg.norm(unweighed[:, -2:]) < 0.5 * np.linalg.norm(honest[:, -2:])


@pytest.mark.parametrize(("excess", "mass"), [(1.0, 0.1), (-1.0, 0.1), (0.1, -1.0)])
def test_a_mean_that_no_honest_phones_have_is_not_stepped_by(tmp_path: Path, excess: float, mass: float) -> None:
    part = shared_part(TrainingPlan(part=Part.ITEMS, categories=("quiet",), rank=RANK), write_release(tmp_path))
    before = part.core.copy()
    mean = np.zeros((len(part.rows), part.rank + 1))
    mean[:, -2], mean[:, -1] = 1e-3 * excess, 1e-3 * mass
    with pytest.raises(ImplausibleStepError, match="less than never"):
        part.step(mean, weight=100.0, deviation=0.0)
    assert np.array_equal(part.core, before)
    # Noise of that size says nothing.
    part.step(mean, weight=100.0, deviation=1e-3)


def test_a_poisoned_round_is_void_though_its_sums_came_and_stays_booked(tmp_path: Path) -> None:
    poisoned = True

    class Regions:
        def ask(self, plan: RoundPlan, *, timeout_s: float) -> list[RegionalSum]:
            assert timeout_s > 0.0
            total = 30 * _statistics(*plan.core_shape, excess=1000.0 if poisoned else 1e-4)
            return [
                RegionalSum(
                    round_id=plan.round_id, region="us-east", phase=Phase.CLOSED, shape=plan.shape,
                    total=to_bytes(total), weight=30, clipping_norm=plan.clipping_norm,
                    noise_multiplier=plan.noise_multiplier,
                )
            ]  # fmt: skip

    plan = RunPlan(
        rounds=1, regions={"us-east": RegionLink(gateway_url="http://x", round_key_file="k")},
        release_directory=str(write_release(tmp_path)), outcome_directory=str(tmp_path / "outcome"),
        training=TrainingPlan(part=Part.ITEMS, categories=("quiet",), rank=RANK),
        privacy=PrivacyPlan(ledger_file=str(tmp_path / "ledger"), population="phones", noise_multiplier=4.0),
    )  # fmt: skip
    outcome = TrainingRun(plan, regions=Regions(), clock=ManualClock(), entropy=fixed_entropy()).run()
    assert not outcome.ok
    assert "no more than" in outcome.rounds[0].reason
    with np.load(tmp_path / "outcome" / "items.npz") as left:
        assert not left["moves"].any()
    assert [entry.kind for entry in read_ledger(tmp_path / "ledger")][-1] == "spent"


def test_what_bounds_a_phone_is_said_in_words() -> None:
    plain, private = (items_training((), noise_multiplier=noise) for noise in (0.0, 1.0))
    assert norm_in_words(plain).startswith("5, about 8 events of different items")
    assert "the noise is" in norm_in_words(private)
    assert "core" in norm_in_words(TrainingPlan())
