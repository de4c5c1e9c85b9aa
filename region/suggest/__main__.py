"""`python -m region.suggest --release DIR --out DIR`: the suggestions of a release, built in a process of its own."""

import argparse
import os
import sys
from pathlib import Path

from region.suggest.building import build_index


def main(arguments: list[str]) -> int:
    """Build, as the least urgent work of the machine."""
    parser = argparse.ArgumentParser(
        prog="python -m region.suggest", description="Build the index of suggestions of a release.",
        epilog="example: python -m region.suggest --release releases/0123 --out suggest/0123",
    )  # fmt: skip
    parser.add_argument("--release", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    os.nice(15)
    counts = build_index(given.release, given.out)
    print(", ".join(f"{count} {what}" for what, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
