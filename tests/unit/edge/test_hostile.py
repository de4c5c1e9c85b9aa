"""What no client that means well sends: refused with a problem document, never a 5xx, never quoted to anybody."""

import gzip
import json
from typing import Any

import msgspec
import pytest

from edge.compatibility.personalize import PutEvent
from infra.plumbing.keys import encode_base64url
from infra.plumbing.service_keys import Scope
from tests.unit.edge.conftest import Client, World
from tests.unit.edge.raw import head, wire
from tests.unit.edge.test_api import has_lists, until
from tests.unit.edge.test_compatibility import EVENTS, aws

POPULAR = "/v1/recommendations/popular?n=2"
PERSONAL = "/v1/recommendations/personal?n=2"
CLOSE = "Connection: close"
SECRET = "s3cret"
BRACKETS = b"[" * 100_000


async def answered(client: Client, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (names in lower case) and body of the answer to raw bytes."""
    async with wire(client) as connection:
        raw = await connection.ask(request)
    top, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = top.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split(" ")[1]), headers, body


NOT_HTTP = {
    "a method": (f"S3cret<{SECRET}> /{SECRET} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), 400),
    "a name": (head(POPULAR, f"Bad {SECRET}: 1"), 400),
    "a value": (head(POPULAR, f"Authorization: Bearer {SECRET}\x01"), 400),
    "a long line": (head(POPULAR, f"X-A: {SECRET * 2000}"), 431),
    "a long target": (head(f"{POPULAR}&category={SECRET * 2000}"), 431),
    "no host": (head(f"{POPULAR}&category={SECRET}", host=False), 400),
    "two hosts": (head(POPULAR, f"Host: {SECRET}"), 400),
    "two lengths": (head("/v1/events", "Content-Length: 2", "Content-Length: 3", method="POST") + b"{}", 400),
    "length and chunks": (head("/v1/events", "Content-Length: 2", "Transfer-Encoding: chunked", method="POST"), 400),
    "a chunk": (head("/v1/events", "Transfer-Encoding: chunked", method="POST") + f"{SECRET}\r\n".encode(), 400),
    "TLS": (b"\x16\x03\x01\x02\x00" + SECRET.encode() + b"\r\n\r\n", 400),
}


async def test_what_is_not_http_is_a_problem_and_quoted_nowhere(
    world: World, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    client = await world.edge()
    for name, (request, status) in NOT_HTTP.items():
        got, headers, body = await answered(client, request)
        assert got == status, name
        assert headers["content-type"] == "application/problem+json", name
        assert headers["x-content-type-options"] == "nosniff"
        assert "python" not in headers["server"].lower()
        problem = json.loads(body)
        assert (problem["status"], problem["request_id"]) == (status, headers["atoll-request-id"])
        assert SECRET not in body.decode(), name
    said = capfd.readouterr()
    assert SECRET not in caplog.text + said.out + said.err + (world.directory / "edge.log").read_text()


def _token_of(header: str) -> str:
    return f"Authorization: Bearer {encode_base64url(header.encode())}.e30.AAAA"


def _lone() -> dict[str, tuple[bytes, int]]:
    """Heads with bytes that are no text, and what they are answered."""
    deep = _token_of("[" * 1400)
    return {
        "a token": (head(PERSONAL, CLOSE, "Authorization: Bearer <odd>.a.b"), 401),
        "a token of brackets": (head(PERSONAL, CLOSE, deep), 401),
        "a scheme": (head(PERSONAL, CLOSE, "Authorization: <odd>"), 401),
        "a key": (head(PERSONAL, CLOSE, "Atoll-Key: <odd>.<odd>"), 401),
        "a session": (head(PERSONAL, CLOSE, "Atoll-Session: <odd>aaaaaaaa"), 400),
        "a user": (head(PERSONAL, CLOSE, "Atoll-Key: <key>", "Atoll-User: <odd>"), 400),
        "a vector": (head(PERSONAL, CLOSE, "Atoll-User-Vector: <odd>"), 400),
        "a tag": (head(POPULAR, CLOSE, 'If-None-Match: "<odd>"'), 200),
        "an id": (head(POPULAR, CLOSE, "Atoll-Request-Id: <odd>aaaaaaaa"), 200),
        "a trace": (head(POPULAR, CLOSE, f"traceparent: 00-{'1' * 32}-{'2' * 16}-01", "tracestate: a=<odd>"), 200),
        "a category": (head(f"{POPULAR}&category=%FF%ED%A0%80", CLOSE), 200),
        "a cursor": (head(f"{POPULAR}&cursor=%FF", CLOSE), 400),
        "an item to explain": (head(f"/v1/privacy/why/{'x' * 129}", CLOSE, "Authorization: <token>"), 400),
    }


async def test_bytes_that_are_no_text_are_the_callers_fault(world: World) -> None:
    key = world.service(Scope.READ)["Atoll-Key"]
    client = await world.edge()
    await has_lists(world, client)
    token = world.token()["Authorization"]
    for name, (request, status) in _lone().items():
        filled = request.replace(b"<key>", key.encode()).replace(b"<token>", token.encode())
        got, headers, body = await answered(client, filled.replace(b"<odd>", b"\xff\xfe"))
        assert got == status, (name, body)
        assert headers["atoll-request-id"]


async def test_a_user_may_have_any_name_that_is_text(world: World) -> None:
    key = world.service(Scope.READ)["Atoll-Key"]
    client = await world.edge()
    request = head(PERSONAL, CLOSE, f"Atoll-Key: {key}", "Atoll-User: Zoë 🜁")
    assert (await answered(client, request))[0] == 200


async def _posted(client: Client, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
    answer = await client.post(path, data=body, headers={"Atoll-Session": "session-1", **headers})
    return answer.status, await answer.json()


async def test_bodies_that_cannot_be_read_are_the_callers_fault(world: World) -> None:
    gorse = world.service(Scope.EVENTS, name="gorse")["Atoll-Key"]
    client = await world.edge()
    for path in ("/v1/events", "/v1/onboarding"):
        for body in (BRACKETS, b'{"more":' + BRACKETS, b"\xff", b""):
            status, problem = await _posted(client, path, body)
            assert (status, problem["type"]) == (400, "/problems/bad-request"), path
        status, problem = await _posted(client, path, b"not gzip", **{"Content-Encoding": "gzip"})
        assert (status, problem["type"]) == (400, "/problems/bad-request"), path
        status, _ = await _posted(client, path, gzip.compress(b" " * 10_000_000), **{"Content-Encoding": "gzip"})
        assert status == 413
    answer = await client.post("/gorse/api/feedback", data=b'[{"More":' + BRACKETS, headers={"X-API-Key": gorse})
    assert answer.status == 400


async def test_moments_that_no_clock_shows_are_refused(world: World) -> None:
    call = await aws(world, Scope.EVENTS)
    event = {"eventType": "view", "itemId": "x", "sentAt": -5.0}
    fields = {"trackingId": "t", "userId": "u", "sessionId": "session-1", "eventList": [event]}
    assert await call.refused(EVENTS, "put_events", **fields) == "InvalidInputException"
    # The AWS client itself sends no such moment.
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"eventType": "view", "sentAt": 1e300}', type=PutEvent)


async def test_a_broken_bulk_body_ends_in_a_line_of_its_own(world: World) -> None:
    key = world.service(Scope.BULK)
    client = await world.edge()
    answer = await client.post(
        "/v1/bulk/recommendations", data=b"not gzip", headers={**key, "Content-Encoding": "gzip"}
    )
    assert answer.status == 200
    assert len(answer.headers["Atoll-Request-Id"]) == 24
    last = json.loads((await answer.text()).splitlines()[-1])
    assert (last["status"], last["problem"]) == (400, "/problems/bad-request")


async def test_a_fault_in_the_middle_of_an_answer_hangs_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    key = world.service(Scope.BULK)["Atoll-Key"]
    client = await world.edge()

    def faulty(_line: bytes) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("edge.http.bulk.decode_line", faulty)
    request = head("/v1/bulk/recommendations", f"Atoll-Key: {key}", "Content-Length: 13", method="POST")
    async with wire(client) as connection:
        connection.send(request + b'{"user": "a"}')
        raw = await connection.rest()
    assert raw.count(b"HTTP/1.1") == 1  # Not another answer inside of this one.
    assert b"problem" not in raw

    async def logged() -> bool:
        return "ZeroDivisionError" in (world.directory / "edge.log").read_text()

    await until(logged)
