"""`python -m infra.bench.federated.central_job ...`: trains the scenes' central models; runs in central's environment.

For each scene a model of what central may see there, and the ceiling that saw everything but the test events. What it
leaves behind is NumPy: the events, and of each model the catalogue's vectors and the tower's weights.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from central.datasets.interactions import Interactions, Split, load_dataset
from central.training.config import RetrievalConfig, default_config
from central.training.retrieval import TwoTowerModel, encode_histories, train_retrieval
from central.training.runtime import prefers_bfloat16
from central.training.towers import distance_buckets
from central.training.windows import event_table
from infra.bench.federated.scenes import CEILING, SENSITIVE, SILENT, Scenes, draw_scenes
from infra.plumbing.clock import SystemClock
from infra.plumbing.progress import SilentProgress

CHECKED = 64
"""Users whose vectors are left behind too, so that whoever computes the tower elsewhere can compare."""
HISTORY_MIN = 3
SCENES = (SENSITIVE, SILENT, CEILING)

Int64Array = npt.NDArray[np.int64]


def main() -> int:
    """Train and encode one seed."""
    parser = argparse.ArgumentParser(prog="python -m infra.bench.federated.central_job", description=__doc__)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--epochs", type=int, default=0, help="0: central's own number")
    parser.add_argument(
        "--scene", action="append", default=[], choices=(SENSITIVE, SILENT, CEILING), help="default: all"
    )
    arguments = parser.parse_args()
    data = load_dataset(arguments.dataset)
    counts = np.bincount(data.rows, minlength=len(data.items))
    drawn = draw_scenes(
        labels=data.items.labels, counts=counts, num_users=data.num_users, seed=arguments.seed
    )  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    users = np.flatnonzero(data.lengths >= HISTORY_MIN)
    np.savez(
        arguments.out / "events.npz", users=data.users, rows=data.rows, strengths=data.strengths,
        times_s=data.times_s, starts=data.starts, evaluated=users, silent=drawn.silent, regions=data.user_regions,
        sensitive_items=drawn.sensitive_items, genres=np.array(drawn.genres),
    )  # fmt: skip
    for scene in arguments.scene or SCENES:
        _scene(scene, data, drawn, users, arguments)
    return 0


def _scene(scene: str, data: Interactions, scenes: Scenes, users: Int64Array, arguments: argparse.Namespace) -> None:
    is_test = np.zeros(data.rows.size, dtype=np.bool_)
    is_test[data.starts[1:][users] - 1] = True
    seen = _kept(data, scenes.visible(scene, data.users, data.rows) & ~is_test)
    config = default_config(data, seed=arguments.seed, bfloat16=prefers_bfloat16())
    if arguments.epochs:
        config = msgspec.structs.replace(config, epochs=arguments.epochs)
    trained = train_retrieval(seen, _split(seen), config, clock=SystemClock(), progress=SilentProgress())
    check = encode_histories(
        trained.model, event_table(data), data.starts[:-1], data.starts[1:][users[:CHECKED]] - 1, data.users
    )  # fmt: skip
    np.savez(
        arguments.out / f"{scene}.npz", allow_pickle=False, table=trained.model.items.table().numpy(), check=check,
        history_length=config.history_length, heads=config.heads, **_weights(trained.model), **_distances(config),
    )  # fmt: skip
    sys.stderr.write(f"{scene}: {trained.epochs} epochs, {trained.train_s:.0f} s, {max(trained.curve):.4f}\n")


def _kept(data: Interactions, mask: npt.NDArray[np.bool_]) -> Interactions:
    """The events under `mask`; users without any are gone, and those left are numbered anew in their order."""
    left, users = np.unique(data.users[mask], return_inverse=True)
    return replace(
        data, user_ids=tuple(data.user_ids[user] for user in left), user_regions=data.user_regions[left],
        users=users.astype(np.int32), rows=data.rows[mask], strengths=data.strengths[mask], times_s=data.times_s[mask],
        starts=np.searchsorted(users, np.arange(len(left) + 1)).astype(np.int64),
    )  # fmt: skip


def _split(data: Interactions) -> Split:
    """The last event that central sees of a user chooses the epoch; all before it is trained on."""
    users = np.flatnonzero(data.lengths >= HISTORY_MIN)
    last = data.starts[1:][users] - 1
    ends = data.starts[1:].copy()
    ends[users] = last
    return Split(users=users, valid_at=last, test_at=last, train_ends=ends)


def _distances(config: RetrievalConfig) -> dict[str, npt.NDArray[np.int32]]:
    """Of a tower whose attention weighs events by distance: the bucket of each two places, `[length, length]`."""
    return {"distances": distance_buckets(config.history_length)} if config.distances else {}


def _weights(model: TwoTowerModel) -> dict[str, npt.NDArray[np.float32]]:
    """The user tower's weights by their places in it, as `infra.bench.federated.tower` reads them."""
    users = model.users
    found: dict[str, Any] = {
        "strengths": users.strengths, "gaps_before": users.gaps_before, "gaps_after": users.gaps_after,
        "positions": users.positions, "adapter": users.adapter, "norm_scale": users.norm.scale,
        "norm_shift": users.norm.shift,
    }  # fmt: skip
    for number, block in enumerate(users.blocks):
        nearness = ("nearness",) if block.nearness is not None else ()
        for name in ("query", "key", "value", "out", "widen", "widen_bias", "narrow", "narrow_bias", *nearness):
            found[f"block{number}_{name}"] = getattr(block, name)
        for name in ("norm_attention", "norm_feed"):
            found[f"block{number}_{name}_scale"] = getattr(block, name).scale
            found[f"block{number}_{name}_shift"] = getattr(block, name).shift
    return {f"weight_{name}": variable.numpy() for name, variable in found.items()}


if __name__ == "__main__":
    sys.exit(main())
