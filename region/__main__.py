"""`python -m region --settings FILE`: serve one region node."""

import argparse
import asyncio
import sys
from pathlib import Path

from infra.plumbing.errors import AtollError
from infra.plumbing.http.serving import run_process
from infra.plumbing.settings import load_settings
from region.app import run
from region.settings import RegionSettings


def main(arguments: list[str]) -> int:
    """Serve until told to stop; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m region",
        description="Serve one region node: lists, events, privacy and the operators' API.",
        epilog="example: python -m region --settings region.toml",
    )
    parser.add_argument("--settings", type=Path, required=True, help="file with the fields of RegionSettings")
    given = parser.parse_args(arguments)
    try:
        settings = load_settings(given.settings, RegionSettings)
    except AtollError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    async def serve(stop: asyncio.Event) -> None:
        await run(settings, stop)

    return run_process(serve)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
