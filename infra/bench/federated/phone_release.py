"""`python -m infra.bench.federated.phone_release --out DIR ...`: a release of a given size for phones, untrained.

Runs in central's environment. Time, memory and bytes on a phone do not depend on what the weights are.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from central.datasets.importing import DatasetCard
from central.datasets.interactions import Interactions, Items
from central.release.export import export_user_tower
from central.training.config import RetrievalConfig
from central.training.retrieval import TwoTowerModel
from infra.contracts.release import FEDERATED_ADAPTER, ITEM_VECTORS, USER_TOWER, CatalogueItem
from infra.plumbing.catalogue.writing import write_catalogue


def main() -> int:
    """Write the folder."""
    parser = argparse.ArgumentParser(prog="python -m infra.bench.federated.phone_release", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="its name is the release id")
    parser.add_argument("--items", type=int, default=1682)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--history", type=int, default=100)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True)
    config = RetrievalConfig(dim=arguments.dim, history_length=arguments.history, distances=True)
    shares = np.ones(arguments.items, dtype=np.float32) / arguments.items
    model = TwoTowerModel(config=config, data=_nobody(arguments.items), item_shares=shares)
    (arguments.out / USER_TOWER).write_bytes(export_user_tower(model))
    np.save(arguments.out / ITEM_VECTORS, model.items.table().numpy())
    np.save(arguments.out / FEDERATED_ADAPTER, model.users.adapter.numpy())
    catalogue = (
        CatalogueItem(item=str(row), interactions=row, categories=("slice" if row % 5 == 0 else "rest",))
        for row in range(arguments.items)
    )
    write_catalogue(arguments.out, catalogue, np.zeros(arguments.items, dtype=np.float32))
    return 0


def _nobody(items: int) -> Interactions:
    """A dataset with a catalogue and no interaction."""
    nothing = np.zeros(0, dtype=np.int32)
    catalogue = Items(
        ids=tuple(str(row) for row in range(items)), titles=("",) * items, labels=((),) * items,
        years=np.zeros(items, dtype=np.int32), categories=("slice", "rest"),
        weights=np.ones((items, 2), dtype=np.float32) / 2.0, extras=({},) * items,
    )  # fmt: skip
    card = DatasetCard(name="nobody", sha256="0" * 64, interactions=0, users=0, items=items)
    return Interactions(
        card=card, items=catalogue, user_ids=(), regions=(), user_regions=nothing, users=nothing, rows=nothing,
        strengths=nothing, times_s=np.zeros(0), starts=np.zeros(1, dtype=np.int64),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
