"""Onboarding over real HTTP: what to choose from, for everybody and whatever is down; what was chosen, as events."""

import asyncio

import msgspec

from edge.client import AtollClient
from infra.contracts.events import EventBatch, EventType
from infra.contracts.messages import Invalidation
from infra.contracts.residency import encode_regional
from tests.unit.edge.conftest import World
from tests.unit.edge.test_api import has_lists


async def test_choices_are_asked_for_once_and_kept_for_a_moment(world: World) -> None:
    client = await world.edge()
    for _ in range(3):
        answer = await client.get("/v1/onboarding?categories=3&items=2&locale=de&country=at")
        assert answer.status == 200
    body = await answer.json()
    assert [len(one["items"]) for one in body["categories"]] == [2, 2, 2]
    assert answer.headers["Cache-Control"] == "public, max-age=60"
    assert len(world.home.calls("/v1/onboarding/choices")) == 1
    for words in ("categories=0", "items=99", "locale=!", "country=Austria"):
        assert (await client.get(f"/v1/onboarding?{words}")).status == 400


async def test_a_withdrawn_item_is_not_offered_though_the_answer_was_kept(world: World) -> None:
    client = await world.edge()
    assert "c0-0" in await (await client.get("/v1/onboarding")).text()
    await world.grid.publish("invalidations", encode_regional(Invalidation(withdrawn=("c0-0",))))
    for _ in range(200):
        if "c0-0" not in (text := await (await client.get("/v1/onboarding")).text()):
            break
        await asyncio.sleep(0)
    assert "c0-0" not in text


async def test_without_a_region_the_releases_own_categories_are_offered(world: World) -> None:
    client = await world.edge()
    await has_lists(world, client)
    world.kill("home", "replica")
    answer = await client.get("/v1/onboarding?items=2")
    body = await answer.json()
    assert answer.status == 200
    assert body["degraded"] == ["region"]
    assert body["categories"]
    assert answer.headers["Cache-Control"] == "public, max-age=1"
    names = [item["item"] for one in body["categories"] for item in one["items"]]
    assert len(names) == len(set(names))


async def test_what_was_chosen_becomes_events_of_the_caller(world: World) -> None:
    url = str((await world.edge()).make_url("")).rstrip("/")
    token = world.token()["Authorization"].removeprefix("Bearer ")

    def application() -> tuple[int, int, int]:
        with AtollClient(url, token=token, timeout_s=5) as atoll:
            offered = atoll.choices(categories=2)
            item = offered.categories[0].items[0].item
            first = atoll.onboard(likes=[item, item], categories=["drama"], creators=["someone"])
            again = atoll.onboard(likes=[item])
            return len(offered.categories), first.accepted, again.accepted

    assert await asyncio.to_thread(application) == (2, 3, 1)
    first, again = (msgspec.json.decode(body, type=EventBatch) for body in world.home.calls("/v1/events"))
    assert first.subject == world.subject()
    assert [(one.type, one.item, one.follows) for one in first.events] == [
        (EventType.LIKE, "c0-0", None), (EventType.FOLLOW, "", "category:drama"),
        (EventType.FOLLOW, "", "creator:someone"),
    ]  # fmt: skip
    assert again.events[0].event_id == first.events[0].event_id


async def test_a_session_may_choose_and_nobody_may_not(world: World) -> None:
    client = await world.edge()
    chosen = {"likes": ["a"]}
    assert (await client.post("/v1/onboarding", json=chosen, headers={"Atoll-Session": "session-1"})).status == 200
    assert (await client.post("/v1/onboarding", json=chosen)).status == 401
    for body in ({}, {"likes": ["a"] * 51}, {"likes": [""]}, {"subject": "a"}, {"likes": "a"}):
        assert (await client.post("/v1/onboarding", json=body, headers=world.token())).status == 400
    traveller = await client.post("/v1/onboarding", json=chosen, headers=world.token(region="far"))
    assert (await traveller.json())["accepted"] == 1
    assert world.far.calls("/v1/relay")
