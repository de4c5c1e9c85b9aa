"""The client that applications install, against an edge; its decisions without one."""

import asyncio
import subprocess
import sys
import typing
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from edge.client import AsyncAtollClient, AtollClient, AtollClientError, EventBuffer, NotReachedError, ProblemError
from edge.client import types as client_types
from edge.client.cache import PageCache
from edge.client.flow import Machine, Send, Wait
from edge.client.making import event_now
from edge.client.requests import Credentials, Reply, encode_vector, list_call, why_call
from edge.client.retrying import Retries, RetryPolicy
from edge.client.types import ListPage
from edge.http.bodies import BulkResult, ListBody
from infra.contracts.events import Event, EventAck, EventBatch
from infra.contracts.messages import AwayRequest, SlateItem
from infra.plumbing.clock import ManualClock, SystemClock
from infra.plumbing.ids import uniform
from infra.plumbing.service_keys import Scope
from tests.unit.edge.conftest import World
from tests.unit.edge.fakes import DIM, vector_header
from tests.unit.edge.test_api import has_lists

ROOT = Path(__file__).parents[3]


async def started(world: World) -> str:
    client = await world.edge()
    await has_lists(world, client)
    return str(client.make_url("")).rstrip("/")


def token(world: World, user: str = "alice") -> str:
    return world.token(user)["Authorization"].removeprefix("Bearer ")


async def test_the_readmes_example(world: World) -> None:
    url = await started(world)

    def application() -> tuple[ListPage, int]:
        with AtollClient(url, token=token(world), timeout_s=5) as atoll:
            page = atoll.list("personal", n=5)
            ack = atoll.send([atoll.event("view", page.items[0].item, request_id=page.request_id)])
            return page, ack.accepted

    page, accepted = await asyncio.to_thread(application)
    assert [item.item for item in page.items] == ["p-0", "p-1", "p-2", "p-3", "p-4"]
    assert (page.step, page.personal, accepted) == ("home", True, 1)
    assert page.items[0].reason.code == "for-you"


async def test_both_clients_do_the_same(world: World) -> None:
    url = await started(world)

    def blocking() -> list[str]:
        with AtollClient(url, session="session-one", timeout_s=5) as atoll:
            return [item.item for item in atoll.items("popular", n=40, price_max=5, attribute=["colour:red"])]

    async with AsyncAtollClient(url, session="session-one", timeout_s=5) as atoll:
        found = [item.item async for item in atoll.items("popular", n=40, price_max=5, attribute=["colour:red"])]
    assert found == await asyncio.to_thread(blocking)
    assert len(found) == len(set(found)) == 200


async def test_pages_are_held_and_confirmed(world: World) -> None:
    url = await started(world)
    clock = ManualClock(wall_ms=SystemClock().now_ms())
    async with AsyncAtollClient(url, token=token(world), timeout_s=5, clock=clock) as atoll:
        first = await atoll.list("popular", n=3)
        assert (await atoll.list("popular", n=3)).from_cache  # Not asked at all.
        assert world.metric("atoll_edge_not_modified_total") == 0
        clock.advance(61)
        assert (await atoll.list("popular", n=3)).items == first.items
        assert world.metric("atoll_edge_not_modified_total") == 1
        personal = await atoll.list("personal", n=3)
        again = await atoll.list("personal", n=3)
        assert (personal.from_cache, again.from_cache, again.step) == (False, True, "fresh")
        assert world.metric("atoll_edge_not_modified_total") == 2
    async with AsyncAtollClient(url, token=token(world, "bob"), timeout_s=5, clock=clock) as other:
        assert not (await other.list("popular", n=3)).from_cache


async def test_problems_are_exceptions(world: World) -> None:
    url = await started(world)
    async with AsyncAtollClient(url, timeout_s=5) as atoll:
        with pytest.raises(ProblemError) as caught:
            await atoll.list("popular", n=0)
        assert (caught.value.type, caught.value.field) == ("/problems/bad-request", "n")
        with pytest.raises(ProblemError) as caught:
            await atoll.list("personal")
        assert caught.value.status == 401
        assert len(caught.value.request_id) >= 8


