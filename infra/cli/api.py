"""`atoll api`: the edge's API as a document."""

import argparse
import sys
from pathlib import Path

from infra.plumbing.files import write_atomically


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`atoll api document`."""
    text = "the public API of the edges"
    api = commands.add_parser("api", help=text, description=f"{text}. Example: ./atoll api document --out openapi.json")
    verbs = api.add_subparsers(metavar="VERB", required=True)
    says = "the OpenAPI 3.1 document, as every edge serves it at /openapi.json"
    document = verbs.add_parser(
        "document", help=says, description=f"{says}. Example: ./atoll api document --out openapi.json"
    )
    document.add_argument("--out", default="-", metavar="FILE", help="where to write it; - (the default) is stdout")
    document.set_defaults(run=_document)


def _document(arguments: argparse.Namespace) -> None:
    from edge.http.openapi import encode_document, openapi_document
    from edge.http.operations import OPERATIONS

    body = encode_document(openapi_document(OPERATIONS))
    if arguments.out == "-":
        sys.stdout.write(body.decode())
        return
    write_atomically(Path(arguments.out), body)
    print(f"{len(OPERATIONS)} operations in {arguments.out}")
