"""Suggestions at the edge: asked once for everybody, anew with a token, from the lists when no region answers."""

import asyncio

import msgspec
import pytest

from edge.client import AtollClient
from infra.contracts.discovery import SuggestCall
from infra.plumbing.clock import SystemClock
from tests.unit.edge.conftest import World
from tests.unit.edge.test_api import has_lists


async def test_the_same_letters_are_asked_once_for_everybody(world: World) -> None:
    client = await world.edge()
    for typed in ("Mat", "mat", "MAT"):
        answer = await client.get(f"/v1/suggest?q={typed}&n=3")
    body = await answer.json()
    assert [one["item"] for one in body["suggestions"]] == ["s-0", "s-1", "s-2"]
    assert answer.headers["Cache-Control"] == "public, max-age=60"
    assert len(world.home.calls("/v1/suggest")) == 1


async def test_a_token_brings_its_own_order_which_nobody_keeps(world: World) -> None:
    client = await world.edge()
    for _ in range(2):
        answer = await client.get("/v1/suggest?q=mat", headers=world.token())
    assert answer.headers["Cache-Control"] == "private, no-store"
    calls = [msgspec.json.decode(body, type=SuggestCall) for body in world.home.calls("/v1/suggest")]
    assert [call.subject for call in calls] == [world.subject()] * 2


async def test_every_answer_says_how_old_it_is_and_where_it_was_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await world.edge()
    await has_lists(world, client)
    for path in ("/v1/suggest?q=mat", "/v1/onboarding"):
        first, second = [await client.get(path) for _ in range(2)]
        assert first.headers["Cache-Status"] == "atoll-edge; fwd=uri-miss; stored"
        assert second.headers["Cache-Status"].startswith("atoll-edge; hit; ttl=")
        again = await client.get(path, headers={"If-None-Match": second.headers["ETag"]})
        assert (again.status, again.headers["ETag"]) == (304, first.headers["ETag"])
    own = await client.get("/v1/suggest?q=mat", headers=world.token())
    assert own.headers["Cache-Status"] == "atoll-edge; fwd=bypass"
    # What is kept has run out, and nobody answers: it stands in, and says how old it is.
    now_s = SystemClock.monotonic_s
    monkeypatch.setattr(SystemClock, "monotonic_s", staticmethod(lambda: now_s() + 500.0))
    world.kill("home", "replica")
    for path in ("/v1/suggest?q=mat", "/v1/onboarding"):
        stale = await client.get(path)
        assert (stale.status, int(stale.headers["Age"]) >= 500) == (200, True)
        assert stale.headers["Cache-Status"].startswith("atoll-edge; fwd=stale; ttl=-4")
        assert stale.headers["Cache-Status"].endswith("; detail=stale-if-error")
    unknown = await client.get("/v1/suggest?q=title")
    assert unknown.headers["Cache-Status"] == "atoll-edge; fwd=miss; detail=release-lists"


async def test_bounds(world: World) -> None:
    client = await world.edge()
    assert (await client.get("/v1/suggest")).status == 200
    for words in (f"q={'x' * 101}", "q=a&n=0", "q=a&n=21", "q=a&q=b", "q=%00"):
        assert (await client.get(f"/v1/suggest?{words}")).status == 400
    # A wide blank, a joiner inside a Persian word, a family of emoji, an emoji of after Python 3.11.
    for words in ("進撃\u3000巨人", "می\u200cشد", "👨\u200d👩\u200d👧", "\U0001fae8"):
        assert (await client.get("/v1/suggest", params={"q": words})).status == 200
        assert (await client.get("/v1/recommendations/popular", params={"category": words})).status == 200


async def test_without_a_region_titles_of_the_release_are_looked_through(world: World) -> None:
    client = await world.edge()
    await has_lists(world, client)
    world.kill("home", "replica")
    answer = await client.get("/v1/suggest?q=&n=2")
    assert answer.status == 200
    assert (await answer.json())["degraded"] == ["region"]
    wordless = await (await client.get("/v1/suggest", params={"q": "\U0001f389"})).json()
    assert (wordless["suggestions"], wordless["degraded"]) == ([], ["region", "no-words"])


async def test_the_client_asks_too(world: World) -> None:
    url = str((await world.edge()).make_url("")).rstrip("/")

    def application() -> list[str]:
        with AtollClient(url, timeout_s=5) as atoll:
            return [one.text for one in atoll.suggest("mat", n=2).suggestions]

    assert await asyncio.to_thread(application) == ["mat 0", "mat 1"]
