"""Every rung's answer says what RFC 9211 (Cache-Status), RFC 9111 (Age, Cache-Control) and RFC 9110 (ETag, 304) ask."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from edge.cache.words import forwarded_status, hit_status, unforwarded_status
from infra.contracts.messages import Invalidation, Lifetime
from tests.unit.edge.conftest import World
from tests.unit.edge.fakes import vector_header
from tests.unit.edge.test_api import PERSONAL, POPULAR, SESSION, SIMILAR, has_lists, items, tell, until

Client = TestClient[Any, Any]
FWD = ("bypass", "method", "uri-miss", "vary-miss", "miss", "request", "stale", "partial")
"""RFC 9211, 2.2."""
_MEMBER = re.compile(r"(?P<cache>atoll-(?:edge|grid))(?P<parameters>(?:; [a-z-]+(?:=-?[a-z0-9-]+)?)*)")
REVALIDATE = "private, max-age=0, must-revalidate"
SHORT = Lifetime(max_age_s=0.0, stale_while_revalidate_s=60.0, stale_if_error_s=600.0)
OLD = Lifetime(max_age_s=0.0, stale_while_revalidate_s=0.0, stale_if_error_s=600.0)


def parse(words: str) -> list[dict[str, str | bool]]:
    """The members of a `Cache-Status`, each with its cache's name and parameters; checks what the RFC fixes."""
    members: list[dict[str, str | bool]] = []
    for text in words.split(", "):
        found = _MEMBER.fullmatch(text)
        assert found is not None, words
        pairs = [one.partition("=") for one in found["parameters"].split("; ")[1:]]
        parameters: dict[str, str | bool] = {name: value or True for name, _, value in pairs}
        assert len(parameters) == len(pairs), f"a parameter twice: {words}"
        assert not {"hit", "fwd"} <= parameters.keys(), f"hit and fwd exclude each other: {words}"
        assert parameters.get("hit", True) is True
        assert parameters.get("fwd", "miss") in FWD
        assert all(re.fullmatch(r"-?\d+", str(parameters[name])) for name in ("ttl",) if name in parameters)
        # 2.5 and 2.6: only of what went forward.
        assert "fwd" in parameters or not {"stored", "collapsed", "fwd-status"} & parameters.keys(), words
        members.append({"cache": found["cache"], **parameters})
    return members


@dataclass(frozen=True)
class Case:
    """One rung: how it comes to answer, and what it must say. `says`: parameters of the last member, without `ttl`."""

    name: str
    step: str
    says: dict[str, str | bool]
    scene: Callable[[World, Client], Awaitable[tuple[str, dict[str, str]]]]
    ttl: str = ""
    """Sign of `ttl`: `+` (0 or more), `-` (0 or less), or none at all."""
    reusable: bool = False
    """Whether the caller's own cache may use it without asking."""
    grid: bool = False


async def first_call(_world: World, _client: Client) -> tuple[str, dict[str, str]]:
    return POPULAR, {}


async def first_personal(world: World, _client: Client) -> tuple[str, dict[str, str]]:
    return PERSONAL, world.token()


async def first_session(_world: World, _client: Client) -> tuple[str, dict[str, str]]:
    return f"{SESSION}?recent=r-1", {"Atoll-Session": "s" * 20}


async def asked_before(_world: World, client: Client) -> tuple[str, dict[str, str]]:
    await items(client, POPULAR)
    return POPULAR, {}


async def personal_asked_before(world: World, client: Client) -> tuple[str, dict[str, str]]:
    await items(client, PERSONAL, headers=world.token())
    return PERSONAL, world.token()


async def longer_page(world: World, client: Client) -> tuple[str, dict[str, str]]:
    world.home.items = None
    await items(client, f"{POPULAR}?n=2")
    return f"{POPULAR}?n=50", {}


async def by_the_replica(world: World, _client: Client) -> tuple[str, dict[str, str]]:
    world.home.mode = "error"
    return SIMILAR, {}


async def behind_the_back(world: World, client: Client) -> tuple[str, dict[str, str]]:
    world.home.lifetime = SHORT
    await items(client, POPULAR)
    return POPULAR, {}


async def run_out(world: World, client: Client) -> tuple[str, dict[str, str]]:
    world.home.lifetime = OLD
    await items(client, POPULAR)
    return POPULAR, {}


async def home_gone(world: World, client: Client) -> tuple[str, dict[str, str]]:
    await run_out(world, client)
    world.kill("home", "replica")
    return POPULAR, {}


