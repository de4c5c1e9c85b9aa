"""`atoll store`: a region's Cassandra: whether its schema is what this code knows, and what to do when it is not."""

import argparse
from typing import Any

from infra.cli.events import add_region, run_program, settings_of
from infra.cli.output import add_json_option, emit

_VERBS = {
    "check": "say whether the keyspace's schema and every query fit this code; changes nothing",
    "migrate": "bring the keyspace's schema up to date (nodes do so by themselves, but for `?migrate=manual`)",
    "seal": "put rows of before rows lay under keys under their subjects' keys",
}


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`atoll store check|migrate|seal`."""
    text = "a region's Cassandra: its schema, checked and brought up to date"
    parser = commands.add_parser(
        "store", help=text, description=f"{text}. Example: ./atoll store check --region us-east"
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, says in _VERBS.items():
        verb = verbs.add_parser(
            name, help=says, description=f"{says}. Example: ./atoll store {name} --settings us-east/region.json"
        )
        add_region(verb)
        add_json_option(verb)
        verb.set_defaults(run=_run, verb=name)


def _run(arguments: argparse.Namespace) -> None:
    words: list[str] = [arguments.verb, "--settings", str(settings_of(arguments).resolve())]
    told = run_program("region", "region.store", words).decode().strip()
    result: dict[str, Any] = {"verb": arguments.verb, "told": told}
    emit(arguments, result, told)
