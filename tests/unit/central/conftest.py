"""Fixtures of central: small datasets that have something to learn, written as plain folders."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from central.datasets.importing import import_source, open_source
from central.datasets.interactions import Interactions, load_dataset

# TensorFlow 2.20, TensorFlow Recommenders and tf_keras warn while they are imported and used; none of it is ours.
TENSORFLOW_WARNINGS = (
    "ignore::DeprecationWarning:tensorflow",
    "ignore::DeprecationWarning:tf_keras",
    "ignore::DeprecationWarning:keras",
    "ignore::DeprecationWarning:flatbuffers",
    "ignore::DeprecationWarning:google",
    "ignore:.*SwigPy.*:DeprecationWarning",
    "ignore:.*swigvarlink.*:DeprecationWarning",
    "ignore:.*tf.lite.Interpreter is deprecated.*:UserWarning",
    "ignore:.*pkg_resources.*:UserWarning",
)

WriteDataset = Callable[..., Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "unit/central" in str(item.path):
            for line in TENSORFLOW_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(line))


def synthetic_rows(*, users: int, items: int, seed: int = 0) -> list[tuple[str, str, int, int]]:
    """People walk along a ring of items: what comes next follows from what came before."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        at = int(rng.integers(items))
        moment = 1_000_000 + int(rng.integers(1000))
        seen: set[int] = set()
        for _ in range(int(rng.integers(8, 16))):
            while at in seen:
                at = (at + 1) % items
            seen.add(at)
            rows.append((f"u{user}", f"i{at}", moment, int(rng.integers(3, 6))))
            moment += int(rng.integers(30, 3000))
            at = (at + 1) % items if rng.random() < 0.9 else int(rng.integers(items))
    return rows


def write_csv(path: Path, header: str, rows: list[tuple[object, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(rows)


def write_synthetic(folder: Path, *, users: int = 60, items: int = 40, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = synthetic_rows(users=users, items=items, seed=seed)
    write_csv(folder / "interactions.csv", "user_id,item_id,timestamp,value", list(rows))
    kinds = ("tea", "coffee", "juice", "water")
    write_csv(
        folder / "items.csv",
        "item_id,title,category,year",
        [(f"i{n}", f"Item {n}", "|".join({kinds[n % 4], kinds[n // 10]}), 1980 + n) for n in range(items)],
    )
    regions = ("us-east", "us-central", "us-west")
    write_csv(folder / "users.csv", "user_id,region", [(f"u{n}", regions[n % 3]) for n in range(users)])
    return folder


@pytest.fixture(scope="session")
def raw_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("raw") / "ring")


@pytest.fixture(scope="session")
def dataset_folder(raw_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("datasets") / "ring"
    with open_source(raw_folder) as source:
        import_source(source, out)
    return out


@pytest.fixture(scope="session")
def data(dataset_folder: Path) -> Interactions:
    return load_dataset(dataset_folder)