async def by_the_grid(world: World, _client: Client) -> tuple[str, dict[str, str]]:
    other = await world.edge()
    await items(other, SIMILAR)

    async def shared() -> bool:
        step, _ = await items(await world.edge(), SIMILAR)
        return step == "grid"

    await until(shared)
    return SIMILAR, {}


async def with_a_vector(world: World, client: Client) -> tuple[str, dict[str, str]]:
    await has_lists(world, client)
    world.kill("home", "replica")
    return PERSONAL, {
        **world.token(), "Atoll-User-Vector": vector_header(1, 2, 3, 4), "Atoll-Vector-Release": "0" * 20
    }  # fmt: skip


async def another_region(world: World, _client: Client) -> tuple[str, dict[str, str]]:
    world.kill("home", "replica")
    return POPULAR, {}


async def another_region_again(world: World, client: Client) -> tuple[str, dict[str, str]]:
    world.kill("home", "replica")
    await items(client, POPULAR)
    return POPULAR, {}


async def nobody(world: World, client: Client) -> tuple[str, dict[str, str]]:
    await has_lists(world, client)
    world.kill("home", "replica", "near", "far")
    return POPULAR, {}


async def refused_now(world: World, client: Client) -> tuple[str, dict[str, str]]:
    await has_lists(world, client)
    world.home.mode = world.replica.mode = "refuse"
    return SIMILAR, {}


async def refused_lately(world: World, client: Client) -> tuple[str, dict[str, str]]:
    await refused_now(world, client)
    await items(client, SIMILAR)
    return SIMILAR, {}


async def explained(_world: World, client: Client) -> tuple[str, dict[str, str]]:
    await items(client, POPULAR)
    return f"{POPULAR}?explain=1", {}


async def travelling(world: World, _client: Client) -> tuple[str, dict[str, str]]:
    return PERSONAL, world.token(region="near")


async def not_to_be_kept(world: World, _client: Client) -> tuple[str, dict[str, str]]:
    world.home.lifetime = Lifetime(max_age_s=0.0, stale_while_revalidate_s=0.0, stale_if_error_s=0.0)
    return POPULAR, {}


