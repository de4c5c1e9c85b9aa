"""The public API of an edge against fake regions over real HTTP."""

import asyncio
import io
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestClient

from infra.contracts.messages import INVALIDATION_TOPIC, Invalidation, Lifetime
from infra.contracts.residency import encode_regional
from tests.unit.edge.conftest import World
from tests.unit.edge.fakes import release_lists, vector_header

Client = TestClient[Any, Any]
PERSONAL = "/v1/recommendations/personal"
POPULAR = "/v1/recommendations/popular"
SIMILAR = "/v1/recommendations/similar?item=r-3"
SESSION = "/v1/recommendations/session"


async def items(client: Client, path: str, **options: Any) -> tuple[str, list[str]]:
    """The step and the items of a call that must succeed."""
    async with client.get(path, **options) as response:
        assert response.status == 200, await response.text()
        body = await response.json()
        return response.headers["Atoll-Step"], [item["item"] for item in body["items"]]


async def until(holds: Callable[[], Awaitable[bool]], *, within_s: float = 5.0) -> None:
    """Ask until something became true; the only waiting there is for what happens in the background."""
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + within_s
    while not await holds():
        assert loop.time() < ends_s, "it did not become true"
        await asyncio.sleep(0.01)


async def has_lists(world: World, client: Client) -> None:
    async def loaded() -> bool:
        return world.metric('atoll_edge_lists_total{outcome="repository"}') > 0

    await until(loaded)


async def tell(world: World, message: Invalidation) -> None:
    """Tell every edge, and wait until they have heard."""
    before = world.metric("atoll_edge_invalidations_total")
    await world.grid.publish(INVALIDATION_TOPIC, encode_regional(message))

    async def heard() -> bool:
        return world.metric("atoll_edge_invalidations_total") > before

    await until(heard)


async def test_a_list_is_filled_once_and_then_served_as_the_same_bytes(world: World) -> None:
    client = await world.edge()
    token = world.token()
    first = await client.get(f"{PERSONAL}?n=5", headers=token)
    body = await first.json()
    assert [item["item"] for item in body["items"]] == ["p-0", "p-1", "p-2", "p-3", "p-4"]
    assert body["personal"] is True
    assert body["region"] == first.headers["Atoll-Region"] == "here"
    assert body["release"] == first.headers["Atoll-Release"] == world.home.release
    assert first.headers["Atoll-Step"] == "home"
    assert first.headers["Cache-Status"] == "atoll-edge; fwd=miss; stored"
    assert first.headers["Cache-Control"] == "private, max-age=0, must-revalidate"
    assert first.headers["X-Content-Type-Options"] == "nosniff"
    assert first.headers["Server"] == "atoll-edge"
    second = await client.get(f"{PERSONAL}?n=5", headers=token)
    assert second.headers["Atoll-Step"] == "fresh"
    assert second.headers["Cache-Status"].startswith("atoll-edge; hit; ttl=")
    assert second.headers["Age"] == "0"
    assert await second.read() == await first.read()
    assert second.headers["ETag"] == first.headers["ETag"]
    assert len(world.home.calls("/v1/recommend")) == 1
    sent = msgspec.json.decode(world.home.calls("/v1/recommend")[0])
    assert sent["subject"] == world.subject()
    assert 0 < sent["timeout_ms"] <= 10_000


async def test_a_caller_that_has_the_list_gets_304(world: World) -> None:
    client = await world.edge()
    etag = (await client.get(POPULAR)).headers["ETag"]
    for tags in (etag, f'"other", W/{etag}', "*"):
        again = await client.get(POPULAR, headers={"If-None-Match": tags})
        assert again.status == 304
        assert again.headers["ETag"] == etag
        assert await again.read() == b""
    assert (await client.get(POPULAR, headers={"If-None-Match": '"other"'})).status == 200
    assert world.metric("atoll_edge_not_modified_total") == 3
    assert "max-age=6" in (await client.get(POPULAR)).headers["Cache-Control"]


async def test_a_thousand_misses_are_one_call(world: World) -> None:
    client = await world.edge(
        deadline_ms=20_000, fill_deadline_ms=20_000, try_timeout_ms=10_000, burst_per_caller=2000.0
    )
    world.home.delay_s = 0.3
    token = world.token()
    answers = await asyncio.gather(*(items(client, PERSONAL, headers=token) for _ in range(1000)))
    assert len({tuple(names) for _, names in answers}) == 1
    assert len(world.home.calls("/v1/recommend")) == 1


