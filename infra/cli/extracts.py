"""`atoll region REGION extract`: what a region lets out for central to learn from."""

import argparse
from pathlib import Path
from typing import Any

from infra.cli.events import run_tool, settings_of
from infra.cli.output import add_json_option, emit
from infra.cli.world import add_state_option


def register_extract(verbs: Any) -> None:
    """`atoll region REGION extract`."""
    text = "make an extract for central to learn from, if the region's export policy allows it"
    parser: argparse.ArgumentParser = verbs.add_parser(
        "extract", help=text,
        description=f"{text}. Example: ./atoll region us-east extract --kind aggregates --out extracts",
    )  # fmt: skip
    parser.add_argument("--kind", choices=("aggregates", "pseudonymous"), required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder that it is written into")
    parser.add_argument("--settings", type=Path, default=None, metavar="FILE", help="a node's settings, no world")
    add_state_option(parser)
    add_json_option(parser)
    parser.set_defaults(run=_extract)


def _extract(arguments: argparse.Namespace) -> None:
    if arguments.settings is not None:
        arguments.region = None  # the file says which
    words = [arguments.kind, "--settings", str(settings_of(arguments).resolve()), "--out", str(arguments.out.resolve())]
    made = run_tool("region", "region.extracts", words)
    text = f"{made['records']} records from {made['users']} users, {made['bytes']:,} bytes: {made['file']}"
    if made["left_out"]:
        text += f"\n{made['left_out']} left out: too few people have them"
    if made["kind"] == "aggregates":
        text += f"\nthe year's extracts of aggregates have cost epsilon {made['epsilon_of_year']:g}"
    emit(arguments, made, text)