async def test_a_token_that_ran_out_is_renewed_once(world: World) -> None:
    url = await started(world)
    given = [world.token(life_s=-3600)["Authorization"].removeprefix("Bearer "), token(world)]
    async with AsyncAtollClient(url, token=lambda: given.pop(0) if len(given) > 1 else given[0], timeout_s=5) as atoll:
        assert (await atoll.list("personal")).items
    async with AsyncAtollClient(url, token=lambda: "wrong", timeout_s=5) as atoll:
        with pytest.raises(ProblemError, match="does not hold"):
            await atoll.list("personal")


async def test_services_read_in_bulk_and_for_users(world: World) -> None:
    key = world.service(Scope.BULK, Scope.READ)["Atoll-Key"]
    url = await started(world)
    async with AsyncAtollClient(url, key=key, timeout_s=5) as atoll:
        lines = [line async for line in atoll.bulk((f"u{number}" for number in range(501)), n=2)]
    assert [line.index for line in lines] == list(range(501))
    assert all(line.status == 200 and len(line.items) == 2 for line in lines)
    async with AsyncAtollClient(url, key=key, user="u1", timeout_s=5) as atoll:
        assert (await atoll.list("personal", n=2)).items == lines[1].items
        with pytest.raises(ProblemError) as caught:
            await atoll.send([atoll.event("view", "i")])
        assert caught.value.status == 403


async def test_the_callers_own_vector_goes_along(world: World) -> None:
    url = await started(world)
    world.kill("home", "replica")
    vector = [0.5] * DIM
    assert encode_vector(vector) == vector_header(*vector)
    async with AsyncAtollClient(url, token=token(world), timeout_s=5) as atoll:
        page = await atoll.list("personal", vector=vector, vector_release=world.home.release)
    assert page.step == "failover-vector"
    assert msgspec.json.decode(world.near.calls("/v1/away")[0], type=AwayRequest).vector == tuple(vector)


async def test_events_wait_until_they_are_taken(world: World) -> None:
    url = await started(world)
    async with AsyncAtollClient(url, token=token(world), timeout_s=0.5, retries=RetryPolicy(tries_max=1)) as atoll:
        buffer = atoll.buffer(batch=2)
        assert [buffer.add("view", "a"), buffer.add("click", "b"), buffer.add("like", "c")] == [False, True, True]
        world.kill("home", "replica")
        with pytest.raises(AtollClientError):
            await atoll.flush(buffer, timeout_s=5)
        assert len(buffer) == 3
        world.home.mode = world.replica.mode = "ok"

        async def flushed() -> None:
            while len(buffer):
                try:
                    await atoll.flush(buffer, timeout_s=5)
                except AtollClientError:
                    await asyncio.sleep(0.05)

        await asyncio.wait_for(flushed(), 10)
    bodies = [*world.home.calls("/v1/events"), *world.replica.calls("/v1/events")]
    ids = {tuple(event.event_id for event in msgspec.json.decode(body, type=EventBatch).events) for body in bodies}
    assert len(ids) == 1  # Every try carried the same events under the same ids.


@pytest.fixture
async def flaky() -> AsyncIterator[tuple[str, list[web.Response | None], list[dict[str, str]]]]:
    """A server that gives prepared answers, None: closes the connection."""
    answers: list[web.Response | None] = []
    seen: list[dict[str, str]] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(dict(request.headers))
        prepared = answers.pop(0)
        if prepared is None:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        return prepared

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/"), answers, seen


GOOD = {"items": [], "release": "r", "region": "here"}


async def test_retries_hold_to_retry_after_and_the_deadline(flaky: Any) -> None:
    url, answers, seen = flaky
    async with AsyncAtollClient(url, timeout_s=10, retries=RetryPolicy(base_s=0.001)) as atoll:
        answers += [None, web.Response(status=503), web.json_response(GOOD)]
        assert (await atoll.list("popular")).release == "r"
        left = [int(headers["Atoll-Deadline-Ms"]) for headers in seen]
        assert left == sorted(left, reverse=True)
        assert 0 < left[-1] <= 9000
        answers += [web.Response(status=429, headers={"Retry-After": "60"})]
        with pytest.raises(ProblemError) as caught:
            await atoll.list("popular")
        assert caught.value.retry_after_s == 60
        answers += [None] * 3
        with pytest.raises(NotReachedError, match="3 tries"):
            await atoll.list("popular")
        answers += [web.Response(text="<html>")]
        with pytest.raises(NotReachedError, match="not one of an edge"):
            await atoll.list("popular")
    async with AsyncAtollClient("http://127.0.0.1:1", timeout_s=0.2) as atoll:
        with pytest.raises(NotReachedError):
            await atoll.list("popular")


