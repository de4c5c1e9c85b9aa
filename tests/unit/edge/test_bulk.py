"""Bulk calls: streamed both ways, in order, a status a line, bounded."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from edge.http import bulk
from infra.plumbing.service_keys import Scope
from tests.unit.edge.conftest import World
from tests.unit.edge.test_api import until

BULK = "/v1/bulk/recommendations"


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


async def test_every_line_has_its_answer_in_order(world: World) -> None:
    key = world.service(Scope.BULK)
    client = await world.edge()
    asked = [
        '{"user": "alice"}', "", '{"user": "bob", "n": 3, "exclude": ["p-0"]}', "{nonsense", '{"user": ""}',
        '{"user": "carol", "n": 0}', '{"user": "dave", "secret": "x"}', '{"user": "alice"}',
    ]  # fmt: skip
    answer = await client.post(BULK, data="\n".join(asked), headers=key)
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    found = lines(await answer.text())
    assert [one["index"] for one in found] == list(range(7))
    assert [one["status"] for one in found] == [200, 200, 400, 400, 400, 400, 200]
    assert len(found[0]["items"]) == 12  # type: ignore[arg-type]
    assert [item["item"] for item in found[1]["items"]] == ["p-1", "p-2", "p-3"]  # type: ignore[attr-defined]
    assert found[2]["problem"] == "/problems/bad-request"
    assert "nonsense" not in await answer.text()
    assert "alice" not in await answer.text()
    subjects = {json.loads(call)["subject"] for call in world.home.calls("/v1/recommend")}
    assert subjects == {world.subject("alice"), world.subject("bob")}


async def test_answers_come_while_lines_are_still_sent_and_no_more_than_wanted_are_held(world: World) -> None:
    key = world.service(Scope.BULK)
    client = await world.edge(bulk_width=2)
    sent: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def body() -> AsyncIterator[bytes]:
        while (line := await sent.get()) is not None:
            yield line

    for number in range(400):
        sent.put_nowait(json.dumps({"user": f"u{number}", "n": 100}).encode() + b"\n")
    call = asyncio.create_task(client.post(BULK, data=body(), headers=key))
    answer = await call
    first = await answer.content.readline()
    assert json.loads(first)["index"] == 0
    sent.put_nowait(None)
    rest = lines((await answer.read()).decode())
    assert len(rest) == 399
    assert all(one["status"] == 200 for one in rest)


async def test_bulk_needs_its_scope_and_waits_its_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    key, reader = world.service(Scope.BULK), world.service(Scope.READ, name="reader")
    client = await world.edge(bulk_calls_max=1)
    assert (await client.post(BULK, data="", headers=reader)).status == 403
    assert (await client.post(BULK, data="", headers=world.token())).status == 401
    assert await (await client.post(BULK, data="", headers=key)).text() == ""
    monkeypatch.setattr(bulk, "IDLE_S", 0.2)
    more = asyncio.Event()

    async def stalls() -> AsyncIterator[bytes]:
        yield b'{"user": "a"}\n{"user": "b"}\n{"us'
        await more.wait()

    call = asyncio.create_task(client.post(BULK, data=stalls(), headers=key))

    async def busy() -> bool:
        return (await client.post(BULK, data="", headers=key)).status == 503

    await until(busy)
    answer = await call
    found = lines((await answer.content.read()).decode())
    assert [one["status"] for one in found] == [200, 200, 408]
    more.set()


async def test_an_endless_line_ends_the_call_and_keeps_what_came_before(world: World) -> None:
    key = world.service(Scope.BULK)
    client = await world.edge()
    body = b'{"user": "a"}\n' + b"x" * (bulk.LINE_BYTES_MAX + 1)
    found = lines(await (await client.post(BULK, data=body, headers=key)).text())
    assert [one["status"] for one in found] == [200, 400]
