"""`python -m infra.plumbing.grid --socket PATH`: run the embedded grid until SIGTERM."""

import argparse
import asyncio
import sys
from pathlib import Path

from infra.plumbing.clock import SystemClock
from infra.plumbing.grid.memory import BYTES_MAX_DEFAULT
from infra.plumbing.grid.process import GridOptions, run_grid
from infra.plumbing.http.serving import run_process


def main() -> int:
    """Read the command line and run; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.plumbing.grid",
        description="A shared map and topics for the processes of one region on one machine.",
        epilog="example: python -m infra.plumbing.grid --socket grid.sock --bytes-max 67108864 --metrics-port 9100",
    )
    parser.add_argument("--socket", type=Path, required=True, help="where to listen (a Unix socket)")
    parser.add_argument("--bytes-max", type=int, default=BYTES_MAX_DEFAULT, help="bound of the map in bytes")
    parser.add_argument("--metrics-port", type=int, default=0, help="port of /metrics and /health; 0: none")
    parser.add_argument("--host", default="127.0.0.1", help="address of the metrics port")
    parser.add_argument("--region", default="", help="the region, for logs and metrics")
    parser.add_argument("--node", default="grid", help="the process's name, for logs and metrics")
    parser.add_argument("--log-file", default="", help="where logs go; empty: stderr")
    parser.add_argument("--tls", type=Path, default=None, help="file (.json, .toml) with the metrics port's ListenTls")
    arguments = parser.parse_args()
    if arguments.bytes_max <= 0:
        parser.error("--bytes-max must be positive")
    options = GridOptions(**vars(arguments))

    async def run(stop: asyncio.Event) -> None:
        await run_grid(options, stop=stop, clock=SystemClock())

    return run_process(run)


if __name__ == "__main__":
    sys.exit(main())
