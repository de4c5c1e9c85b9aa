"""Models of several seeds: where they stand, what is refused, what a killed run goes on with, and their spread."""

import argparse
import shutil
from pathlib import Path

import msgspec
import pytest
from scipy.stats import t

from central.evaluation.seeds import spread
from central.families import KINDS, family_of, orders_of, train_family
from central.ordering import TrainingOrder
from central.training.config import CARD, ModelCard, ModelError, read_model_card
from infra.cli import central as commands
from infra.cli import training
from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.progress import SilentProgress


def called(*words: str | Path) -> None:
    parser = argparse.ArgumentParser()
    commands.register(parser.add_subparsers())
    arguments = parser.parse_args([str(word) for word in words])
    arguments.run(arguments)


@pytest.fixture(scope="module")
def family(dataset_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds; their twins are the same weights under a card that says random ties: a training costs seconds."""
    folder = tmp_path_factory.mktemp("family")
    called(
        "train", "--dataset", dataset_folder, "--out", folder / "m", "--seed", "3", "--seeds", "2", "--epochs", "1",
        "--json", folder / "train.json",
    )  # fmt: skip
    for name in ("m", "m.seed-4"):
        twin = folder / name.replace("m", "m.random-ties", 1)
        shutil.copytree(folder / name, twin)
        card = msgspec.structs.replace(read_model_card(twin), ties="random")
        (twin / CARD).write_bytes(msgspec.json.encode(card))
    return folder


def test_each_seed_has_a_model_of_its_own(family: Path) -> None:
    told = msgspec.json.decode((family / "train.json").read_bytes())
    rows = [(Path(row["model"]).name, row["seed"], row["ties"]) for row in told["models"]]
    assert rows == [("m", 3, "file"), ("m.seed-4", 4, "file")]
    for name, seed, _ in rows:
        assert read_model_card(family / name).retrieval.seed == seed
    assert told["retrieval"]["seed"] == 3  # the first one's card, as without --seeds
    assert not (family / ".m.family").exists()


def test_an_evaluation_of_seeds_tells_both_kinds_of_interval(family: Path, dataset_folder: Path) -> None:
    called(
        "evaluate", "--dataset", dataset_folder, "--model", family / "m", "--seeds", "2", "--no-served",
        "--json", family / "evaluation.json", "--report", family / "report.html",
    )  # fmt: skip
    found = msgspec.json.decode((family / "evaluation.json").read_bytes())
    assert found["seeds"]["seeds"] == [3, 4]
    both = found["seeds"]["stage"]["retrieval"]["hr10"]
    assert both["values"][0] == found["stage"]["retrieval"]["hr10"]
    assert both["mean"] == pytest.approx(sum(both["values"]) / 2)
    assert both["users"][0] <= both["mean"] <= both["users"][1]
    assert set(found["variants"]) == {
        "m.random-ties: items and context, ties random, seed 3",
        "m.random-ties.seed-4: items and context, ties random, seed 4",
    }
    assert len(found["seeds"]["variants"]["random-ties"]["ndcg10"]["values"]) == 2
    assert "Seeds 3, 4" in (family / "report.html").read_text()


def test_a_missing_or_other_seed_is_named(family: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="seed-5 holds no trained model") as refused:
        family_of(family / "m", seeds=3)
    assert "--seeds 3" in str(refused.value.fix)
    first = read_model_card(family / "m")
    other = msgspec.structs.replace(first, protocol="global-time")
    for name, card in (("m", first), ("m.seed-4", other)):
        _write_card(tmp_path / name, card)
    with pytest.raises(ModelError, match="not trained as the first"):
        family_of(tmp_path / "m", seeds=2)


def _write_card(folder: Path, card: ModelCard) -> None:
    folder.mkdir()
    (folder / CARD).write_bytes(msgspec.json.encode(card))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seeds": 0}, "seeds must lie"),
        ({"beside": ("nonsense",)}, "beside must be"),
        ({"ties": "random", "beside": ("random-ties",)}, "random already"),
        ({"context": False, "beside": ("items-only",)}, "items alone already"),
        ({"search": 4, "seeds": 2}, "search is for one model"),
        ({"seed": 2**31 - 1, "seeds": 2}, "last seed"),
    ],
)
def test_families_that_make_no_sense_are_refused(change: dict, said: str, tmp_path: Path) -> None:
    wanted = {"seeds": change.pop("seeds", 1), "beside": change.pop("beside", ())}
    with pytest.raises(InvalidInputError, match=said):
        orders_of(TrainingOrder(dataset=tmp_path, out=tmp_path / "m", **change), **wanted)


def test_what_stands_beside_is_trained_with_every_seed(tmp_path: Path) -> None:
    first = TrainingOrder(dataset=tmp_path, out=tmp_path / "m", seed=3)
    orders = orders_of(first, seeds=2, beside=("items-only", "random-ties"))
    assert [(one.out.name, one.seed, one.ties, one.context) for one in orders] == [
        ("m", 3, "file", True), ("m.seed-4", 4, "file", True),
        ("m.random-ties", 3, "random", True), ("m.random-ties.seed-4", 4, "random", True),
        ("m.items-only", 3, "file", False), ("m.items-only.seed-4", 4, "file", False),
    ]  # fmt: skip


def test_a_killed_family_goes_on_with_the_next_seed(family: Path, tmp_path: Path, monkeypatch) -> None:
    card = read_model_card(family / "m")
    trained: list[str] = []

    def carry_out(order: TrainingOrder, **_: object) -> ModelCard:
        if len(trained) == 2 and trained.count(order.out.name) == 0 and order.seed == 2:
            trained.append("killed")
            raise KeyboardInterrupt
        trained.append(order.out.name)
        _write_card(order.out, card)
        return card

    monkeypatch.setattr("central.families.carry_out", carry_out)
    orders = orders_of(TrainingOrder(dataset=tmp_path, out=tmp_path / "m"), seeds=3)
    with pytest.raises(KeyboardInterrupt):
        train_family(orders, clock=ManualClock(), progress=SilentProgress())
    train_family(orders, clock=ManualClock(), progress=SilentProgress())
    assert trained == ["m", "m.seed-1", "killed", "m.seed-2"]
    assert not (tmp_path / ".m.family").exists()


def test_the_interval_of_a_mean_over_seeds_is_students() -> None:
    found = spread([0.30, 0.32, 0.34], [(0.28, 0.32), (0.30, 0.34), (0.32, 0.36)])
    low, high = t.interval(0.95, 2, loc=0.32, scale=0.02 / 3**0.5)
    assert found.low == pytest.approx(low)
    assert found.high == pytest.approx(high)
    assert found.deviation == pytest.approx(0.02)
    assert found.users is not None
    assert found.users == pytest.approx((0.30, 0.34))
    alone = spread([0.3])
    assert (alone.low, alone.high, alone.users) == (0.3, 0.3, None)


def test_the_command_line_knows_every_kind() -> None:
    assert training.KINDS == KINDS
