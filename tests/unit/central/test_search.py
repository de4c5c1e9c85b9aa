"""The search of settings: judged by validation alone, never below the default, resumable, the same under a seed."""

from pathlib import Path

import msgspec
import pytest

from central.commands import train
from central.datasets.interactions import Interactions, leave_last_out
from central.training import search
from central.training.config import RetrievalConfig, SearchReport, default_config
from central.training.retrieval import TrainedRetrieval
from central.training.search import search_settings
from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.progress import SilentProgress


class Trainings:
    """In place of trainings: a curve that is known by the settings; may be killed."""

    def __init__(self) -> None:
        self.asked: list[RetrievalConfig] = []
        self.kill_at: int | None = None

    def __call__(self, data: Interactions, split: object, config: RetrievalConfig, **more: object) -> TrainedRetrieval:
        if len(self.asked) == self.kill_at:
            raise KeyboardInterrupt
        self.asked.append(config)
        best = 1.0 - abs(config.dropout - 0.4) - 0.01 * abs(config.layers - 1)
        curve = []
        for epoch in range(config.epochs):
            curve.append(best * (epoch + 1) / config.epochs)
            if not more["watch"](epoch, curve[-1]):  # type: ignore[operator]
                break
        return TrainedRetrieval(model=None, curve=curve, epochs=len(curve), train_s=0.0)  # type: ignore[arg-type]


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    made = Trainings()
    monkeypatch.setattr(search, "train_retrieval", made)
    return made


def find(data: Interactions, file: Path, trials: int, seed: int = 0) -> tuple[RetrievalConfig, SearchReport]:
    base = default_config(data, seed=seed, bfloat16=False)
    return search_settings(
        data, leave_last_out(data), base, trials=trials, file=file, clock=ManualClock(), progress=SilentProgress()
    )  # fmt: skip


def test_it_begins_with_the_default_gives_up_what_is_bad_and_finds_better(
    data: Interactions, trainings: Trainings, tmp_path: Path
) -> None:
    base = default_config(data, seed=0, bfloat16=False)
    chosen, report = find(data, tmp_path / "s.jsonl", 25)
    assert msgspec.structs.replace(trainings.asked[0], epochs=base.epochs) == base
    assert (report.trials, len(trainings.asked)) == (25, 25)
    assert report.pruned > 0
    assert report.best > report.default
    assert abs(chosen.dropout - 0.4) < abs(base.dropout - 0.4)
    assert (chosen.epochs, chosen.seed) == (base.epochs, base.seed)


def test_a_killed_search_goes_on_and_a_finished_one_is_not_searched_again(
    data: Interactions, trainings: Trainings, tmp_path: Path
) -> None:
    trainings.kill_at = 3
    with pytest.raises(KeyboardInterrupt):
        find(data, tmp_path / "s.jsonl", 6)
    trainings.kill_at = None
    _, report = find(data, tmp_path / "s.jsonl", 6)
    assert (report.trials, len(trainings.asked)) == (6, 6)
    again = find(data, tmp_path / "s.jsonl", 6)
    assert again[1] == report
    assert len(trainings.asked) == 6
    # Other settings are another study in the same file.
    find(data, tmp_path / "s.jsonl", 2, seed=5)
    assert len(trainings.asked) == 8


def test_the_same_seed_searches_the_same(data: Interactions, trainings: Trainings, tmp_path: Path) -> None:
    assert find(data, tmp_path / "a.jsonl", 8)[1] == find(data, tmp_path / "b.jsonl", 8)[1]


def test_the_command_trains_what_was_chosen_and_says_so(dataset_folder: Path, tmp_path: Path) -> None:
    card = train(dataset=dataset_folder, out=tmp_path / "model", epochs=3, search=2, seed=1)
    assert card.search is not None
    assert card.search.trials == 2
    assert card.retrieval.dropout == pytest.approx(card.search.chosen["dropout"])
    assert (tmp_path / "model.study.jsonl").is_file()
    with pytest.raises(InvalidInputError, match="search must lie"):
        train(dataset=dataset_folder, out=tmp_path / "model", search=0)
