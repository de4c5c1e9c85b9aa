"""What callers may ask for beside a plain list: filters, context, pages, arms; and services that call for users."""

import msgspec
import pytest

from infra.contracts.messages import AwayRequest, HomeRequest
from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import InvalidInputError, NotFoundError
from infra.plumbing.service_keys import Scope, ServiceKeys
from tests.unit.edge.conftest import World
from tests.unit.edge.test_api import PERSONAL, POPULAR, has_lists, items

FILTERED = f"{POPULAR}?price_max=20&attribute=colour:red&attribute=colour:blue&attribute=size:m&category=drama"


async def test_filters_and_context_reach_the_region_and_make_another_list(world: World) -> None:
    client = await world.edge()
    await has_lists(world, client)
    context = "device=tv&country=pt&local_time=21:30&referrer=search&locale=pt-BR"
    assert (await items(client, f"{FILTERED}&{context}"))[0] == "home"
    assert (await items(client, f"{FILTERED}&{context}"))[0] == "fresh"
    assert (await items(client, POPULAR))[0] == "home"
    assert (await items(client, f"{POPULAR}?device=tv"))[0] == "home"
    sent = msgspec.json.decode(world.home.calls("/v1/recommend")[0], type=HomeRequest)
    assert sent.filters.price_max == 20
    attributes = {one.name: one.values for one in sent.filters.attributes}
    assert attributes == {"colour": ("blue", "red"), "size": ("m",)}
    assert msgspec.to_builtins(sent.context) == {
        "locale": "pt-BR", "device": "tv", "local_hour": 21, "country": "PT", "referrer": "search"
    }  # fmt: skip


async def test_filters_hold_away_and_are_said_to_be_relaxed_where_nobody_can_check(world: World) -> None:
    client = await world.edge()
    await has_lists(world, client)
    world.kill("home", "replica")
    assert (await items(client, FILTERED))[0] == "failover"
    assert msgspec.json.decode(world.near.calls("/v1/away")[0], type=AwayRequest).filters.price_max == 20
    world.kill("near", "far")
    body = await (await client.get(FILTERED.replace("20", "30"))).json()
    assert body["items"]
    assert "filters-relaxed" in body["degraded"]


async def test_a_filtered_page_is_short_rather_than_wrong(world: World) -> None:
    client = await world.edge()
    await has_lists(world, client)
    world.home.items = 4
    step, found = await items(client, f"{FILTERED}&n=10")
    assert (step, len(found)) == ("home", 4)
    body = await (await client.get(f"{FILTERED}&n=10&exclude={','.join(found)}")).json()
    assert body["items"]
    assert body["degraded"] == ["filters-relaxed"]


async def test_pages_go_on_to_the_end_of_what_the_region_has(world: World) -> None:
    client = await world.edge()
    await has_lists(world, client)
    seen: list[str] = []
    cursor = ""
    for _ in range(40):
        body = await (await client.get(f"{POPULAR}?n=10{cursor}")).json()
        seen += [item["item"] for item in body["items"]]
        if body["next"] is None:
            break
        cursor = f"&cursor={body['next']}"
    assert len(seen) == len(set(seen)) == 200


@pytest.mark.parametrize(("surface", "size"), [("home", 10), ("detail", 8), ("cart", 6), ("email", 12), ("feed", 20)])
async def test_surfaces_have_their_own_page(world: World, surface: str, size: int) -> None:
    client = await world.edge()
    assert len((await items(client, f"{POPULAR}?surface={surface}"))[1]) == size


async def test_a_service_reads_lists_for_users_of_its_region(world: World) -> None:
    reader = world.service(Scope.READ, user="alice")
    writer = world.service(Scope.EVENTS, user="alice", name="writer")
    client = await world.edge()
    step, of_service = await items(client, PERSONAL, headers=reader)
    assert step == "home"
    assert (await items(client, PERSONAL, headers=world.token("alice"))) == ("fresh", of_service)
    assert (await client.get(PERSONAL, headers=writer)).status == 403
    assert (await client.get(PERSONAL, headers={"Atoll-Key": reader["Atoll-Key"]})).status == 401
    assert (await client.get(PERSONAL, headers={"Atoll-User": "alice"})).status == 401
    assert (await client.get(PERSONAL, headers={**reader, **world.token()})).status == 400
    assert (await client.get(PERSONAL, headers={**reader, "Atoll-User": "x" * 257})).status == 400
    for key in ("nonsense", "a.b", reader["Atoll-Key"] + "x", reader["Atoll-Key"][:-1], "x" * 5000):
        assert (await client.get(PERSONAL, headers={**reader, "Atoll-Key": key})).status in (400, 401)
    event = {"event_id": "event-0001", "type": "view", "item": "i", "at_ms": 1}
    assert (await client.post("/v1/events", json={"events": [event]}, headers=writer)).status == 200
    assert (await client.post("/v1/events", json={"events": [event]}, headers=reader)).status == 403
    assert (await client.put("/v1/privacy/opt-out", json={"opted_out": True}, headers=writer)).status == 401


async def test_only_testers_choose_an_arm(world: World) -> None:
    tester = world.service(Scope.READ, Scope.TEST, user="alice")
    reader = world.service(Scope.READ, user="alice", name="reader")
    client = await world.edge()
    assert (await items(client, f"{PERSONAL}?arm=b", headers=tester))[0] == "home"
    assert msgspec.json.decode(world.home.calls("/v1/recommend")[0], type=HomeRequest).arm == "b"
    assert (await items(client, PERSONAL, headers=tester))[0] == "home"  # The arm's list is not everybody's.
    assert (await client.get(f"{PERSONAL}?arm=b", headers=reader)).status == 403
    assert (await client.get(f"{PERSONAL}?arm=b", headers=world.token())).status == 401


def test_keys_say_what_is_wrong_with_them() -> None:
    clock = ManualClock()
    keys = ServiceKeys().with_new("a", (Scope.READ,), clock=clock, days=1)
    assert keys.keys[0].holds(now_ms=clock.now_ms())
    clock.advance(86_400)
    assert not keys.keys[0].holds(now_ms=clock.now_ms())
    assert not keys.without(keys.keys[0].id).keys[0].holds(now_ms=0)
    with pytest.raises(NotFoundError):
        keys.without("nobody")
    for name, scopes in (("a", (Scope.READ,)), ("", (Scope.READ,)), ("b", ())):
        with pytest.raises(InvalidInputError):
            keys.with_new(name, scopes, clock=clock, days=None)