@pytest.mark.parametrize(
    "path", ["/v1/recommendations/nonsense", f"{POPULAR}?n=0", f"{POPULAR}?surface=<b>", SIMILAR + "&n=x"]
)
async def test_bad_input_is_a_problem_document(world: World, path: str) -> None:
    client = await world.edge()
    response = await client.get(path)
    problem = await response.json(content_type="application/problem+json")
    assert response.status == problem["status"] == 400
    assert "<b>" not in problem["detail"]
    assert problem["request_id"] == response.headers["Atoll-Request-Id"]


async def test_who_may_have_a_personal_list(world: World) -> None:
    client = await world.edge()
    expired = world.token(life_s=-3600)
    good = world.token()["Authorization"]
    for headers in (
        {}, expired, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic abc"}, {"Authorization": "Bearer"},
        {"Authorization": good[:-4] + "AAAA"}, {"Authorization": "Bearer " + "x" * 4000},
    ):  # fmt: skip
        response = await client.get(PERSONAL, headers=headers)
        assert response.status == 401, headers
        assert response.headers["WWW-Authenticate"] == "Bearer"
    assert (await client.get(POPULAR, headers={"Authorization": "Bearer nonsense"})).status == 401
    refused = await client.get(PERSONAL, headers={**world.token(), "Atoll-Subject": world.subject("bob")})
    assert refused.status == 400
    assert (await client.get(SESSION, headers={"Atoll-Session": "short"})).status == 400
    alice = await items(client, PERSONAL, headers=world.token("alice"))
    world.home.personal_prefix = "bobs"
    bob = await items(client, PERSONAL, headers=world.token("bob"))
    assert alice[1] != bob[1]
    assert bob[1][0] == "bobs-0"


async def test_sessions_are_kept_apart_and_may_bring_recent_items(world: World) -> None:
    client = await world.edge()
    one = {"Atoll-Session": "session-one"}
    assert (await items(client, f"{SESSION}?recent=a,b&recent=c", headers=one))[0] == "home"
    assert (await items(client, f"{SESSION}?recent=a,b&recent=c", headers=one))[0] == "fresh"
    assert (await items(client, f"{SESSION}?recent=a,b", headers=one))[0] == "home"
    assert (await items(client, f"{SESSION}?recent=a,b", headers={"Atoll-Session": "session-two"}))[0] == "home"
    sent = msgspec.json.decode(world.home.calls("/v1/recommend")[0])
    assert sent["recent"] == ["a", "b", "c"]
    assert sent["subject"] == world.keys["here"].session_subject("session-one")
    assert (await items(client, SESSION))[0] == "home"


async def test_exclusions_and_pages_come_out_of_the_spare_items(world: World) -> None:
    client = await world.edge()
    await has_lists(world, client)
    _, page = await items(client, f"{POPULAR}?n=5&exclude=popular-0,popular-2&exclude=popular-4")
    assert page == ["popular-1", "popular-3", "popular-5", "popular-6", "popular-7"]
    seen: list[str] = []
    path = f"{POPULAR}?n=8"
    while True:
        body = await (await client.get(path)).json()
        seen += [item["item"] for item in body["items"]]
        if body["next"] is None:
            break
        path = f"{POPULAR}?n=8&cursor={body['next']}"
    assert len(seen) == len(set(seen))
    assert seen[:30] == [f"popular-{number}" for number in range(30)]
    wrong = await client.get(f"{SIMILAR}&cursor={path.rpartition('=')[2]}")
    assert wrong.status == 400


async def test_a_page_stays_full_from_the_release_lists(world: World) -> None:
    client = await world.edge()
    await has_lists(world, client)
    every = ",".join(f"popular-{number}" for number in range(200))
    _, page = await items(client, f"{POPULAR}?n=10&exclude={every}")
    assert len(page) == 10
    world.home.items = 3
    _, page = await items(client, SIMILAR)
    assert page[:3] == ["similar-0", "similar-1", "similar-2"]
    assert len(page) == 10
    assert world.metric("atoll_edge_filled_items_total") >= 7


async def test_a_larger_page_than_kept_asks_again(world: World) -> None:
    client = await world.edge()
    assert len((await items(client, f"{POPULAR}?n=10"))[1]) == 10
    step, page = await items(client, f"{POPULAR}?n=60")
    assert (step, len(page)) == ("home", 60)
    assert (await items(client, f"{POPULAR}?n=10"))[0] == "fresh"


