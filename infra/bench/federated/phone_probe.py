"""`python -m infra.bench.federated.phone_probe --release DIR ...`: what one phone's local epoch costs; prints JSON.

Runs in the device's own environment (NumPy, LiteRT, cryptography): an epoch over `--events` newest events for the
items of a slice, the tower included, in a process that holds nothing else.
"""

import argparse
import json
import resource
import sys
from pathlib import Path

import numpy as np

from federation.device.model import moved_items
from federation.device.store import LocalHistory
from federation.device.tower import load_device_release
from federation.device.training import LocalSettings, examples_of, train_round
from federation.messages import Part, RoundPlan, to_bytes
from infra.plumbing.clock import SystemClock

RANK = 16
REPEATS = 5


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m infra.bench.federated.phone_probe", description=__doc__)
    parser.add_argument("--release", type=Path, required=True)
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--slice", type=int, required=True, help="items in the slice")
    arguments = parser.parse_args()
    clock, rng = SystemClock(), np.random.default_rng(0)
    release = load_device_release(arguments.release)
    items, dim = release.item_vectors.shape
    rows = rng.permutation(items)[: arguments.slice].astype("<i4")
    history = LocalHistory(
        rows=rng.integers(0, items, arguments.events + 1).astype(np.int32),
        strengths=rng.integers(1, 6, arguments.events + 1).astype(np.int32),
        times_s=1e9 + np.cumsum(rng.uniform(1, 5000, arguments.events + 1)),
        sensitive=rng.random(arguments.events + 1) < 0.2,
    )
    plan = RoundPlan(
        round_id="0" * 16, release=release.release_id, part=Part.ITEMS, dim=dim, rank=RANK,
        basis=to_bytes(rng.normal(size=(dim, RANK))), core=to_bytes(np.zeros((len(rows), RANK))), rows=rows.tobytes(),
        clipping_norm=10.0, noise_multiplier=1.0,
    )  # fmt: skip
    moved_items(release.item_vectors, rows=rows, core=np.zeros((len(rows), RANK)), directions=np.zeros((dim, RANK)))
    epochs, towers = [], []
    for _ in range(REPEATS):
        began_s = clock.monotonic_s()
        examples_of(history, release, LocalSettings())
        tower_s = clock.monotonic_s()
        train_round(plan, release, history, rng=rng)
        epochs.append(clock.monotonic_s() - tower_s)
        towers.append(tower_s - began_s)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    report = {
        "epoch_ms": 1000.0 * float(np.median(epochs)), "tower_ms": 1000.0 * float(np.median(towers)),
        "rss_mb": peak_mb, "examples": arguments.events,
    }  # fmt: skip
    sys.stdout.write(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
