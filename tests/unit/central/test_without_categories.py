"""A dataset of which nothing is known but who took what becomes a release that the region's models open."""

from pathlib import Path

import msgspec
import numpy as np

from central.commands import build_release, import_dataset, train
from infra.contracts import release as names
from region.funnel.seats import SEATS
from region.funnel.tables import load_tables
from region.funnel.towers import TowerSet
from tests.unit.central.conftest import synthetic_rows, write_csv


def test_a_release_without_categories_can_be_served(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    rows = [row[:2] for row in synthetic_rows(users=30, items=40)]
    write_csv(tmp_path / "raw" / "interactions.csv", "user_id,item_id", list(rows))
    import_dataset(source=str(tmp_path / "raw"), out=tmp_path / "data")
    train(dataset=tmp_path / "data", out=tmp_path / "model", epochs=1, seed=1)
    built = build_release(
        dataset=tmp_path / "data", model=tmp_path / "model", out=tmp_path / "out", allow_failed_gates=True
    )
    bundle = Path(built.path)
    manifest = msgspec.json.decode((bundle / "manifest.json").read_bytes(), type=names.Manifest)
    assert manifest.shape.num_categories == 0
    assert load_tables(bundle, manifest).arrays.categories.shape == (40 + SEATS, 0)
    towers = TowerSet(bundle, manifest.shape)
    vector = towers.item_vector(np.zeros(0, dtype=np.float32))
    assert vector.shape == (manifest.shape.dim,)
    assert np.isfinite(vector).all()
