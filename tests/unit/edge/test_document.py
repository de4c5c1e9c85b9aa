"""The OpenAPI document: valid, and true to what the edge does."""

import json
import re
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, MultiDict
from openapi_spec_validator import OpenAPIV31SpecValidator

from edge.http.openapi import encode_document, openapi_document
from edge.http.operations import OPERATIONS
from edge.http.parameters import LIST_PARAMETERS, NAMES
from edge.http.query import parse_list_query
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.http.problems import KINDS
from tests.unit.edge.conftest import World

DOCUMENT: dict[str, Any] = json.loads(encode_document(openapi_document(OPERATIONS)))
PARAMETERS = {
    one["name"]: one for one in DOCUMENT["paths"]["/v1/recommendations/{type}"]["get"]["parameters"]
    if one["in"] == "query"
}  # fmt: skip


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "components": DOCUMENT["components"]}


def test_it_is_valid_and_the_same_each_time() -> None:
    assert not list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors())
    assert encode_document(openapi_document(OPERATIONS)) == encode_document(openapi_document(OPERATIONS))


async def test_the_router_has_what_the_document_says_and_nothing_else(world: World) -> None:
    client = await world.edge()
    assert client.app is not None
    served = {
        (route.method, route.resource.canonical)
        for route in client.app.router.routes()
        if route.resource is not None
        and route.method != "HEAD"
        and not route.resource.canonical.startswith(("/personalize/", "/gorse/"))  # other people's APIs
    }
    described = {(method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item}
    beside = {("GET", path) for path in ("/docs", "/docs/{file}", "/metrics", "/health/live", "/health/ready")}
    assert served == described | beside


# One good and one bad value of every parameter; the schema and the reader must agree on each.
VALUES: dict[str, tuple[list[str], list[str]]] = {
    "n": (["1", "100"], ["0", "101", "x", "1.5", ""]),
    "surface": (["feed"], ["billboard"]),
    "item": ([], []),
    "category": (["Drama"], ["", "x" * 129]),
    "price_min": (["0", "19.90"], ["-1", "cheap", "1e5", "nan"]),
    "price_max": (["5"], ["-0.1", "inf"]),
    "attribute": (["colour:red", "a.b:c d"], ["red", ":x", "colour:", "co lour:x"]),
    "exclude": (["a", "a b"], ["x" * 129]),
    "recent": (["a"], ["x" * 129]),
    "cursor": ([], []),
    "locale": (["en", "pt-BR"], ["english please", "e"]),
    "device": (["tv"], ["toaster"]),
    "country": (["PT", "pt"], ["PRT", "1", ""]),
    "local_time": (["00:00", "23:59"], ["24:00", "9:00", "noon"]),
    "referrer": (["search"], ["https://example.com/?q=me"]),
    "arm": (["ranker-b"], ["", "a b", "x" * 65]),
    "explain": (["0", "1"], ["yes", ""]),
}


def accepted(name: str, value: str) -> bool:
    try:
        parse_list_query("session", MultiDict([(name, value)]), CIMultiDict(), dim=None)
    except InvalidInputError:
        return False
    return True


def fits(name: str, value: str) -> bool:
    schema = PARAMETERS[name]["schema"]
    kind = schema.get("type")
    parsed: Any = [value] if kind == "array" else value
    if kind in ("integer", "number"):
        if not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", value):
            return False
        parsed = float(value) if kind == "number" else json.loads(value)
    return bool(jsonschema.Draft202012Validator(resolved(schema)).is_valid(parsed))


@pytest.mark.parametrize("name", NAMES)
def test_schema_and_reader_agree(name: str) -> None:
    good, bad = VALUES[name]
    assert all(accepted(name, value) and fits(name, value) for value in good)
    assert not any(accepted(name, value) or fits(name, value) for value in bad)
    assert PARAMETERS[name]["description"]


@settings(deadline=None)
@given(st.sampled_from(["country", "local_time", "locale", "arm", "explain"]), st.text(max_size=8))
def test_patterns_and_reader_agree_on_any_text(name: str, value: str) -> None:
    assert accepted(name, value) == fits(name, value)


async def test_answers_are_what_the_document_says(world: World) -> None:
    client = await world.edge()
    operation = DOCUMENT["paths"]["/v1/recommendations/{type}"]["get"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    for path in ("popular?n=3", "popular?n=3&explain=1", "personal"):
        answer = await client.get(f"/v1/recommendations/{path}", headers=world.token())
        jsonschema.Draft202012Validator(resolved(schema)).validate(await answer.json())
        assert all(name in answer.headers for name in operation["responses"]["200"]["headers"])
    refused = await client.get("/v1/recommendations/popular?n=0")
    problem = await refused.json(content_type=None)
    wanted = operation["responses"]["400"]["content"]["application/problem+json"]["schema"]
    jsonschema.Draft202012Validator(resolved(wanted)).validate(problem)
    assert (problem["type"], problem["field"]) == ("/problems/bad-request", "n")
    assert await (await client.get("/openapi.json")).json() == DOCUMENT


async def test_docs_load_nothing_from_elsewhere(world: World) -> None:
    client = await world.edge()
    page = await client.get("/docs")
    text = await page.text()
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert page.headers["X-Frame-Options"] == "DENY"
    assert "://" not in text
    assert "<style" not in text
    loaded = re.findall(r'(?:src|href)="(/docs/[^"]+)"', text)
    assert len(loaded) == 3
    for path in loaded:
        assert (await client.get(path)).status == 200
    assert (await client.get("/docs/..%2f..%2fsettings.py")).status == 404


async def test_every_kind_of_problem_has_a_page(world: World) -> None:
    client = await world.edge()
    for kind in KINDS.values():
        page = await client.get(kind.type)
        assert page.status == 200
        assert kind.title in await page.text()
    assert (await client.get("/problems/nonsense")).status == 404
    assert all(slug in KINDS for operation in OPERATIONS for slug in operation.refusals)


def test_every_parameter_is_described_once() -> None:
    assert set(VALUES) == {parameter.name for parameter in LIST_PARAMETERS} == set(PARAMETERS)