async def test_an_explanation_is_made_now_and_kept_nowhere(world: World) -> None:
    client = await world.edge()
    for _ in range(2):
        response = await client.get(f"{POPULAR}?explain=1")
        body = await response.json()
        assert body["trace"][0]["stage"] == "ann"
        assert response.headers["Atoll-Step"] == "home"
        assert "fwd=bypass" in response.headers["Cache-Status"]
    assert "trace" not in await (await client.get(POPULAR)).json()
    world.kill("home")
    assert (await client.get(f"{POPULAR}?explain=1")).headers["Atoll-Step"] == "replica"


# ---- the ladder


async def test_the_edges_of_a_region_share_lists_through_the_grid(world: World) -> None:
    one, other = await world.edge(), await world.edge()
    token = world.token()
    await items(one, PERSONAL, headers=token)

    async def stored() -> bool:
        step, _ = await items(other, PERSONAL, headers=token)
        return step == "grid" or len(world.home.calls("/v1/recommend")) > 1

    await until(stored)
    response = await other.get(PERSONAL, headers=token)
    assert response.headers["Atoll-Step"] == "fresh"
    assert len(world.home.calls("/v1/recommend")) == 1


async def test_a_replica_answers_when_the_first_node_fails(world: World) -> None:
    client = await world.edge()
    for mode in ("error", "garbage", "huge", "empty", "overloaded", "forbid"):
        world.home.mode = mode
        step, page = await items(client, f"{SIMILAR}&category={mode}")
        assert (step, page[0]) == ("replica", "similar-0"), mode


async def test_a_stale_list_is_served_at_once_and_refreshed_behind(world: World) -> None:
    world.home.lifetime = Lifetime(max_age_s=0.0, stale_while_revalidate_s=60.0, stale_if_error_s=60.0)
    client = await world.edge()
    await items(client, POPULAR)
    world.home.delay_s = 0.2
    response = await client.get(POPULAR)
    assert response.headers["Atoll-Step"] == "stale"
    assert response.headers["Cache-Control"] == "private, max-age=0, must-revalidate"

    async def refreshed() -> bool:
        return len(world.home.calls("/v1/recommend")) == 2

    await until(refreshed)


async def test_a_stale_list_is_served_when_home_is_gone(world: World) -> None:
    world.home.lifetime = Lifetime(max_age_s=0.0, stale_while_revalidate_s=0.0, stale_if_error_s=60.0)
    client = await world.edge()
    token = world.token()
    await items(client, PERSONAL, headers=token)
    world.kill("home", "replica")
    response = await client.get(PERSONAL, headers=token)
    assert response.headers["Atoll-Step"] == "stale"
    assert "detail=stale-if-error" in response.headers["Cache-Status"]


async def test_another_region_answers_without_anything_personal(world: World) -> None:
    client = await world.edge()
    world.kill("home", "replica")
    for path in (PERSONAL, f"{SESSION}?recent=secret-item", SIMILAR, POPULAR):
        headers = {**world.token(), "Atoll-Session": "session-one", "Atoll-Request-Id": "alice@example"}
        step, page = await items(client, path, headers=headers)
        assert (step, page[0]) == ("failover", "away-0"), path
    crossed = [(str(headers), body) for path, headers, body in world.near.requests if path == "/v1/away"]
    assert 1 <= len(crossed) <= 3, "personal, session and popular share one list of another region"
    for headers_sent, sent in crossed:
        for secret in (
            world.subject(),
            "secret-item",
            "session-one",
            "alice",
            "Bearer",
            world.keys["here"].service_key,
        ):
            assert secret.encode() not in sent
            assert secret not in headers_sent
    assert {"subject", "recent", "exclude"}.isdisjoint(msgspec.json.decode(crossed[0][1]))


async def test_the_nearest_region_that_answers_is_taken(world: World) -> None:
    client = await world.edge()
    world.kill("home", "replica", "near")
    response = await client.get(POPULAR)
    assert response.headers["Atoll-Step"] == "failover"
    assert response.headers["Atoll-Region"] == "far"


