"""`python -m region.keeping rewrap --settings FILE`: wrap every key that a node keeps by the region's newest rest key.

The node may run meanwhile: keys stay what they are, and only what they are wrapped in changes.
"""

import argparse
import asyncio
import sys
from pathlib import Path

import msgspec

from infra.plumbing.one_shot import print_report
from infra.plumbing.reloading import LOOK_EVERY_S
from infra.plumbing.settings import load_settings
from region.events.opening import open_seals
from region.keeping.opening import open_file_keys
from region.settings import RegionSettings


class RewrapReport(msgspec.Struct, frozen=True, kw_only=True):
    """How many keys were wrapped anew."""

    files: int
    subjects: int


async def rewrap(settings: RegionSettings) -> RewrapReport:
    """Wrap the keys of files and of subjects anew; what was done stays done when it breaks off.

    Raises:
        KeysUnavailableError: a key does not open: nothing may be retired then.
    """
    # By then every process of the node wraps by the new key, so that nothing is left under an old one behind this.
    await asyncio.sleep(2 * LOOK_EVERY_S)
    files = open_file_keys(settings).rewrap(Path(settings.state_directory))
    seals = open_seals(settings)
    try:
        return RewrapReport(files=files, subjects=await seals.keys.rewrap())
    finally:
        await seals.keys.close()


def main(words: list[str]) -> int:
    """Read the command line and run; prints one JSON object, returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m region.keeping",
        description="Wrap every key that a node keeps by the region's newest rest key.",
        epilog="example: python -m region.keeping rewrap --settings us-east/region.json",
    )
    parser.add_argument("verb", choices=["rewrap"])
    parser.add_argument("--settings", type=Path, required=True, help="the node's settings (.toml or .json)")
    given = parser.parse_args(words)
    return print_report(lambda: asyncio.run(rewrap(load_settings(given.settings, RegionSettings))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
