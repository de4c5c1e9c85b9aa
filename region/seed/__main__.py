"""`python -m region.seed --settings FILE --dataset DIR`: write an existing history into the region's store."""

import argparse
import asyncio
import sys
from pathlib import Path

from infra.plumbing.clock import SystemClock
from infra.plumbing.keys import RegionKeys
from infra.plumbing.one_shot import print_report
from infra.plumbing.progress import SilentProgress
from infra.plumbing.settings import load_settings
from region.seed.seeding import SeedReport, seed
from region.settings import RegionSettings
from region.store.opening import apply_rules, open_store


async def run(settings_path: Path, dataset: Path, *, hold_out_last: bool) -> SeedReport:
    """Seed the store of a node."""
    settings = load_settings(settings_path, RegionSettings)
    keys = RegionKeys.load(Path(settings.keys_file))
    store = open_store(settings)
    try:
        return await seed(
            dataset, region=settings.region, keys=keys, store=store, rules=apply_rules(settings), clock=SystemClock(),
            hold_out_last=hold_out_last, progress=SilentProgress(),
        )  # fmt: skip
    finally:
        await store.close()


def main() -> int:
    """Read the command line and run; prints one JSON object, returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m region.seed",
        description="Write the histories of this region's users from a plain dataset folder into its store.",
        epilog="example: python -m region.seed --settings us-east-1.toml --dataset data/ml-100k --hold-out-last",
    )
    parser.add_argument("--settings", type=Path, required=True, help="the node's settings (.toml or .json)")
    parser.add_argument("--dataset", type=Path, required=True, help="a folder with interactions.csv and users.csv")
    parser.add_argument("--hold-out-last", action="store_true", help="leave each user's last event out")
    arguments = parser.parse_args()
    return print_report(
        lambda: asyncio.run(run(arguments.settings, arguments.dataset, hold_out_last=arguments.hold_out_last))
    )


if __name__ == "__main__":
    sys.exit(main())