async def test_the_callers_own_vector_ranks_elsewhere_and_is_kept_nowhere(world: World) -> None:
    client = await world.edge()
    await has_lists(world, client)
    vector = {"Atoll-User-Vector": vector_header(1, 2, 3, 4), "Atoll-Vector-Release": "0" * 20}
    assert (await items(client, PERSONAL, headers={**world.token(), **vector}))[0] == "home"
    assert b'vector_release":null' in world.home.calls("/v1/recommend")[0]
    world.kill("home", "replica")
    for _ in range(2):
        step, page = await items(client, PERSONAL, headers={**world.token("bob"), **vector})
        assert (step, page[0]) == ("failover-vector", "away-vector-0")
    assert len(world.near.calls("/v1/away")) == 2
    world.near.ignores_vector = True
    assert (await items(client, PERSONAL, headers={**world.token("bob"), **vector}))[0] == "failover"
    bad = {**vector, "Atoll-User-Vector": vector_header(1, 2, 3, float("nan"))}
    assert (await client.get(PERSONAL, headers={**world.token(), **bad})).status == 400
    short = {**vector, "Atoll-User-Vector": vector_header(1, 2)}
    assert (await client.get(PERSONAL, headers={**world.token(), **short})).status == 400


async def test_with_everything_down_the_release_lists_answer(world: World) -> None:
    client = await world.edge()
    await has_lists(world, client)
    world.kill("home", "replica", "near", "far")
    vector = {"Atoll-User-Vector": vector_header(1, 2, 3, 4), "Atoll-Vector-Release": "0" * 20}
    for path in (PERSONAL, SESSION, SIMILAR, POPULAR, "/v1/recommendations/trending?n=100"):
        for _ in range(4):
            step, page = await items(client, path, headers={**world.token(), **vector})
            assert step == "release"
            assert page
    assert (await items(client, SIMILAR))[1][:3] == ["r-4", "r-5", "r-6"]
    assert world.metric('atoll_edge_answers_total{step="release",type="personal"}') == 4


async def test_with_everything_hanging_the_caller_still_gets_an_answer_in_time(world: World) -> None:
    client = await world.edge(deadline_ms=150, fill_deadline_ms=400, try_timeout_ms=150)
    await has_lists(world, client)
    for region in world.regions().values():
        region.mode = "hang"
    loop = asyncio.get_running_loop()
    for _ in range(3):
        started = loop.time()
        assert (await items(client, PERSONAL, headers=world.token()))[0] == "release"
        assert loop.time() - started < 1.0
    assert (await items(client, POPULAR, headers={"Atoll-Deadline-Ms": "0"}))[0] == "release"
    assert (await client.get(POPULAR, headers={"Atoll-Deadline-Ms": "soon"})).status == 400


async def test_personal_lists_return_soon_after_healing(world: World) -> None:
    client = await world.edge()
    await has_lists(world, client)
    world.kill("home", "replica")
    steps = {(await items(client, PERSONAL, headers=world.token(f"user{number}")))[0] for number in range(20)}
    assert steps <= {"failover", "release"}

    async def avoided() -> bool:
        return world.metric("atoll_edge_targets_avoided") >= 2

    await until(avoided)
    world.home.mode = world.replica.mode = "ok"

    async def back() -> bool:
        return (await items(client, PERSONAL, headers=world.token("dora")))[0] in ("home", "replica", "fresh")

    await until(back, within_s=2.0)


async def test_what_the_region_refuses_is_answered_by_the_release_and_not_asked_again_at_once(world: World) -> None:
    client = await world.edge()
    await has_lists(world, client)
    world.home.mode = "refuse"
    for _ in range(3):
        assert (await items(client, SIMILAR))[0] == "release"
    assert len(world.home.calls("/v1/recommend")) == 1
    assert not world.near.requests


async def test_a_cold_edge_in_a_dark_world_says_so(world: World) -> None:
    world.source.down = True
    world.kill("home", "replica", "near", "far")
    client = await world.edge()
    ready = await client.get("/health/ready")
    assert ready.status == 503
    assert "lists" in (await ready.json())["for"]
    response = await client.get(POPULAR)
    assert response.status == 503
    assert response.headers["Retry-After"]
    world.source.down = False
    await has_lists(world, client)
    assert (await client.get("/health/ready")).status == 200
    assert (await items(client, POPULAR))[0] == "release"


