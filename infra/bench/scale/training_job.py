"""`python -m infra.bench.scale.training_job ...`: imports a Parquet folder and trains on it; runs in central's tier.

Prints one JSON object: the highest resident memory after the import and after the training, and how long each took.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import msgspec

from central.commands import train
from central.datasets.parquet import import_parquet
from infra.plumbing.clock import SystemClock
from infra.plumbing.progress import SilentProgress


def main() -> int:
    """Import, train, tell."""
    parser = argparse.ArgumentParser(prog="python -m infra.bench.scale.training_job", description=__doc__)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sample", type=int, required=True, help="interactions that are held in memory at most")
    parser.add_argument("--minutes", type=float, required=True, help="wall time of the towers")
    arguments = parser.parse_args()
    clock, progress = SystemClock(), SilentProgress()
    begun_s = clock.monotonic_s()
    bring = partial(import_parquet, name="synthetic", progress=progress, sample=arguments.sample)
    card = bring(arguments.raw, arguments.work / "dataset")
    imported_s, after_import_mb = clock.monotonic_s(), highest_rss_mb()
    train(dataset=arguments.work / "dataset", out=arguments.work / "model", minutes=arguments.minutes)
    told = {
        "interactions": card.stream_interactions or card.interactions, "import_rss_mb": after_import_mb,
        "rss_mb": highest_rss_mb(), "import_s": imported_s - begun_s, "train_s": clock.monotonic_s() - imported_s,
    }  # fmt: skip
    sys.stdout.write(msgspec.json.encode(told).decode() + "\n")
    return 0


def highest_rss_mb() -> float:
    """The most memory that this process has held at once, in MiB (`VmHWM` of proc(5))."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024.0


if __name__ == "__main__":
    raise SystemExit(main())
