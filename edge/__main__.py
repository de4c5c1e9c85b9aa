"""`python -m edge --settings FILE`: run one edge node until SIGTERM."""

import argparse
import asyncio
import sys
from pathlib import Path

from edge.process import run
from edge.settings import EdgeSettings
from infra.plumbing.errors import AtollError
from infra.plumbing.http.serving import run_process
from infra.plumbing.settings import load_settings


def main(arguments: list[str]) -> int:
    """Exit code: 0 after an orderly stop, 2 when the settings cannot be used or the port is taken."""
    parser = argparse.ArgumentParser(prog="python -m edge", description="Run one edge node of Atoll until SIGTERM.")
    parser.add_argument("--settings", type=Path, required=True, help="settings file (.toml or .json) of this node")
    try:
        settings = load_settings(parser.parse_args(arguments).settings, EdgeSettings)
    except AtollError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2

    async def serve(stop: asyncio.Event) -> None:
        await run(settings, stop)

    return run_process(serve)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