async def test_too_many_fills_at_once_go_down_the_ladder(world: World) -> None:
    client = await world.edge(fills_max=0)
    await has_lists(world, client)
    assert (await items(client, POPULAR))[0] == "release"
    world.home.lifetime = Lifetime(max_age_s=0.0, stale_while_revalidate_s=60.0, stale_if_error_s=60.0)
    roomy = await world.edge(fills_max=1)
    await items(roomy, POPULAR)
    world.home.delay_s = 0.3
    slow = asyncio.create_task(items(roomy, SIMILAR))
    await until(lambda: asked(world, 2))
    assert (await items(roomy, POPULAR))[0] == "stale"
    assert (await slow)[0] == "home"


async def asked(world: World, times: int) -> bool:
    return len(world.home.calls("/v1/recommend")) >= times


async def test_what_was_refused_is_not_refreshed_behind_the_callers_back(world: World) -> None:
    world.home.lifetime = Lifetime(max_age_s=0.0, stale_while_revalidate_s=60.0, stale_if_error_s=60.0)
    client = await world.edge()
    await items(client, SIMILAR)
    world.home.mode = "refuse"
    for _ in range(5):
        assert (await items(client, SIMILAR))[0] == "stale"
        await until(lambda: asked(world, 2))
    assert len(world.home.calls("/v1/recommend")) == 2


async def test_a_caller_who_excludes_everything_is_told(world: World) -> None:
    world.source.down = True
    world.home.items = 3
    client = await world.edge()
    assert len((await items(client, f"{POPULAR}?exclude=popular-0"))[1]) == 2
    response = await client.get(f"{POPULAR}?exclude=popular-0,popular-1,popular-2")
    assert response.status == 400
    assert "Exclude fewer items" in await response.text()


async def test_free_text_of_the_trace_goes_no_further(world: World) -> None:
    client = await world.edge()
    world.kill("home", "replica")
    trace = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "who=alice"}
    await items(client, POPULAR, headers=trace)
    assert world.near.requests
    assert not any("alice" in str(headers) for _, headers, _ in world.near.requests)


# ---- invalidation


async def test_an_event_changes_the_next_list(world: World) -> None:
    client = await world.edge()
    token = world.token()
    await items(client, PERSONAL, headers=token)
    world.home.versions[world.subject()] = 1
    await tell(world, Invalidation(subject=world.subject(), subject_version=1, consumed=("p-1", "popular-0")))
    step, page = await items(client, f"{PERSONAL}?n=3", headers=token)
    assert (step, page) == ("home", ["p-0", "p-2", "p-3"])
    assert (await items(client, f"{PERSONAL}?n=3", headers=token))[0] == "fresh"
    assert (await items(client, f"{POPULAR}?n=1", headers=token))[1] == ["popular-1"]
    assert (await items(client, f"{POPULAR}?n=1"))[1] == ["popular-0"]


async def test_an_overtaken_list_is_served_only_if_home_is_gone_and_without_what_was_consumed(world: World) -> None:
    client = await world.edge()
    token = world.token()
    await items(client, PERSONAL, headers=token)
    world.kill("home", "replica")
    await tell(world, Invalidation(subject=world.subject(), subject_version=1, consumed=("p-0",)))
    step, page = await items(client, f"{PERSONAL}?n=2", headers=token)
    assert (step, page) == ("stale", ["p-1", "p-2"])


async def test_withdrawn_items_leave_every_list_at_once(world: World) -> None:
    client = await world.edge()
    await has_lists(world, client)
    await items(client, POPULAR)
    await tell(world, Invalidation(withdrawn=("popular-0", "r-4")))
    step, page = await items(client, f"{POPULAR}?n=2")
    assert (step, page) == ("fresh", ["popular-1", "popular-2"])
    world.kill("home", "replica", "near", "far")
    assert "r-4" not in (await items(client, SIMILAR))[1]
    await tell(world, Invalidation(restored=("popular-0",)))
    assert (await items(client, f"{POPULAR}?n=2"))[1] == ["popular-0", "popular-1"]


