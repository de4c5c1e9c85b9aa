"""`python -m infra.cli`: parses the command, runs it, and turns errors into one line and an exit code."""

import argparse
import os
import sys

from infra.cli import (
    api,
    bench,
    central,
    demo,
    events,
    experiments,
    features,
    federation,
    keys,
    phone,
    privacy,
    region,
    rules,
    servers,
    store,
    testing,
    world,
)
from infra.plumbing.errors import AtollError

VERSION = "0.1.0"
EXIT_ERROR, EXIT_INTERRUPTED = 2, 130


def build_parser() -> argparse.ArgumentParser:
    """Every command with its help."""
    parser = argparse.ArgumentParser(
        prog="atoll",
        description="Recommendations that survive a region's loss and a regulator's audit.",
        epilog="Start with: ./atoll demo",
    )
    parser.add_argument("--version", action="version", version=f"atoll {VERSION}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for room in (
        demo,
        testing,
        world,
        servers,
        store,
        central,
        region,
        privacy,
        rules,
        events,
        experiments,
        features,
        federation,
        phone,
        bench,
        keys,
        api,
    ):
        room.register(commands)
    return parser


def main(words: list[str]) -> int:
    """Run one command; returns the exit code."""
    arguments = build_parser().parse_args(words)
    try:
        code: int = arguments.run(arguments) or 0
    except AtollError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (a closed pager); there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
