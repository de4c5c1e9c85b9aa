"""`python -m region.worker --settings FILE`: run the worker of one node until SIGTERM."""

import argparse
import asyncio
import sys
from pathlib import Path

from infra.plumbing.clock import SystemClock
from infra.plumbing.http.serving import run_process
from infra.plumbing.settings import load_settings
from region.settings import RegionSettings
from region.worker.process import run_worker


def main() -> int:
    """Read the command line and run; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m region.worker",
        description="Apply the region's log of events to its store, and tell the edges.",
        epilog="example: python -m region.worker --settings us-east-1.toml",
    )
    parser.add_argument("--settings", type=Path, required=True, help="the node's settings (.toml or .json)")
    path: Path = parser.parse_args().settings

    async def run(stop: asyncio.Event) -> None:
        await run_worker(load_settings(path, RegionSettings), stop=stop, clock=SystemClock())

    return run_process(run)


if __name__ == "__main__":
    sys.exit(main())