async def test_a_release_switch_reaches_lists_and_fallbacks(world: World) -> None:
    client = await world.edge()
    await has_lists(world, client)
    await items(client, POPULAR)
    old, new = world.home.release, world.source.publish(release_lists("q"))
    world.home.release = new
    await tell(world, Invalidation(release=new))
    # For moments the list of before is shown, and made anew behind the caller's back.
    assert (await client.get(POPULAR)).headers["Atoll-Step"] == "stale"

    async def switched() -> bool:
        response = await client.get(POPULAR)
        return response.headers["Atoll-Release"] == new and response.headers["Atoll-Step"] == "fresh"

    await until(switched)
    # Back again, the list of before is there at once, whoever answers.
    world.kill("home", "replica", "near", "far")
    await tell(world, Invalidation(release=old))
    response = await client.get(POPULAR)
    assert (response.headers["Atoll-Release"], response.headers["Atoll-Step"]) == (old, "fresh")

    async def followed() -> bool:
        response = await client.get("/v1/recommendations/trending")
        return response.headers["Atoll-Release"] == old

    await until(followed)


async def test_opting_out_holds_at_once_and_even_without_home(world: World) -> None:
    client = await world.edge()
    await has_lists(world, client)
    token = world.token()
    await items(client, PERSONAL, headers=token)
    response = await client.put("/v1/privacy/opt-out", json={"opted_out": True}, headers=token)
    assert (response.status, await response.json()) == (200, {"opted_out": True})
    world.kill("home", "replica", "near", "far")
    vector = {"Atoll-User-Vector": vector_header(1, 2, 3, 4), "Atoll-Vector-Release": "0" * 20}
    step, page = await items(client, PERSONAL, headers={**token, **vector})
    assert step == "release"
    assert not any(item.startswith("p-") for item in page)


async def test_a_list_from_before_an_opt_out_does_not_come_back_when_the_edge_forgets_who_opted_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.cache.invalidation.SUBJECTS_MAX", 1)
    client = await world.edge()
    await has_lists(world, client)
    token = world.token()
    await items(client, PERSONAL, headers=token)
    assert (await client.put("/v1/privacy/opt-out", json={"opted_out": True}, headers=token)).status == 200
    assert (
        await client.put("/v1/privacy/opt-out", json={"opted_out": False}, headers=world.token("bob"))
    ).status == 200
    world.kill("home", "replica", "near", "far")
    step, page = await items(client, PERSONAL, headers=token)
    assert step == "release"
    assert not any(item.startswith("p-") for item in page)


async def test_a_travellers_choice_is_made_at_home(world: World) -> None:
    client = await world.edge()
    response = await client.put(
        "/v1/privacy/opt-out", json={"opted_out": True}, headers=world.token("bob", region="near")
    )
    assert (response.status, await response.json()) == (200, {"opted_out": True})
    assert world.near.versions == {world.subject("bob", "near"): 1}
    assert not world.home.versions


async def test_opting_out_needs_a_token_and_the_home_region(world: World) -> None:
    client = await world.edge()
    choice = {"opted_out": True}
    assert (await client.put("/v1/privacy/opt-out", json=choice)).status == 401
    bad = await client.put("/v1/privacy/opt-out", json={"opted_out": "maybe"}, headers=world.token())
    assert bad.status == 400
    assert "opted_out" in (await bad.text())
    world.kill("home", "replica")
    down = await client.put("/v1/privacy/opt-out", json=choice, headers=world.token())
    assert down.status == 503


async def test_a_user_gets_everything_and_is_forgotten_at_home_only(world: World) -> None:
    client = await world.edge()
    token = world.token()
    await items(client, PERSONAL, headers=token)
    response = await client.get("/v1/privacy/export", headers=token)
    assert (response.status, response.headers["Cache-Control"]) == (200, "no-store")
    assert await response.json() == {"subject": world.subject()}
    response = await client.get("/v1/privacy/why/p-1?locale=de", headers=token)
    assert await response.json() == {"subject": world.subject(), "item": "p-1", "locale": "de"}
    assert (await client.get("/v1/privacy/why/p-1?locale=!", headers=token)).status == 400
    assert (await client.get("/v1/privacy/why/p-1")).status == 401
    calls = len(world.home.calls("/v1/recommend")) + len(world.replica.calls("/v1/recommend"))
    response = await client.delete("/v1/privacy/me", headers=token)
    assert (response.status, await response.json()) == (200, {"receipt": {"mark": "m"}, "signature": "s"})
    await items(client, PERSONAL, headers=token)
    # The list of before is gone from this edge: it is made anew.
    assert len(world.home.calls("/v1/recommend")) + len(world.replica.calls("/v1/recommend")) == calls + 1
    away = await client.delete("/v1/privacy/me", headers=world.token("bob", region="near"))
    assert away.status == 403
    assert "Send this call to an edge of near" in await away.text()
    assert (await client.get("/v1/privacy/export")).status == 401
    world.kill("home", "replica")
    assert (await client.delete("/v1/privacy/me", headers=token)).status == 503


