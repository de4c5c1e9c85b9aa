"""The OpenAPI 3.1 document, made of `operations` and of the schemas of the message types themselves. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from edge.http.operations import CALLERS, Answer, Operation
from edge.http.parameters import Parameter
from infra.plumbing.http.problems import KINDS, Problem

VERSION: Final = "1.0.0"
"""Of the API, not of the software."""
_REFERENCE: Final = "#/components/schemas/{name}"
_PROBLEM_MEDIA: Final = "application/problem+json"
_ABOUT: Final = """Recommendations from the nearest region, whatever is down elsewhere.

Errors are problem documents (RFC 9457); compare their `type`. Every answer carries `Atoll-Request-Id`: name it when you
ask for help."""


def openapi_document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The document. Equal operations give equal bytes once it is encoded."""
    kinds = list(dict.fromkeys(_kinds(operations)))
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    schema_of = dict(zip(kinds, schemas, strict=True))
    return {
        "openapi": "3.1.0",
        "info": {"title": "Atoll edge", "version": VERSION, "description": _ABOUT,
                 "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "servers": [{"url": "/", "description": "The edge that served this document."}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in operations)],
        "paths": _paths(operations, schema_of),
        "components": {"schemas": components, "securitySchemes": CALLERS},
    }  # fmt: skip


def encode_document(document: dict[str, Any]) -> bytes:
    """The document as it is served and written to files."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def _kinds(operations: Iterable[Operation]) -> Iterator[Any]:
    """Every type that needs a schema."""
    yield Problem
    for operation in operations:
        yield from (parameter.kind for parameter in operation.parameters)
        if operation.body is not None:
            yield operation.body
        for answer in operation.answers:
            yield from (header.kind for header in answer.headers)
            if answer.body is not None:
                yield answer.body


def _paths(operations: Iterable[Operation], schema_of: dict[Any, Any]) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schema_of)
    return paths


def _operation(operation: Operation, schema_of: dict[Any, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.says,
        "parameters": [_parameter(parameter, schema_of) for parameter in operation.parameters],
        "responses": {
            **{str(answer.status): _answer(answer, schema_of) for answer in operation.answers},
            **_refusals(operation, schema_of),
        },
    }
    if operation.body is not None:
        content = {operation.body_media: {"schema": schema_of[operation.body]}}
        described["requestBody"] = {"required": True, "content": content}
    if operation.callers:
        described["security"] = [{name: []} for name in operation.callers]
        if operation.callers_optional:
            described["security"].append({})
    return described


def _parameter(parameter: Parameter, schema_of: dict[Any, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.says,
        "schema": schema_of[parameter.kind],
    }
    if parameter.required:
        described["required"] = True
    if parameter.listed or parameter.repeated:
        described |= {"style": "form", "explode": parameter.repeated}
    return described


def _answer(answer: Answer, schema_of: dict[Any, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.says}
    if answer.headers:
        described["headers"] = {
            header.name: {"description": header.says, "schema": schema_of[header.kind]} for header in answer.headers
        }
    if answer.body is not None:
        described["content"] = {answer.media: {"schema": schema_of[answer.body]}}
    return described


def _refusals(operation: Operation, schema_of: dict[Any, Any]) -> dict[str, Any]:
    """By status; two kinds may share one."""
    by_status: dict[int, list[str]] = {}
    for slug in operation.refusals:
        kind = KINDS[slug]
        by_status.setdefault(kind.status, []).append(f"`{kind.type}`: {kind.means}")
    return {
        str(status): {
            "description": "\n\n".join(says),
            "content": {_PROBLEM_MEDIA: {"schema": schema_of[Problem]}},
        }
        for status, says in sorted(by_status.items())
    }
