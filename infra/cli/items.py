"""`atoll region REGION items ...`: items that come between two releases."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.cli.output import add_json_option, emit, table

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