# ---- travellers


async def test_a_traveller_gets_the_home_regions_list_through_a_sealed_relay(world: World) -> None:
    client = await world.edge()
    token = world.token("bob", region="near")
    for _ in range(2):
        response = await client.get(f"{PERSONAL}?n=3", headers=token)
        body = await response.json()
        assert [item["item"] for item in body["items"]] == ["p-0", "p-1", "p-2"]
        assert (response.headers["Atoll-Step"], response.headers["Atoll-Region"]) == ("home", "near")
        assert "fwd=bypass" in response.headers["Cache-Status"]
    assert len(world.near.calls("/v1/relay")) == 2, "nothing of a traveller is kept"
    assert not world.home.calls("/v1/recommend")
    for body_sent in world.near.calls("/v1/relay"):
        assert token["Authorization"].split()[1].encode() not in body_sent
        assert world.subject("bob", "near").encode() not in body_sent


async def test_a_traveller_whose_home_is_gone_gets_this_regions_lists(world: World) -> None:
    client = await world.edge()
    await has_lists(world, client)
    token = world.token("bob", region="near")
    for mode in ("error", "garbage", "empty"):
        world.near.mode = mode
        step, page = await items(client, PERSONAL, headers=token)
        assert (step, page[0]) == ("failover", "popular-0")
    world.near.mode = "ok"
    world.near.relay_status = 503
    assert (await items(client, PERSONAL, headers=token))[0] == "failover"
    assert b'"subject":null' in world.home.calls("/v1/recommend")[0]
    vector = {"Atoll-User-Vector": vector_header(1, 2, 3, 4), "Atoll-Vector-Release": "0" * 20}
    assert (await items(client, PERSONAL, headers={**token, **vector}))[0] == "failover-vector"
    world.kill("home", "replica")
    step, page = await items(client, PERSONAL, headers={**token, **vector})
    assert (step, page[0]) == ("failover-vector", "away-vector-0")
    world.kill("near", "far")
    assert (await items(client, PERSONAL, headers={**token, **vector}))[0] in ("release", "failover")


async def test_what_a_travellers_home_says_about_the_token_counts(world: World) -> None:
    client = await world.edge()
    world.near.relay_status = 401
    assert (await client.get(PERSONAL, headers=world.token("bob", region="near"))).status == 401
    world.near.relay_status = 400
    assert (await client.get(PERSONAL, headers=world.token("bob", region="near"))).status == 400


# ---- events

EVENT = {"event_id": "event-0001", "type": "view", "item": "i", "at_ms": 1_700_000_000_000}


async def test_events_are_acknowledged_by_the_home_region(world: World) -> None:
    client = await world.edge()
    for headers, subject in (
        (world.token(), world.subject()),
        ({"Atoll-Session": "session-one"}, world.keys["here"].session_subject("session-one")),
    ):
        response = await client.post("/v1/events", json={"events": [EVENT]}, headers=headers)
        assert response.status == 200
        assert await response.json() == {"accepted": 1, "duplicates": 0, "rejected": []}
        assert msgspec.json.decode(world.home.calls("/v1/events")[-1])["subject"] == subject
    relayed = await client.post(
        "/v1/events", json={"events": [EVENT, EVENT]}, headers=world.token("bob", region="near")
    )
    assert (await relayed.json())["accepted"] == 2
    assert b"event-0001" not in world.near.calls("/v1/relay")[0]


async def test_events_that_cannot_be_stored_are_handed_back(world: World) -> None:
    client = await world.edge()
    world.kill("home", "replica", "near")
    for headers in (world.token(), world.token("bob", region="near")):
        response = await client.post("/v1/events", json={"events": [EVENT]}, headers=headers)
        assert response.status == 503
        assert response.headers["Retry-After"]
    world.home.mode = world.replica.mode = "overloaded"
    world.home.ready = False
    response = await client.post("/v1/events", json={"events": [EVENT]}, headers=world.token())
    assert response.status == 503


