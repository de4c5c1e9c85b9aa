"""`python -m region.retrieval --release DIR --socket PATH`: serve the index of one release."""

import argparse
import sys
from pathlib import Path

import uvloop

from region.retrieval.server import run


def main(arguments: list[str]) -> int:
    """Serve until told to stop; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m region.retrieval",
        description="Serve the index of one release behind a Unix socket.",
        epilog="example: python -m region.retrieval --release releases/0123456789abcdef0123 --socket a.sock",
    )
    parser.add_argument("--release", type=Path, required=True, help="directory of a pulled release")
    parser.add_argument("--socket", type=Path, required=True, help="where to listen")
    parser.add_argument("--threads", type=int, default=0, help="searches at once beside the loop (default 0: on it)")
    parser.add_argument("--metrics-host", default="", help="serve /metrics there on a free port (default: nowhere)")
    parser.add_argument("--give-way", action="store_true", help="load at a lower priority: others answer meanwhile")
    parser.add_argument("--exit-with-stdin", action="store_true", help="end when stdin is closed")
    given = parser.parse_args(arguments)
    code: int = uvloop.run(
        run(
            given.release, given.socket, threads=max(0, given.threads), exit_with_stdin=given.exit_with_stdin,
            metrics_host=given.metrics_host, gives_way=given.give_way,
        )
    )  # fmt: skip
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
