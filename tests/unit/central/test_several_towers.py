"""Several user towers side by side: the score is the sum of the towers' scores; saved and exported as one."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from central.commands import train
from central.datasets.interactions import Interactions, leave_last_out
from central.release.export import export_user_tower, open_runner
from central.training.config import RetrievalConfig
from central.training.retrieval import TwoTowerModel, encode_histories
from central.training.runtime import tf
from central.training.saved import load_model
from central.training.towers import SeveralUserTowers, catalogue_vectors, packed_from_history
from central.training.windows import WindowBatch, epoch_batches, event_table, history_batch
from infra.contracts.features import HistoryInput
from infra.plumbing.errors import InvalidInputError

TWO = RetrievalConfig(
    dim=16, towers=2, heads=2, layers=1, history_length=12, batch_tokens=96, dropout=0.0, item_dropout=0.0
)


@pytest.fixture(scope="module")
def model(data: Interactions) -> TwoTowerModel:
    return TwoTowerModel(config=TWO, data=data, item_shares=np.ones(40, dtype=np.float32))


def batch_of(data: Interactions) -> WindowBatch:
    ends = leave_last_out(data).train_ends
    return epoch_batches(
        event_table(data), data.starts[:-1], ends, length=12, rows_per_batch=8, rng=np.random.default_rng(0)
    )[0]


def test_each_tower_reads_its_own_columns_and_scores_add_up(model: TwoTowerModel) -> None:
    histories = np.ones((4, 2, 12), dtype=np.int32)
    histories[0] = np.arange(1, 25).reshape(2, 12)
    packed, table = packed_from_history(*histories), model.items.table()
    together = model.users(packed, table, training=False, last_only=True).numpy()[:, 0]
    alone = [
        tower(packed, table[:, 8 * at : 8 * at + 8], training=False, last_only=True).numpy()[:, 0]
        for at, tower in enumerate(model.users.towers)
    ]
    assert together.shape == (2, 16)
    assert np.allclose(together, np.concatenate(alone, axis=1), atol=1e-6)
    sums = sum(own @ table.numpy()[:, 8 * at : 8 * at + 8].T for at, own in enumerate(alone))
    assert np.allclose(together @ table.numpy().T, sums, atol=1e-5)


def test_no_tower_learns_from_another(model: TwoTowerModel, data: Interactions) -> None:
    """The loss is the sum of the towers' own: what one of them is does not move the gradient of the other."""
    first, second = model.users.towers
    with tf.GradientTape() as tape:
        loss = model.compute_loss(batch_of(data), training=True)
    before = tape.gradient(loss, first.adapter).numpy()
    kept = second.adapter.numpy()
    second.adapter.assign(3.0 * kept)
    with tf.GradientTape() as tape:
        other = model.compute_loss(batch_of(data), training=True)
    after = tape.gradient(other, first.adapter).numpy()
    second.adapter.assign(kept)
    assert not np.isclose(float(loss), float(other), rtol=1e-6)
    assert np.abs(before).max() > 0.0
    assert np.allclose(before, after, atol=1e-7)


def test_several_towers_are_trained_saved_and_exported_as_one(
    data: Interactions, dataset_folder: Path, tmp_path: Path
) -> None:
    card = train(dataset=dataset_folder, out=tmp_path / "model", epochs=1, seed=1, towers=2)
    assert (card.retrieval.dim, card.retrieval.towers) == (128, 2)
    saved = load_model(tmp_path / "model", data).towers
    assert isinstance(saved.users, SeveralUserTowers)
    at = leave_last_out(data).test_at[:3]
    wanted = encode_histories(saved, event_table(data), data.starts[:-1], at, data.users)
    assert wanted.shape == (3, catalogue_vectors(saved.items).shape[1])
    runner = open_runner(export_user_tower(saved))
    length = card.retrieval.history_length
    histories = history_batch(event_table(data), data.starts[data.users[at]], at, length)
    for line in range(3):
        inputs = HistoryInput(*(part[line : line + 1] for part in histories))._asdict()
        assert np.abs(runner(**inputs)["vector"][0] - wanted[line]).max() < 1e-4
    with pytest.raises(InvalidInputError, match="towers must lie"):
        train(dataset=dataset_folder, out=tmp_path / "other", towers=9)


def test_one_tower_is_what_it_was(data: Interactions) -> None:
    one = TwoTowerModel(
        config=msgspec.structs.replace(TWO, dim=8, towers=1), data=data, item_shares=np.ones(40, dtype=np.float32)
    )
    assert not isinstance(one.users, SeveralUserTowers)
    assert one.users.adapter.trainable
