"""`atoll region REGION inspect|diff`: releases that the region has, as the region reads them."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from infra.cli.looking import add_diff_options, check_diff_options, difference_text, inspection_text
from infra.cli.output import emit
from infra.plumbing.errors import InvalidInputError

if TYPE_CHECKING:
    from infra.plumbing.http.tls import ClientTls

Leaf: TypeAlias = Callable[[Any, str, Any, str], argparse.ArgumentParser]
DoorOf: TypeAlias = "Callable[[argparse.Namespace], tuple[str, str, ClientTls | None]]"


def register_region_looks(verbs: Any, leaf: Leaf, door_of: DoorOf) -> None:
    """`inspect` and `diff`, each a call at the door that `door_of` finds in the arguments."""

    def inspect(arguments: argparse.Namespace) -> None:
        from region.releases import commands

        found = commands.inspect(*door_of(arguments), release=arguments.release)
        role = "active" if found.active else "previous" if found.previous else ""
        text = inspection_text(
            f"{found.release}{f' ({role})' if role else ''}", gates=found.gates, stages=found.stages,
            intervals=found.intervals, sizes=found.sizes, content_sha256=found.content_sha256, files=found.files,
            note=found.note, stand_ins=found.stand_ins,
        )  # fmt: skip
        emit(arguments, found, text)

    def diff(arguments: argparse.Namespace) -> None:
        from region.releases import commands

        check_diff_options(arguments)
        if len(arguments.releases) > 2:
            raise InvalidInputError("more than two releases.", fix="Name two, or one to compare with the active one.")
        *before, after = arguments.releases
        found = commands.diff(
            *door_of(arguments), before=before[0] if before else None, after=after, people=arguments.people,
            seed=arguments.seed,
        )  # fmt: skip
        text = difference_text(found.files, found.compared, shown=arguments.shown)
        emit(arguments, {**msgspec.to_builtins(found.files), **msgspec.to_builtins(found.compared)}, text)

    leaf(verbs, "inspect", inspect, "show one release: figures, gates, parts, files").add_argument(
        "release", help="a release id, as `releases` lists it"
    )
    comparing = leaf(
        verbs, "diff", diff,
        "show what changes between two releases, or from the active one: figures, items, vectors, lists side by side",
    )  # fmt: skip
    comparing.add_argument("releases", nargs="+", metavar="RELEASE", help="OLD NEW, or NEW against the active one")
    add_diff_options(comparing)
