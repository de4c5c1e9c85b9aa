"""`atoll bench`: measurements against rivals of the same run."""

import argparse
import tempfile
from pathlib import Path

import msgspec

from infra.cli.output import add_json_option, emit, progress_bar, table
from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import InvalidInputError

ENVIRONMENTS = Path(".atoll/envs")


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`atoll bench list` and `atoll bench NAME`."""
    parser = commands.add_parser(
        "bench",
        help="measure, against rivals in the same run",
        description="Measures one thing, prints ratios against its rivals and whether each bar is met. "
        "Example: ./atoll bench edge-hit --json -",
    )
    parser.add_argument("name", metavar="NAME", help="which one; `list` shows them all, `NAME --explain` what it does")
    parser.add_argument("--runs", type=int, default=3, help="paired runs; figures are their medians (default 3)")
    parser.add_argument("--quick", action="store_true", help="a short smoke run; its figures say little")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a bar is missed")
    parser.add_argument("--explain", action="store_true", help="say what the measurement does, and its options")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="an option of this measurement; may be repeated"
    )
    add_json_option(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from infra.bench import catalogue
    from infra.bench.results import BenchResult, machine, render

    if arguments.name == "list":
        rows = [{"name": name, "measures": catalogue.says(name)} for name in catalogue.names()]
        emit(arguments, rows, table(rows))
        return 0
    if arguments.explain:
        print(catalogue.details(arguments.name))
        return 0
    run = catalogue.load(arguments.name)
    seen_before = machine()
    with tempfile.TemporaryDirectory(prefix="atoll-bench-") as work, progress_bar() as progress:
        request = catalogue.BenchRequest(
            runs=_runs(arguments), quick=arguments.quick, work=Path(work), clock=SystemClock(), progress=progress,
            environments=ENVIRONMENTS.resolve(), options=_options(arguments.set),
        )  # fmt: skip
        measured = run(request)
    result = BenchResult(
        name=arguments.name, machine=seen_before, runs=request.runs, **msgspec.structs.asdict(measured)
    )
    emit(arguments, result, render(result))
    return 1 if arguments.strict and not all(bar.met for bar in result.bars) else 0


def _runs(arguments: argparse.Namespace) -> int:
    if arguments.runs < 1:
        raise InvalidInputError("--runs must be at least 1.", fix="Leave it out for three.")
    return 1 if arguments.quick else int(arguments.runs)


def _options(words: list[str]) -> dict[str, str]:
    options = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise InvalidInputError(f"--set {word} has no value.", fix="Write --set KEY=VALUE.")
        options[key] = value
    return options
