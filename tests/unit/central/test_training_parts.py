"""The parts of training that have a law: the loss and its gradient, calibration, candidates, defaults."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from central.datasets.interactions import Interactions, leave_last_out
from central.training.calibration import fit_platt
from central.training.config import RankerConfig, RetrievalConfig, default_config
from central.training.losses import full_softmax_loss
from central.training.ranker import HEADS, RankerNetwork
from central.training.ranking_data import candidate_lists, retrieve
from central.training.retrieval import TwoTowerModel, seen_before
from central.training.runtime import prefers_bfloat16, tf
from central.training.tables import item_tables
from central.training.towers import (
    DISTANCE_BUCKETS,
    ItemTower,
    PackedInput,
    distance_buckets,
    packed_from_history,
    year_buckets,
)
from central.training.windows import WindowBatch, epoch_batches, event_table
from infra.contracts.features import RANKING_FEATURES

TINY = RetrievalConfig(dim=8, heads=2, layers=1, history_length=12, batch_tokens=96, dropout=0.0, item_dropout=0.0)


@pytest.mark.parametrize("excluding", [False, True])
@pytest.mark.parametrize(("bfloat16", "tolerance"), [(False, 1e-5), (True, 2e-2)])
def test_the_full_softmax_equals_tensorflows_own(bfloat16: bool, tolerance: float, excluding: bool) -> None:
    rng = np.random.default_rng(0)
    hidden, table = (tf.Variable(rng.normal(size=shape).astype(np.float32)) for shape in ((30, 8), (50, 8)))
    targets = tf.constant(rng.integers(0, 50, 30).astype(np.int32))
    weights = tf.constant((rng.random(30) > 0.3).astype(np.float32))
    out = (rng.random((30, 50)) < 0.2) & excluding
    out[np.arange(30), targets.numpy()] = False
    twice = tf.constant(np.tile(np.flatnonzero(out), 2).astype(np.int32))
    with tf.GradientTape() as tape:
        mine = full_softmax_loss(
            hidden, table, targets, weights, bfloat16=bfloat16, excluded=twice if excluding else None
        )  # fmt: skip
    found = tape.gradient(mine, [hidden, table])
    with tf.GradientTape() as tape:
        logits = tf.where(out, -1e9, tf.matmul(hidden, table, transpose_b=True))
        each = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
        wanted_loss = tf.reduce_sum(each * weights) / tf.reduce_sum(weights)
    wanted = tape.gradient(wanted_loss, [hidden, table])
    assert float(mine) == pytest.approx(float(wanted_loss), abs=10 * tolerance)
    for mine_part, wanted_part in zip(found, wanted, strict=True):
        assert np.abs(mine_part.numpy() - wanted_part.numpy()).max() < tolerance


def test_what_a_window_has_shown_leaves_the_softmax_and_what_comes_again_does_not() -> None:
    items = np.array([[3, 5, 3, 2, 0]], dtype=np.int32)  # two windows, 3 5 3 and 2, and a place with nothing
    segments = np.array([[1, 1, 1, 2, 0]], dtype=np.int32)
    targets = np.array([[4, 2, 6, 4, 0]], dtype=np.int32)  # catalogue rows: the second is item 3, seen before
    nothing = np.zeros_like(items)
    batch = WindowBatch(items, *(nothing,) * 4, segments, targets, (items > 0).astype(np.float32))
    places = seen_before(batch, 7).numpy()
    pairs = {(place // 7, place % 7) for place in places.tolist()}
    assert pairs == {(0, 2), (1, 4), (2, 2), (2, 4), (3, 1)}


def test_every_distance_has_a_bucket_and_nearer_ones_have_their_own() -> None:
    buckets = distance_buckets(300)
    last = buckets[-1][::-1]  # by how far back
    assert last[:16].tolist() == list(range(16))
    assert (np.diff(last) >= 0).all()
    assert last[-1] == DISTANCE_BUCKETS - 1
    assert len(np.unique(last)) == DISTANCE_BUCKETS
    assert (np.triu(buckets) == 0).all()
    assert buckets[40, 7] == buckets[140, 107]


@pytest.mark.parametrize("distances", [False, True])
def test_packed_windows_and_single_histories_give_the_same_vectors(data: Interactions, distances: bool) -> None:
    """A window packed beside others sees nothing of them, and is what serving computes for it alone."""
    config = msgspec.structs.replace(TINY, distances=distances)
    model = TwoTowerModel(config=config, data=data, item_shares=np.ones(40, dtype=np.float32))
    for block in model.users.blocks if distances else ():
        block.nearness.assign(np.random.default_rng(0).normal(size=block.nearness.shape))
    table = model.items.table()
    split = leave_last_out(data)
    batch = epoch_batches(
        event_table(data), data.starts[:-1], split.train_ends, length=12, rows_per_batch=8, rng=np.random.default_rng(0)
    )[0]
    packed = model.users(PackedInput(*(tf.constant(part) for part in batch[:6])), table, training=False).numpy()
    for row, column in np.argwhere(batch.weights > 0)[::7]:
        begin = column - batch.positions[row, column]
        alone = np.zeros((4, 1, 12), dtype=np.int32)
        for number in range(4):
            alone[number, 0, 12 - (column + 1 - begin) :] = batch[number][row, begin : column + 1]
        vector = model.users(packed_from_history(*alone), table, training=False, last_only=True).numpy()
        assert np.allclose(vector[0, 0], packed[row, column], atol=1e-5)


def test_the_in_batch_loss_is_log_q_corrected(data: Interactions) -> None:
    """With the correction, a popular item in the batch is not pushed down for being popular."""
    config = msgspec.structs.replace(TINY, full_softmax=False)
    split = leave_last_out(data)
    batch = epoch_batches(
        event_table(data), data.starts[:-1], split.train_ends, length=12, rows_per_batch=8, rng=np.random.default_rng(0)
    )[0]
    losses = []
    for shares in (np.full(40, 1 / 40), np.linspace(1, 9, 40) / 200):
        tf.random.set_seed(0)
        model = TwoTowerModel(config=config, data=data, item_shares=shares.astype(np.float32))
        losses.append(float(model.compute_loss(batch, training=True)))
    assert all(np.isfinite(loss) and loss > 0 for loss in losses)
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)


def test_the_adapter_is_the_last_operation_and_starts_as_identity(data: Interactions) -> None:
    model = TwoTowerModel(config=TINY, data=data, item_shares=np.ones(40, dtype=np.float32))
    assert np.array_equal(model.users.adapter.numpy(), np.eye(8, dtype=np.float32))
    history = packed_from_history(*np.ones((4, 1, 12), dtype=np.int32))
    table = model.items.table()
    hidden = model.users.hidden(history, table, training=False).numpy()
    other = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    model.users.adapter.assign(other)
    assert np.allclose(model.users(history, table, training=False).numpy(), hidden @ other, atol=1e-5)


def test_an_item_has_a_vector_from_metadata_alone(data: Interactions) -> None:
    tower = ItemTower(items=data.items, dim=8)
    vector = tower.from_metadata(tf.constant(data.items.weights[:1])).numpy()
    assert np.allclose(vector, data.items.weights[:1] @ tower.categories.numpy(), atol=1e-6)
    assert tower.from_metadata(tf.zeros([3, 0])).shape == (3, 8)
    assert year_buckets(np.array([0, 1850, 1900, 1999, 2100])).tolist() == [0, 1, 1, 20, 31]


def test_platt_scaling_finds_the_rate_and_keeps_the_order() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=20_000)
    labels = rng.random(20_000) < 1.0 / (1.0 + np.exp(-(2.0 * logits - 3.0)))
    slope, offset = fit_platt(logits, labels)
    assert slope == pytest.approx(2.0, abs=0.15)
    assert offset == pytest.approx(-3.0, abs=0.15)
    assert fit_platt(logits, np.zeros(20_000, dtype=np.bool_))[0] > 0
    assert fit_platt(-logits, labels)[0] > 0  # an order that is wrong is flattened, never turned


def test_the_ranker_starts_as_the_retrieval_order() -> None:
    inputs = len(RANKING_FEATURES)
    network = RankerNetwork(
        config=RankerConfig(), mean=np.zeros(inputs, dtype=np.float32), deviation=np.ones(inputs, dtype=np.float32)
    )
    features = np.random.default_rng(0).normal(size=(50, inputs)).astype(np.float32)
    found = network.probabilities(tf.constant(features)).numpy()
    assert found.shape == (50, len(HEADS))
    assert np.array_equal(np.argsort(-found[:, 0]), np.argsort(-features[:, 0]))


def test_retrieval_takes_the_history_out_and_breaks_ties_by_row(data: Interactions) -> None:
    at = int(data.starts[1] - 1)
    flat = np.ones((40, 4), dtype=np.float32)
    found = retrieve(data, at, np.ones(4, dtype=np.float32), flat, 10)
    left = sorted(set(range(40)) - set(data.rows[:at].tolist()))
    assert found.tolist() == left[:10]
    assert len(retrieve(data, at, np.ones(4, dtype=np.float32), flat, 99)) == len(left)


def test_targets_are_inserted_to_learn_from_and_never_to_evaluate(data: Interactions) -> None:
    split = leave_last_out(data)
    rng = np.random.default_rng(0)
    tables = item_tables(data, split.train_ends, rng.normal(size=(40, 4)).astype(np.float32), ease_penalty=50.0)
    vectors = rng.normal(size=(60, 4)).astype(np.float32)
    learn = candidate_lists(data, split.valid_at, vectors, tables, insert_target=True, width=5)
    assert (learn.rows[np.arange(60), learn.learn_at] == data.rows[split.valid_at]).all()
    seen = candidate_lists(data, split.valid_at, vectors, tables, insert_target=False, width=5)
    assert (seen.target_at < 0).any()
    assert np.array_equal(seen.target_at, learn.target_at)
    assert learn.features.shape == (60, 5, len(RANKING_FEATURES))
    assert np.array_equal(seen.strengths, data.strengths[split.valid_at])
    both = learn.take(np.arange(10)).joined(learn.take(np.arange(10, 60)))
    assert np.array_equal(both.features, learn.features)


def test_defaults_follow_the_data(data: Interactions) -> None:
    config = default_config(data, seed=5, bfloat16=False)
    assert config.history_length == 20
    assert config.full_softmax
    assert config.seed == 5
    assert config.epochs == 60


def test_bfloat16_is_read_off_the_machine(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("flags : fpu avx512_bf16")
    (tmp_path / "old").write_text("flags : fpu sse2")
    assert prefers_bfloat16(tmp_path / "new")
    assert not prefers_bfloat16(tmp_path / "old")
    assert not prefers_bfloat16(tmp_path / "absent")


def test_without_positions_the_order_of_the_earlier_history_does_not_matter(data: Interactions) -> None:
    config = msgspec.structs.replace(TINY, positions=False, context=False, layers=1)
    model = TwoTowerModel(config=config, data=data, item_shares=np.ones(40, dtype=np.float32))
    histories = np.ones((4, 2, 12), dtype=np.int32)
    histories[0] = np.arange(1, 13)
    histories[0, 1, :11] = np.arange(11, 0, -1)
    table = model.items.table()
    one, other = model.users(packed_from_history(*histories), table, training=False, last_only=True).numpy()
    assert np.allclose(one, other, atol=1e-5)