def test_retries_stay_within_their_budget() -> None:
    retries = Retries(RetryPolicy(reserve=2, share=0.5), uniform=lambda low, high: high)
    assert retries.wait_s(1, retry_after_s=None, left_s=9) == 0.05
    assert retries.wait_s(2, retry_after_s=1, left_s=9) == 1
    assert retries.wait_s(1, retry_after_s=None, left_s=9) is None
    retries.note_first()
    retries.note_first()
    assert retries.wait_s(1, retry_after_s=2, left_s=1) is None  # It would wait past the deadline, and costs nothing.
    assert retries.wait_s(1, retry_after_s=None, left_s=9) is not None
    assert retries.wait_s(3, retry_after_s=None, left_s=9) is None


def test_a_call_ends_with_its_time() -> None:
    clock = ManualClock()
    machine = Machine(
        credentials=Credentials(), cache=PageCache(), retries=Retries(RetryPolicy(), uniform=uniform),
        monotonic_s=clock.monotonic_s, timeout_s=1.0,
    )  # fmt: skip
    flow = machine.run(list_call("popular"))
    assert isinstance(flow.send(None), Send)
    step = flow.send(Reply(status=502, headers={}, body=b""))
    assert isinstance(step, Wait)
    clock.advance(1)
    with pytest.raises(NotReachedError, match="in time"):
        flow.send(None)


def test_buffers_are_bounded() -> None:
    clock = ManualClock()
    buffer = EventBuffer(lambda kind, item, **rest: event_now(clock, kind, item, **rest), batch=2, held_max=3)
    for number in range(3):
        buffer.add("view", str(number))
    with pytest.raises(AtollClientError, match="3 events wait"):
        buffer.add("view", "x")
    with pytest.raises(AtollClientError):
        EventBuffer(lambda *words, **rest: event_now(clock, "view", "x"), batch=501)
    first = buffer.batch()[:2]
    buffer.done(first)
    assert [event.item for event in buffer.batch()] == ["2"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (client_types.ListBody, ListBody), (client_types.ListItem, SlateItem), (client_types.Ack, EventAck),
        (client_types.BulkItem, BulkResult), (client_types.Event, Event),
    ],
)  # fmt: skip
def test_its_types_are_those_of_the_edge(ours: type[msgspec.Struct], theirs: type[msgspec.Struct]) -> None:
    assert set(ours.__struct_fields__) <= set(theirs.__struct_fields__)
    required = {field.name for field in msgspec.structs.fields(theirs) if field.required}
    assert required - {"type", "surface", "generated_at_ms"} <= set(ours.__struct_fields__)


def test_it_needs_httpx_and_msgspec_only() -> None:
    program = (
        "import sys; import edge.client; from importlib.metadata import packages_distributions as p; "
        "third = {n.split('.')[0] for n in sys.modules} & set(p()); "
        "print(sorted(third & {'aiohttp', 'cryptography', 'opentelemetry', 'jwt', 'tuf', 'prometheus_client'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_both_clients_have_the_same_calls() -> None:
    def public(kind: type) -> dict[str, set[str]]:
        return {
            name: set(typing.get_type_hints(function)) - {"return"}
            for name, function in vars(kind).items()
            if callable(function) and not name.startswith("_")
        }

    assert public(AtollClient) == public(AsyncAtollClient)
    assert httpx.Client is not None


def test_why_names_any_item() -> None:
    call = why_call("a/b c", locale="de")
    assert (call.method, call.path, call.params) == ("GET", "/v1/privacy/why/a%2Fb%20c", [("locale", "de")])


async def test_a_user_takes_everything_out_and_is_forgotten(world: World) -> None:
    url = str((await world.edge()).make_url("")).rstrip("/")
    token = world.token()["Authorization"].removeprefix("Bearer ")

    def application() -> tuple[object, object]:
        with AtollClient(url, token=token) as atoll:
            return atoll.export()["subject"], atoll.erase()["signature"]

    assert await asyncio.to_thread(application) == (world.subject(), "s")
    async with AsyncAtollClient(url, token=token) as atoll:
        assert (await atoll.export())["subject"] == world.subject()
        assert (await atoll.erase())["signature"] == "s"
