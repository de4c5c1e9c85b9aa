"""`python -m region.extracts KIND --settings FILE --out DIR`: an extract for central, if the policy allows it."""

import argparse
import sys
from pathlib import Path

import uvloop

from infra.contracts.residency import ExportPolicy
from infra.plumbing.clock import SystemClock
from infra.plumbing.keys import RegionKeys
from infra.plumbing.one_shot import print_report
from infra.plumbing.progress import LineProgress
from infra.plumbing.settings import load_settings
from region.extracts.making import KINDS, Extractor, ExtractReport
from region.privacy.bulk import open_bulk_reads
from region.settings import RegionSettings
from region.store.opening import open_store

READ_TIMEOUT_S = 5.0
"""Nobody waits for a page here."""


async def run(given: argparse.Namespace) -> ExtractReport:
    """Do what the command line says."""
    settings, clock = load_settings(given.settings, RegionSettings), SystemClock()
    keys = RegionKeys.load(Path(settings.keys_file))
    store = open_store(settings, read_timeout_s=READ_TIMEOUT_S)
    try:
        reads = open_bulk_reads(settings, clock)
        extractor = Extractor(
            settings, store=store, keys=keys, reads=reads, clock=clock, progress=LineProgress(sys.stderr)
        )  # fmt: skip
        return await extractor.make(ExportPolicy(given.kind), given.out)
    finally:
        await store.close()


def main(arguments: list[str]) -> int:
    """Read the command line and run; prints one JSON object, returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m region.extracts",
        description="Make an extract for central to learn from, if the region's export policy allows it.",
        epilog="example: python -m region.extracts aggregates --settings us-east/region.json --out extracts",
    )
    parser.add_argument("kind", choices=[kind.value for kind in KINDS])
    parser.add_argument("--settings", type=Path, required=True, help="the node's settings (.toml or .json)")
    parser.add_argument("--out", type=Path, required=True, help="the folder that the extract is written into")
    given = parser.parse_args(arguments)
    return print_report(lambda: uvloop.run(run(given)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
