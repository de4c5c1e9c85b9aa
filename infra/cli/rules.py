"""`atoll rules`: a region's rules checked, tried on real requests, and published."""

import argparse
from pathlib import Path
from typing import Any

from infra.cli.output import add_json_option, emit, table
from infra.cli.region import add_door_options, door_of
from infra.cli.world import add_state_option
from infra.local.layout import layout_of
from infra.plumbing.clock import SystemClock
from infra.plumbing.files import write_atomically
from infra.plumbing.tuf_client.signing import create_signer, public_pem


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`atoll rules check|show|diff|publish|key`."""
    text = "what may be shown in a region, and how slates are arranged"
    parser = commands.add_parser(
        "rules", help=text, description=f"{text}. Example: ./atoll rules check region/rules/example.yaml"
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    check = _leaf(verbs, "check", _check, "say what is wrong with a rule file, line by line", "my-rules.yaml")
    check.add_argument("file", type=Path)
    show = _leaf(verbs, "show", _show, "the rules that hold in a region", "--region us-east")
    diff = _leaf(
        verbs, "diff", _diff, "try a rule file on the region's last requests: whose pages change, and by how much",
        "my-rules.yaml --region us-east",
    )  # fmt: skip
    diff.add_argument("file", type=Path)
    diff.add_argument("--requests", type=int, default=200, help="how many of the last requests (default 200)")
    publish = _leaf(
        verbs, "publish", _publish, "make a rule file the region's rules, at once and without a restart",
        "my-rules.yaml --region us-east",
    )  # fmt: skip
    publish.add_argument("file", type=Path)
    publish.add_argument(
        "--signing-key", type=Path, action="append", default=[], metavar="FILE", dest="signing_keys",
        help="signs the rules, where central delegates to the region's keys; may be repeated (default: the key that "
        "`rules key` made in the world's state, if there is one)",
    )  # fmt: skip
    key = _leaf(
        verbs, "key", _key, "make the key that signs the region's rules, and hand out its public half",
        "--region us-east",
    )  # fmt: skip
    key.add_argument("--region", required=True, help="the region's name")
    key.add_argument("--file", type=Path, default=None, help="where to keep it (default: in the world's state)")
    add_state_option(key)
    for verb in (show, diff, publish):
        verb.add_argument("--region", required=True, help="the region's name")
        add_door_options(verb)


def _leaf(verbs: Any, name: str, run: Any, text: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=f"{text}. Example: ./atoll rules {name} {example}"
    )
    add_json_option(parser)
    parser.set_defaults(run=run)
    return parser


def _check(arguments: argparse.Namespace) -> None:
    from region.rules import commands

    edition, rules = commands.check(arguments.file)
    kinds = ("hard", "promotions", "floors", "quotas", "caps", "boosts", "editorial")
    counts = {kind: len(getattr(rules, kind)) for kind in kinds}
    said = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "no rules, settings only"
    result = {"edition": edition, "region": rules.region, "rules": counts}
    emit(arguments, result, f"{arguments.file} is good: edition {edition} for {rules.region}, {said}")


def _show(arguments: argparse.Namespace) -> None:
    from region.rules import commands

    answer = commands.show(*door_of(arguments))
    who = f", published by {answer.operator}" if answer.operator else ""
    who += f", signed as version {answer.version}" if answer.version else ""
    emit(arguments, answer, f"# edition {answer.edition}{who}\n{answer.document}".rstrip())


def _diff(arguments: argparse.Namespace) -> None:
    from region.rules import commands

    document = commands.read_document(arguments.file)
    commands.check(arguments.file)
    answer = commands.diff(*door_of(arguments), document=document, requests=arguments.requests)
    rows = [
        {"surface": name, "requests": one.requests, "changed": one.changed, "overlap": f"{one.overlap:.0%}",
         "places moved": f"{one.shift:.1f}"}
        for name, one in answer.surfaces.items()
    ]  # fmt: skip
    lines = [
        f"{answer.edition} -> {answer.proposed}: {answer.changed} of {answer.requests} pages change, "
        f"of {answer.subjects_changed} people; {answer.overlap:.0%} of a page stays",
        table(rows),
    ]
    if answer.moved_by:
        lines.append("moved by: " + ", ".join(f"{rule} {count}" for rule, count in answer.moved_by.items()))
    lines += [
        f"rule {one.rule}: matches {one.matches} of {one.examined} favourites"
        + (f", FAILS for {one.fails}" if one.fails else "")
        for one in answer.findings
    ]
    lines += [
        f"{one.surface} {one.type} {one.subject[:8] or '-'}: out {_few(one.before, one.after)}, "
        f"in {_few(one.after, one.before)}"
        for one in answer.examples[:5]
    ]
    if not answer.requests:
        lines.append("the region has answered no request since it started: there was nothing to try the rules on")
    if answer.cut_short:
        lines.append("time ran out before all requests were tried")
    emit(arguments, answer, "\n".join(lines))


def _few(items: tuple[str, ...], without: tuple[str, ...]) -> str:
    found = [item for item in items if item not in without]
    return " ".join(found[:4]) + (" ..." if len(found) > 4 else "") if found else "(none)"


def _publish(arguments: argparse.Namespace) -> None:
    from region.rules import commands

    commands.check(arguments.file)
    world_key = layout_of(arguments.state).signing_key(arguments.region)
    signing_keys = arguments.signing_keys or ([world_key] if world_key.exists() else [])
    answer = commands.publish(
        *door_of(arguments), document=commands.read_document(arguments.file), region=arguments.region,
        signing_keys=signing_keys, clock=SystemClock(),
    )  # fmt: skip
    told = "nodes and edges know" if answer.told else "the grid is away: nodes and edges learn it as lists run out"
    signed = f", signed as version {answer.version}" if answer.version else ""
    emit(
        arguments, answer, f"{arguments.region} arranges by {answer.edition}{signed} (before: {answer.before}); {told}"
    )  # fmt: skip


def _key(arguments: argparse.Namespace) -> None:
    path = arguments.file or layout_of(arguments.state).signing_key(arguments.region)
    made = not path.exists()
    signer = create_signer(path)
    public = path.with_suffix(".pub.pem")
    write_atomically(public, public_pem(path))
    keyid = signer.public_key.keyid
    text = (
        f"{path}: key {keyid[:16]} {'was made' if made else 'was there already'}. Central lets it sign with\n"
        f"./atoll release delegate {arguments.region} --public-key {public}"
    )
    emit(arguments, {"key": str(path), "public_key": str(public), "key_id": keyid, "made": made}, text)