CASES = (
    Case("home", "home", {"fwd": "uri-miss", "stored": True}, first_call, reusable=True),
    Case("home, personal", "home", {"fwd": "miss", "stored": True}, first_personal),
    Case("home, session", "home", {"fwd": "miss", "stored": True}, first_session),
    Case("home, not to be kept", "home", {"fwd": "uri-miss"}, not_to_be_kept),
    Case("home, after a shorter page", "home", {"fwd": "partial", "stored": True}, longer_page, reusable=True),
    Case("home, after one that ran out", "home", {"fwd": "stale", "stored": True}, run_out),
    Case("replica", "replica", {"fwd": "uri-miss", "stored": True}, by_the_replica, reusable=True),
    Case("fresh", "fresh", {"hit": True}, asked_before, ttl="+", reusable=True),
    Case("fresh, personal", "fresh", {"hit": True}, personal_asked_before, ttl="+"),
    Case("grid", "grid", {"fwd": "uri-miss", "stored": True}, by_the_grid, reusable=True, grid=True),
    Case("stale, refreshed behind", "stale", {"hit": True}, behind_the_back, ttl="-"),
    Case("stale, home gone", "stale", {"fwd": "stale", "detail": "stale-if-error"}, home_gone, ttl="-"),
    Case("failover-vector", "failover-vector", {"fwd": "bypass"}, with_a_vector),
    Case("failover", "failover", {"fwd": "uri-miss", "stored": True, "detail": "failover"}, another_region),
    Case("failover, kept", "failover", {"fwd": "uri-miss", "detail": "failover"}, another_region_again),
    Case("release", "release", {"fwd": "miss", "detail": "release-lists"}, nobody),
    Case("release, refused", "release", {"fwd": "miss", "detail": "release-lists"}, refused_now),
    Case("release, refused lately", "release", {"detail": "refused-lately"}, refused_lately),
    Case("explained", "home", {"fwd": "bypass", "detail": "explain"}, explained),
    Case("relayed", "home", {"fwd": "bypass", "detail": "relayed"}, travelling),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_rung_says_what_the_rfcs_ask(world: World, case: Case) -> None:
    # An entry is drawn a moment before its end from which it is made anew; none comes while a test looks.
    client = await world.edge()
    path, headers = await case.scene(world, client)
    async with client.get(path, headers=headers) as response:
        body = await response.read()
        assert response.status == 200, body
        said = response.headers
        assert said["Atoll-Step"] == case.step
        *before, last = parse(said["Cache-Status"])
        assert last["cache"] == "atoll-edge", "the cache nearest the caller comes last"
        assert {name: value for name, value in last.items() if name not in ("cache", "ttl")} == case.says
        assert [(one["cache"], one["hit"]) for one in before] == ([("atoll-grid", True)] if case.grid else [])
        ttl = last.get("ttl")
        assert (ttl is None) == (case.ttl == "")
        if isinstance(ttl, str):
            assert int(ttl) >= 0 if case.ttl == "+" else int(ttl) <= 0
        assert re.fullmatch(r"\d+", said["Age"])
        assert re.fullmatch(r'"[0-9a-f]{24}"', said["ETag"]), "strong: the tag is of the bytes"
        if case.reusable:
            reuse = re.fullmatch(r"private, max-age=(\d+)", said["Cache-Control"])
            assert reuse is not None
            assert int(said["Age"]) < int(reuse[1]) <= 126
        else:
            assert said["Cache-Control"] == REVALIDATE
        assert "Authorization" in said["Vary"]


@pytest.mark.parametrize("name", ["fresh", "fresh, personal", "stale, refreshed behind", "home"])
async def test_304_carries_what_200_would_have_carried(world: World, name: str) -> None:
    client = await world.edge()
    case = next(case for case in CASES if case.name == name)
    path, headers = await case.scene(world, client)
    etag = ""
    async with client.get(path, headers=headers) as whole:
        etag = whole.headers["ETag"]
    async with client.get(path, headers={**headers, "If-None-Match": f'W/{etag}, "x"'}) as unchanged:
        assert unchanged.status == 304
        assert await unchanged.read() == b""
        # RFC 9110, 15.4.5; and RFC 9211: it was answered from the cache, whatever the status.
        assert unchanged.headers["ETag"] == etag
        assert unchanged.headers.keys() >= {"Cache-Control", "Vary", "Date", "Age", "Cache-Status"}
        assert parse(unchanged.headers["Cache-Status"])[-1]["hit"] is True
        assert "Content-Type" not in unchanged.headers


async def test_a_list_of_before_a_click_is_not_called_fresh(world: World) -> None:
    client = await world.edge()
    await items(client, PERSONAL, headers=world.token())
    world.kill("home", "replica", "near", "far")
    await tell(world, Invalidation(subject=world.subject(), subject_version=9))
    async with client.get(PERSONAL, headers=world.token()) as response:
        assert response.headers["Atoll-Step"] == "stale"
        (said,) = parse(response.headers["Cache-Status"])
        assert said["fwd"] == "stale"
        assert int(str(said["ttl"])) <= 0, "young, and overtaken all the same"


async def test_who_waits_for_anothers_call_is_collapsed(world: World) -> None:
    client = await world.edge()
    world.home.delay_s = 0.2

    async def status() -> str:
        async with client.get(POPULAR) as response:
            return response.headers["Cache-Status"]

    said = [parse(words)[-1] for words in await asyncio.gather(*(status() for _ in range(5)))]
    assert sum("collapsed" in one for one in said) == 4
    assert all(one["fwd"] == "uri-miss" and one["stored"] for one in said)


async def test_age_grows_and_what_callers_may_keep_counts_from_it(world: World) -> None:
    """RFC 9111, 4.2.3 and 5.1: `max-age` is counted from the region's answer, as `Age` is."""
    client = await world.edge()
    await items(client, POPULAR)

    async def aged() -> bool:
        async with client.get(POPULAR) as response:
            return int(response.headers["Age"]) >= 1

    await until(aged)
    async with client.get(POPULAR) as response:
        age_s, words = int(response.headers["Age"]), parse(response.headers["Cache-Status"])[-1]
        max_age_s = int(response.headers["Cache-Control"].rpartition("=")[2])
    assert age_s <= 5
    assert int(str(words["ttl"])) <= 66 - age_s
    assert max_age_s - age_s <= 60


def test_words() -> None:
    assert hit_status(3.9) == "atoll-edge; hit; ttl=3"
    assert hit_status(-0.1) == "atoll-edge; hit; ttl=-1"
    assert hit_status(2.0, cache="atoll-grid") == "atoll-grid; hit; ttl=2"
    assert forwarded_status("stale", ttl_s=-2.5, detail="x") == "atoll-edge; fwd=stale; ttl=-3; detail=x"
    assert forwarded_status("miss", stored=True, collapsed=True) == "atoll-edge; fwd=miss; stored; collapsed"
    assert unforwarded_status("refused-lately") == "atoll-edge; detail=refused-lately"
