"""A training that is killed goes on from its last epoch, and ends where one that was not killed ends."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from central.commands import evaluate, train
from central.datasets.interactions import Interactions, leave_last_out
from central.training.checkpoint import Checkpoint, TrainingState, Weights
from central.training.config import RetrievalConfig, read_model_card
from central.training.retrieval import TwoTowerModel, _corpus, _Trainer
from central.training.runtime import seed_everything
from infra.plumbing.clock import ManualClock
from infra.plumbing.progress import SilentProgress

ROOT = Path(__file__).parents[3]
EPOCHS = 6
CHILD = """
import os, signal, sys
from pathlib import Path
from central.commands import train
from central.training.retrieval import _Trainer

keep = _Trainer._keep

def keep_and_die(self):
    keep(self)
    if len(self.curve) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

_Trainer._keep = keep_and_die
train(dataset=Path(sys.argv[1]), out=Path(sys.argv[2]), epochs=int(sys.argv[3]), seed=4)
"""


def state_of(run: str) -> TrainingState:
    rng = np.random.default_rng(0).bit_generator.state
    return TrainingState(
        run=run, done=3, steps=3, spent_s=1.5, best=0.1, curve=(0.1,), rng=dict(rng), finished=False
    )  # fmt: skip


def weights_of(count: int) -> Weights:
    arrays = [np.full(at + 1, float(at)) for at in range(count)]
    return Weights(variables=arrays, averages=arrays, best=arrays, optimizer=[np.array(7), *arrays])


def test_a_checkpoint_is_what_was_kept_and_only_of_its_own_run(tmp_path: Path) -> None:
    checkpoint = Checkpoint.beside(tmp_path / "model", "settings", 1)
    assert checkpoint.load() is None
    checkpoint.save(state_of(checkpoint.run), weights_of(12))
    kept = checkpoint.load()
    assert kept is not None
    state, weights = kept
    assert state == state_of(checkpoint.run)
    assert [array.size for array in weights.variables] == list(range(1, 13))
    assert weights.optimizer[0] == 7
    assert Checkpoint.beside(tmp_path / "model", "settings", 2).load() is None
    half = checkpoint.path.read_bytes()
    checkpoint.path.write_bytes(half[: len(half) // 2])
    assert checkpoint.load() is None
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint.beside(tmp_path / "model", "settings")
    checkpoint.save(state_of(checkpoint.run), weights_of(2))

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(state_of(checkpoint.run), weights_of(3))
    kept = checkpoint.load()
    assert kept is not None
    assert len(kept[1].variables) == 2


def test_a_killed_training_goes_on_and_ends_like_one_that_was_not(dataset_folder: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(dataset=dataset_folder, out=whole, epochs=EPOCHS, seed=4)
    child = [sys.executable, "-c", CHILD, str(dataset_folder), str(killed), str(EPOCHS)]
    assert subprocess.run(child, check=False, capture_output=True, cwd=ROOT).returncode == -9
    assert not killed.exists()
    assert killed.with_name(".killed.checkpoint").exists()
    said: list[int] = []

    class Told:
        def advance(self, done: int, total: int, what: str) -> None:
            if what == "training the towers":
                said.append(done)

    card = train(dataset=dataset_folder, out=killed, epochs=EPOCHS, seed=4, progress=Told())
    assert said[0] >= 500  # half of the schedule was not done again
    assert card.epochs == EPOCHS
    assert card.curve[:3] == read_model_card(whole).curve[:3]
    assert not killed.with_name(".killed.checkpoint").exists()
    one, two = (evaluate(model=path, dataset=dataset_folder).stage["retrieval"]["ndcg10"] for path in (whole, killed))
    assert two == pytest.approx(one, abs=0.06)  # two standard errors of 60 users


@pytest.mark.parametrize("context", [True, False])
def test_the_moments_of_the_optimiser_come_back_to_their_own_variables(
    data: Interactions, tmp_path: Path, context: bool
) -> None:
    """Also those of a tower that reads items only, where some variables have no gradient and so no moments."""
    config = RetrievalConfig(
        dim=8, layers=1, heads=2, history_length=12, batch_tokens=96, epochs=1, context=context, positions=context
    )
    trainers = []
    for _ in range(2):
        seed_everything(0)
        split = leave_last_out(data)
        trainer = _Trainer(
            model=TwoTowerModel(config=config, data=data, item_shares=np.ones(40, dtype=np.float32)),
            corpus=_corpus(data, split, config), clock=ManualClock(), progress=SilentProgress(),
            checkpoint=Checkpoint(tmp_path / "kept", run="one"),
        )  # fmt: skip
        trainers.append(trainer)
    first, second = trainers
    first.fit(budget_s=None)
    second._go_on()
    assert first._moments()[0] == second._moments()[0] > 0
    for one, two in zip(first._moments(), second._moments(), strict=True):
        assert np.array_equal(one, two)
    assert any(np.abs(moment).max() > 0 for moment in second._moments()[1:])
    assert second._finished
    assert second.curve == first.curve


def test_what_a_kill_left_half_written_goes_with_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = Checkpoint.beside(tmp_path / "model", 1)
    half, other = tmp_path / "..model.checkpoint.h5cgftaq", tmp_path / ".other.checkpoint"
    for path in (checkpoint.path, half, other):
        path.touch()
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == [other]
