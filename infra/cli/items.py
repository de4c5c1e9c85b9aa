"""`atoll region REGION items ...`: items that come between two releases, posted one by one or published as a file."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.cli.output import add_json_option, emit, table
from infra.local.layout import layout_of
from infra.plumbing.clock import SystemClock
from infra.plumbing.files import write_atomically

if TYPE_CHECKING:
    from infra.plumbing.http.tls import ClientTls

DoorOf = Callable[[argparse.Namespace], "tuple[str, str, ClientTls | None]"]


def register_items(verbs: Any, add_door_options: Callable[[argparse.ArgumentParser], None], door_of: DoorOf) -> None:
    """`atoll region REGION items list|add|remove`; where the region is, `door_of` says."""
    text = "items that no release has yet: shown within seconds, by their categories, until a release holds them"
    items = verbs.add_parser("items", help=text, description=f"{text}. Example: ./atoll region us-east items list")
    actions = items.add_subparsers(metavar="ACTION", required=True)
    for name, run, says in (
        ("list", _list, "what was added since the release"),
        ("add", _add, "add items, or renew added ones, from a file (JSON, or items.csv as datasets have it)"),
        ("remove", _remove, "take added items out again"),
    ):
        example = {"list": "list", "add": "add new-items.csv", "remove": "remove item-1"}[name]
        parser = actions.add_parser(
            name, help=says, description=f"{says}. Example: ./atoll region us-east items {example}"
        )
        add_door_options(parser)
        add_json_option(parser)
        parser.set_defaults(run=run, door_of=door_of)
        if name == "add":
            parser.add_argument("file", type=Path, metavar="FILE")
        if name == "remove":
            parser.add_argument("items", nargs="+", metavar="ITEM")
    _register_published(actions, add_door_options, door_of)


def _register_published(
    actions: Any, add_door_options: Callable[[argparse.ArgumentParser], None], door_of: DoorOf
) -> None:
    for name, run, says, example in (
        ("published", _published, "the published file of items that holds in the region", "published"),
        (
            "collect", _collect,
            "write what is published, posted and withdrawn here as one file, to review, sign and publish",
            "collect --out items.json --withdraw item-7",
        ),
        ("sign", _sign, "sign a file of items, away from the region", "sign items.json --out items.signed.json"),
        (
            "publish", _publish, "make a file of items the region's, signed by the region's key where there is one",
            "publish items.json",
        ),
    ):  # fmt: skip
        parser = actions.add_parser(
            name, help=says, description=f"{says}. Example: ./atoll region us-east items {example}"
        )
        add_door_options(parser)
        add_json_option(parser)
        parser.set_defaults(run=run, door_of=door_of)
        if name in ("sign", "publish"):
            parser.add_argument("file", type=Path, metavar="FILE")
            parser.add_argument(
                "--signing-key", type=Path, action="append", default=[], metavar="FILE", dest="signing_keys",
                help="may be repeated (default: the key that `rules key` made in the world's state, if there is one)",
            )  # fmt: skip
        if name in ("collect", "sign"):
            parser.add_argument("--out", type=Path, required=True, metavar="FILE")
        if name == "collect":
            _add_changes(parser)
        if name == "sign":
            parser.add_argument(
                "--version", type=int, default=None, help="above that of what holds (default: asks the region)"
            )
        if name == "publish":
            parser.add_argument(
                "--statement", type=Path, default=None, metavar="FILE", help="what `sign` wrote; nothing is signed here"
            )


def _add_changes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--add", type=Path, default=None, metavar="FILE", help="items to list too, as `items add` has")
    for flag, says in (
        ("leave-out", "list this item no more"),
        ("withdraw", "show this item to nobody, whoever holds it"),
        ("restore", "withdraw this item no more"),
    ):
        parser.add_argument(f"--{flag}", action="append", default=[], metavar="ITEM", help=f"{says}; may be repeated")
    parser.add_argument(
        "--posting", choices=("open", "closed"), default=None,
        help="closed: the region takes no item beside those of the file (default: as before)",
    )  # fmt: skip


def _list(arguments: argparse.Namespace) -> None:
    import msgspec

    from region.releases import commands

    answer = commands.added_items(*arguments.door_of(arguments))
    rows = [msgspec.to_builtins(one) for one in answer.items]
    emit(arguments, answer, f"{table(rows)}\n{len(rows)} items beside release {answer.release}")


def _add(arguments: argparse.Namespace) -> None:
    from region.additions.reading import read_items
    from region.releases import commands

    answer = commands.add_items(*arguments.door_of(arguments), items=read_items(arguments.file))
    emit(
        arguments,
        answer,
        f"{answer.added} added, {answer.updated} renewed, {answer.unchanged} as before; "
        f"{answer.total} stand beside release {answer.release}",
    )


def _remove(arguments: argparse.Namespace) -> None:
    from region.releases import commands

    answer = commands.remove_items(*arguments.door_of(arguments), items=arguments.items)
    emit(
        arguments,
        answer,
        f"{answer.removed} removed, {answer.unchanged} were not there; {answer.total} stand beside {answer.release}",
    )


def _published(arguments: argparse.Namespace) -> None:
    from region.additions import commands

    answer = commands.published(*arguments.door_of(arguments))
    who = f", published by {answer.operator}" if answer.operator else ""
    who += f", signed as version {answer.version}" if answer.version else ""
    emit(arguments, answer, f"edition {answer.edition}{who}\n{answer.document}".rstrip())


def _collect(arguments: argparse.Namespace) -> None:
    from region.additions import commands
    from region.additions.published import Posting
    from region.additions.reading import read_items

    answer = commands.published(*arguments.door_of(arguments))
    text = commands.collected(
        answer, arguments.region, added=read_items(arguments.add) if arguments.add else (),
        left_out=arguments.leave_out, withdrawn=arguments.withdraw, restored=arguments.restore,
        posting=Posting(arguments.posting) if arguments.posting else None, now_ms=SystemClock().now_ms(),
    )  # fmt: skip
    write_atomically(arguments.out, text.encode())
    emit(
        arguments, {"file": str(arguments.out), "before": answer.edition},
        f"{arguments.out} is what {arguments.region} would publish after {answer.edition}: review it, then\n"
        f"./atoll region {arguments.region} items publish {arguments.out}",
    )  # fmt: skip


def _sign(arguments: argparse.Namespace) -> None:
    from region.additions import commands

    version = arguments.version or commands.published(*arguments.door_of(arguments)).version + 1
    document = commands.read_text(arguments.file)
    statement = commands.sign(document, arguments.region, _keys(arguments), version=version, clock=SystemClock())
    write_atomically(arguments.out, statement.encode())
    emit(
        arguments, {"statement": str(arguments.out), "version": version},
        f"{arguments.out} says by {len(_keys(arguments))} key(s), as version {version}, that {arguments.file} is the "
        f"items of {arguments.region}; publish both:\n"
        f"./atoll region {arguments.region} items publish {arguments.file} --statement {arguments.out}",
    )  # fmt: skip


def _publish(arguments: argparse.Namespace) -> None:
    from region.additions import commands

    door = arguments.door_of(arguments)
    document, statement = commands.read_text(arguments.file), ""
    if arguments.statement is not None:
        statement = commands.read_text(arguments.statement)
    elif keys := _keys(arguments):
        version = commands.published(*door).version + 1
        statement = commands.sign(document, arguments.region, keys, version=version, clock=SystemClock())
    answer = commands.publish(*door, document=document, statement=statement)
    told = "nodes and edges know" if answer.told else "the grid is away: nodes and edges learn it when it is back"
    signed = f", signed as version {answer.version}" if answer.version else ""
    shown = f", {answer.released} of them in the release by now" if answer.released else ""
    emit(
        arguments, answer,
        f"{arguments.region} publishes {answer.edition}{signed} (before: {answer.before}): {answer.items} items{shown}"
        f", {answer.withdrawn} withdrawn; {told}",
    )  # fmt: skip


def _keys(arguments: argparse.Namespace) -> list[Path]:
    """The signing keys that were named, or that of the world's state."""
    own = layout_of(arguments.state).signing_key(arguments.region)
    return list(arguments.signing_keys) or ([own] if own.exists() else [])
