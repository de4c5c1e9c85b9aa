"""`atoll demo`: the README's first command."""

import argparse
from pathlib import Path

from infra.cli.output import add_json_option, emit, progress_bar
from infra.plumbing.clock import SystemClock

WORK = Path(".atoll/demo")


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`atoll demo`."""
    text = "the whole story on real data: train, sign, serve, lose a region, learn from phones, then a report"
    parser = commands.add_parser(
        "demo",
        help=text,
        description=f"{text}. Example: ./atoll demo --json demo.json",
        epilog="Takes about 4 minutes.",
    )
    parser.add_argument("--data", default="ml-100k", metavar="SOURCE", help="ml-100k, an archive or a plain folder")
    parser.add_argument("--minutes", type=float, default=None, help="how long to train at most")
    parser.add_argument("--work", type=Path, default=WORK, metavar="DIR", help=f"made anew every time (default {WORK})")
    parser.add_argument("--tries", type=int, default=200, help="events whose way to the next list is measured")
    parser.add_argument("--keep", action="store_true", help="leave the world running and print calls to try")
    parser.add_argument("--tls", action="store_true", help="the same with TLS between all processes")
    add_json_option(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from infra.demo.story import tell

    with progress_bar() as progress:
        outcome = tell(
            work=arguments.work, source=arguments.data, minutes=arguments.minutes, tries=arguments.tries,
            keep=arguments.keep, clock=SystemClock(), progress=progress,
            tls=arguments.tls,
        )  # fmt: skip
    emit(arguments, outcome.figures, outcome.text)
    return 0 if outcome.passed else 1