async def test_events_a_region_refuses_are_the_callers_matter(world: World) -> None:
    client = await world.edge()
    world.home.mode = "refuse"
    assert (await client.post("/v1/events", json={"events": [EVENT]}, headers=world.token())).status == 400


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not a batch of events"),
        (b"{", "not a batch of events"),
        (b"\xff\xfe", "not a batch of events"),
        (b"[]", "not a batch of events"),
        (b'{"events":[]}', "1 to 500"),
        (msgspec.json.encode({"events": [EVENT] * 501}), "1 to 500"),
        (msgspec.json.encode({"events": [{**EVENT, "type": "<script>"}]}), "$.events[0].type"),
        (msgspec.json.encode({"events": [EVENT], "subject": "somebody-else"}), "Send JSON with: events"),
        (b'{"events":[{"event_id":1}]}', "$.events[0]"),
    ],
)
async def test_bad_batches_are_refused(world: World, body: bytes, says: str) -> None:
    client = await world.edge()
    response = await client.post("/v1/events", data=body, headers=world.token())
    text = await response.text()
    assert response.status == 400
    assert says in text
    assert "<script>" not in text
    assert "somebody-else" not in text
    assert not world.home.requests


async def test_events_of_nobody_and_of_ten_megabytes_are_refused(world: World) -> None:
    client = await world.edge()
    assert (await client.post("/v1/events", json={"events": [EVENT]})).status == 401
    large = await client.post("/v1/events", data=io.BytesIO(b"x" * 10_000_000), headers=world.token())
    assert large.status == 413


# ---- limits and telemetry


async def test_one_caller_cannot_take_everything(world: World) -> None:
    client = await world.edge(requests_per_caller_s=1.0, burst_per_caller=3.0)
    token = world.token()
    statuses = [(await client.get(PERSONAL, headers=token)).status for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    refused = await client.get(PERSONAL, headers=token)
    assert refused.headers["Retry-After"]
    assert (await client.get(PERSONAL, headers=world.token("bob"))).status == 200
    assert (await client.post("/v1/events", json={"events": [EVENT]}, headers=token)).status == 429
    assert (await client.put("/v1/privacy/opt-out", json={"opted_out": True}, headers=token)).status == 429


async def test_guessing_tokens_is_not_free(world: World) -> None:
    client = await world.edge(requests_per_address_s=0.001, burst_per_address=2.0)
    guess = {"Authorization": "Bearer guess"}
    assert [(await client.get(PERSONAL, headers=guess)).status for _ in range(3)] == [401, 401, 429]


async def test_nobody_is_named_in_spans_metrics_and_logs(world: World) -> None:
    client = await world.edge()
    await has_lists(world, client)
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {
        **world.token("alice"), "Atoll-Session": "session-one", "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01",
    }  # fmt: skip
    await client.get(f"{PERSONAL}?exclude=secret-item", headers=headers)
    await client.get(f"{SESSION}?recent=secret-item", headers=headers)
    await client.post("/v1/events", json={"events": [{**EVENT, "item": "secret-item"}]}, headers=headers)
    world.kill("home", "replica")
    await client.get(PERSONAL, headers=headers)
    sent = next(seen for path, seen, _ in world.home.requests if path == "/v1/recommend")
    assert trace_id in sent["Traceparent" if "Traceparent" in sent else "traceparent"]
    metrics = await (await client.get("/metrics")).text()
    assert 'atoll_edge_answers_total{step="home",type="personal"} 1.0' in metrics
    assert world.telemetry is not None
    world.telemetry.close()
    written = metrics + "".join(path.read_text() for path in world.directory.glob("*.*") if path.is_file())
    assert trace_id in written
    assert "POST /v1/recommend" in written
    for secret in ("alice", world.subject(), "session-one", "secret-item", headers["Authorization"].split()[1],
                   world.keys["here"].session_subject("session-one"), world.keys["here"].service_key):  # fmt: skip
        assert secret not in written


async def test_a_list_in_demand_is_made_anew_before_it_runs_out(world: World) -> None:
    """Nobody ever gets it stale, and nobody waits for the new one."""
    client = await world.edge()
    world.home.lifetime = Lifetime(max_age_s=0.5, stale_while_revalidate_s=5.0, stale_if_error_s=5.0)
    await items(client, POPULAR)
    world.home.delay_s = 0.001
    steps = {(await items(client, POPULAR))[0] for _ in range(3)}

    async def made_again() -> bool:
        steps.add((await items(client, POPULAR))[0])
        return len(world.home.calls("/v1/recommend")) > 1

    await until(made_again)
    assert "home" not in steps
