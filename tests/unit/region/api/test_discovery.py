"""What the region offers for choosing: popular, different, nothing withdrawn or kept out, for its own edges only."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry

from infra.contracts.discovery import ChoicesAnswer, ChoicesCall
from infra.contracts.residency import encode_global
from infra.plumbing.http.middleware import frame
from region.api.discovery import DiscoveryDoors
from region.api.doors import service_door
from region.api.suggesting import Suggester
from region.funnel.release import LoadedRelease
from tests.unit.region.worlds import World

HOME = {"Atoll-Service-Key": "key"}
Client = TestClient[web.Request, web.Application]


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    @contextmanager
    def lease() -> Iterator[LoadedRelease]:
        yield world.release

    doors = DiscoveryDoors(
        region="us-east", funnel=world.funnel, compute=world.compute, lease=lease, clock=world.clock,
        home_only=service_door("key"),
        suggester=Suggester(
            region="us-east", index=lambda: None, funnel=world.funnel, compute=world.compute, store=world.store,
            lease=lease, clock=world.clock, registry=CollectorRegistry(),
        ),
    )  # fmt: skip
    app = web.Application(middlewares=[frame(world.telemetry, world.clock)])
    app.add_routes(doors.routes())
    async with TestClient(TestServer(app)) as made:
        yield made


async def choices(client: Client, **asked: int) -> ChoicesAnswer:
    answer = await client.post(
        "/v1/onboarding/choices", data=encode_global(ChoicesCall(**asked)), headers=HOME  # type: ignore[arg-type]
    )  # fmt: skip
    assert answer.status == 200, await answer.text()
    return msgspec.json.decode(await answer.read(), type=ChoicesAnswer)


async def test_popular_items_of_categories_that_differ(world: World, client: Client) -> None:
    found = await choices(client, categories=3, items=2)
    assert {one.category for one in found.categories} == {"action", "comedy", "drama"}
    tables = world.release.tables
    for one in found.categories:
        rows = tables.category_rows[one.category][:2]
        assert [item.item for item in one.items] == [tables.items[row].item for row in rows.tolist()]
        assert one.items[0].title
    assert (found.release, found.region) == (world.release.release_id, "us-east")


async def test_what_may_not_be_shown_is_not_offered(world: World, client: Client) -> None:
    first = (await choices(client, categories=1, items=1)).categories[0].items[0].item
    world.withdrawals.change(withdrawn=(first,), restored=())
    assert first not in str(await choices(client, categories=24, items=12))


async def test_only_own_edges_ask_and_within_bounds(client: Client) -> None:
    assert (await client.post("/v1/onboarding/choices", data=b"{}")).status == 401
    for typed in ({"q": "x" * 101}, {"q": "a", "n": 0}, {"q": "a", "subject": "raw"}):
        assert (await client.post("/v1/suggest", json=typed, headers=HOME)).status == 400
    assert (await client.post("/v1/suggest", json={"q": "a"}, headers=HOME)).status == 200
    for asked in ({"categories": 0}, {"items": 13}, {"categories": "x"}):
        assert (await client.post("/v1/onboarding/choices", json=asked, headers=HOME)).status == 400
