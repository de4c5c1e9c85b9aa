"""`python -m region.keeping VERB --settings FILE`: wrap every key that a node keeps by the region's newest rest key.

`rewrap` does it; `rotate` has the region's key service make a new version of its key before.

The node may run meanwhile: keys stay what they are, and only what they are wrapped in changes.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from infra.plumbing.one_shot import print_report
from infra.plumbing.settings import load_settings
from region.keeping.rotating import rewrap, rotate
from region.settings import RegionSettings

VERBS = {"rewrap": rewrap, "rotate": rotate}


def main(words: list[str]) -> int:
    """Read the command line and run; prints one JSON object, returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m region.keeping",
        description="Wrap every key that a node keeps by the region's newest rest key.",
        epilog="example: python -m region.keeping rewrap --settings us-east/region.json",
    )
    parser.add_argument("verb", choices=sorted(VERBS))
    parser.add_argument("--settings", type=Path, required=True, help="the node's settings (.toml or .json)")
    given = parser.parse_args(words)
    return print_report(lambda: asyncio.run(VERBS[given.verb](load_settings(given.settings, RegionSettings))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
