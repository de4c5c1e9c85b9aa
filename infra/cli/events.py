"""`atoll events`: a region's log: check files, replay it, look after its dead letters, keep its schema."""

import argparse
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.cli.output import add_json_option, emit, table
from infra.cli.world import add_state_option
from infra.plumbing.environment import environment_with
from infra.plumbing.errors import AtollError, InvalidInputError

TOOL_TIMEOUT_S = 3600.0


class DifferenceError(AtollError):
    """What was rebuilt from the log is not what the live store says."""


class EventFileError(AtollError):
    """Lines of a file of events cannot be used."""


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`atoll events validate|replay|dead-letters|schema`."""
    text = "a region's log of events"
    events = commands.add_parser(
        "events", help=text, description=f"{text}. Example: ./atoll events validate events.ndjson"
    )
    verbs = events.add_subparsers(metavar="VERB", required=True)
    validate = _leaf(verbs, "validate", _validate, "explain a file of events line by line", "validate events.ndjson")
    validate.add_argument("file", type=Path, help="NDJSON (an event or a batch a line), or CSV with field names")
    replay = _leaf(
        verbs, "replay", _replay, "rebuild every feature from the log, and compare with the live store",
        "replay --region us-east --dataset data/ml-100k",
    )  # fmt: skip
    add_region(replay)
    replay.add_argument(
        "--dataset", type=Path, default=None, metavar="DIR", help="the dataset that the store was seeded from"
    )
    replay.add_argument("--hold-out-last", action="store_true", help="the seed left each user's last event out")
    replay.add_argument("--out", type=Path, default=None, metavar="FILE", help="keep the rebuilt store (SQLite)")
    letters = verbs.add_parser(
        "dead-letters", help="records that could not be applied",
        description="records that could not be applied. Example: ./atoll events dead-letters list --region us-east",
    ).add_subparsers(metavar="VERB", required=True)  # fmt: skip
    says = "where they stood in the log, and why"
    add_region(_leaf(letters, "list", _letters, says, "dead-letters list --region us-east"))
    says = "append those that can be read now to the log again"
    add_region(_leaf(letters, "replay", _replay_letters, says, "dead-letters replay --region us-east"))
    schema = _leaf(verbs, "schema", _schema, "compare the events' schema with the recorded one", "schema")
    schema.add_argument("--record", action="store_true", help="record this code's schema (in a source tree)")


def add_region(parser: argparse.ArgumentParser) -> None:
    """`--region` of a world on this machine, or `--settings` of a node elsewhere."""
    parser.add_argument("--region", default=None, help="a region of the world on this machine")
    parser.add_argument(
        "--settings", type=Path, default=None, metavar="FILE", help="a node's settings, without a world"
    )
    add_state_option(parser)


def settings_of(arguments: argparse.Namespace) -> Path:
    """The settings file of the node that is meant.

    Raises:
        InvalidInputError: neither or both options say which.
    """
    from infra.local.world import open_world

    if (arguments.region is None) == (arguments.settings is None):
        raise InvalidInputError("say which node: --region REGION or --settings FILE.")
    if arguments.settings is not None:
        given: Path = arguments.settings
        return given
    world = open_world(arguments.state)
    world.keys(arguments.region)  # says what regions there are when this is none
    return world.layout.region(arguments.region) / "region.json"


def run_tool(tier: str, module: str, words: list[str], *, additions: Mapping[str, str] | None = None) -> Any:
    """What a program of another tier prints as JSON; `additions` join its environment variables.

    Raises:
        AtollError: it failed; its own words stand above.
    """
    import msgspec

    return msgspec.json.decode(run_program(tier, module, words, additions=additions))


def run_program(tier: str, module: str, words: list[str], *, additions: Mapping[str, str] | None = None) -> bytes:
    """What a program of another tier prints.

    Raises:
        AtollError: it failed (its own words stand above), or did not end within TOOL_TIMEOUT_S.
    """
    from infra.local.tiers import source_root, tier_python

    root = source_root()
    command = [tier_python(tier, root / ".atoll" / "envs"), "-m", module, *words]
    try:
        done = subprocess.run(
            command, cwd=root, stdout=subprocess.PIPE, check=False, timeout=TOOL_TIMEOUT_S,
            env=environment_with(additions or {}),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise AtollError(f"{module} did not end within {TOOL_TIMEOUT_S:.0f} s.", fix="It was ended.") from None
    if done.returncode:
        raise AtollError(f"{module} ended with {done.returncode}.", fix="Its own message stands above.")
    return done.stdout


def _leaf(verbs: Any, name: str, run: Any, text: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=f"{text}. Example: ./atoll events {example}"
    )
    add_json_option(parser)
    parser.set_defaults(run=run)
    return parser


def _validate(arguments: argparse.Namespace) -> None:
    from infra.plumbing.clock import SystemClock
    from region.events.validating import validate_file

    report = validate_file(arguments.file, now_ms=SystemClock().now_ms())
    lines = [
        f"line {one.line}{f', event {one.event}' if one.event else ''}: {one.what}" for one in report.problems
    ]  # fmt: skip
    if report.problems_more:
        lines.append(f"and {report.problems_more} more")
    lines += [f"field {name} is not known: left out of {count} events" for name, count in report.unknown_fields.items()]
    if report.repeats_not_looked_for:
        lines.append(f"event ids of the last {report.repeats_not_looked_for} events were not remembered for repeats")
    lines.append(f"{report.good} of {report.events} events in {report.lines} lines can be sent")
    emit(arguments, report, "\n".join(lines))
    if report.problems:
        raise EventFileError(
            f"{len(report.problems) + report.problems_more} problems in {arguments.file}.", fix="Mend those lines."
        )
    if not report.events:
        raise EventFileError(f"there is no event in {arguments.file}.", fix="Name a file of events.")


def _replay(arguments: argparse.Namespace) -> None:
    words = ["replay", "--settings", str(settings_of(arguments).resolve())]
    if arguments.dataset is not None:
        words += ["--dataset", str(arguments.dataset.resolve())]
    if arguments.hold_out_last:
        words.append("--hold-out-last")
    if arguments.out is not None:
        words += ["--out", str(arguments.out.resolve())]
    found = run_tool("region", "region.events", words)
    lines = [f"{found['events']} events of {found['subjects']} subjects replayed in {found['seconds']} s"]
    lines += [f"{name}: {count} differ" for name, count in found["differences"].items()]
    lines += found["examples"]
    emit(arguments, found, "\n".join(lines))
    if found["differences"]:
        fix = "Name the dataset that the store was seeded from with --dataset." if found["imported"] else ""
        raise DifferenceError("the replay is not what the live store says.", fix=fix)
    if found["behind"]:
        raise DifferenceError(
            f"the live store moved on under {found['behind']} rows.", fix="Run it again when fewer events come in."
        )


def _letters(arguments: argparse.Namespace) -> None:
    found = run_tool("region", "region.events", ["list-letters", "--settings", str(settings_of(arguments).resolve())])
    emit(arguments, found, f"{table(found['letters'])}\n{found['count']} dead letters")


def _replay_letters(arguments: argparse.Namespace) -> None:
    words = ["replay-letters", "--settings", str(settings_of(arguments).resolve())]
    found = run_tool("region", "region.events", words)
    lines = [f"{found['replayed']} replayed, {found['left']} left"]
    lines += [f"{count} times: {reason}" for reason, count in found["reasons"].items()]
    emit(arguments, found, "\n".join(lines))


def _schema(arguments: argparse.Namespace) -> None:
    import msgspec

    from infra.contracts.event_schema import RECORD, describe
    from infra.plumbing.files import write_atomically
    from region.events.schema_check import check_event_schema

    current = describe()
    if arguments.record:
        write_atomically(RECORD, msgspec.json.format(msgspec.json.encode(current)) + b"\n")
    check_event_schema(current)
    emit(
        arguments, current, f"schema {current.version}: {len(current.fields)} fields, {len(current.types)} event types"
    )
