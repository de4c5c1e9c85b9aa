"""An edge that starts anew while its region is dark: choices that it did not hear lie in the grid beside the lists."""

import asyncio
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestClient

from edge.cache.shared import SharedLists
from infra.contracts.lists import ChoiceMark, choice_key
from infra.plumbing.clock import SystemClock
from infra.plumbing.grid.memory import MemoryGrid
from infra.plumbing.grid.port import GridUnavailableError
from tests.unit.edge.conftest import World
from tests.unit.edge.fakes import vector_header

PERSONAL = "/v1/recommendations/personal"
EVERYBODY = ("home", "replica", "near", "far")


async def asked(client: TestClient[Any, Any], headers: dict[str, str]) -> tuple[str, bool]:
    """The step, and whether anything personal was shown."""
    async with client.get(PERSONAL, headers=headers) as response:
        assert response.status == 200, await response.text()
        items = (await response.json())["items"]
        assert items
        return response.headers["Atoll-Step"], any(item["item"].startswith("p-") for item in items)


async def mark(world: World, user: str, *, version: int, opted_out: bool | None) -> None:
    content = msgspec.msgpack.encode(ChoiceMark(version=version, opted_out=opted_out))
    await world.grid.put(choice_key(world.subject(user)), content, ttl_s=600)


async def lists_lie_in_the_grid(world: World, users: list[str]) -> None:
    """As many lists as there are users, made at home and shared by an edge that they were asked of."""
    client = await world.edge()
    for user in users:
        assert await asked(client, world.token(user)) == ("home", True)
    async with asyncio.timeout(5):
        while world.metric('atoll_edge_grid_total{outcome="stored"}') < len(users):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)


async def new_edge(world: World) -> TestClient[Any, Any]:
    client = await world.edge()
    async with asyncio.timeout(5):
        while world.metric('atoll_edge_lists_total{outcome="repository"}') < 1:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
    return client


@pytest.mark.parametrize("opted_out", [True, None])
async def test_in_the_dark_nobody_who_chose_otherwise_gets_a_list_of_before(
    world: World, opted_out: bool | None
) -> None:
    await lists_lie_in_the_grid(world, ["alice", "bob"])
    await mark(world, "alice", version=7, opted_out=opted_out)
    world.kill(*EVERYBODY)
    client = await new_edge(world)
    for _ in range(3):
        assert await asked(client, world.token("alice")) == ("release", False)
    # Whoever chose nothing has what the grid holds: what an edge keeps back is for whom it must.
    assert await asked(client, world.token("bob")) in (("grid", True), ("release", False))
    assert await asked(client, world.token("bob")) in (("fresh", True), ("stale", True))


async def test_with_home_at_hand_a_list_of_before_is_made_anew_and_leaves_the_grid(world: World) -> None:
    await lists_lie_in_the_grid(world, ["alice"])
    await mark(world, "alice", version=7, opted_out=True)
    world.home.versions[world.subject()] = 7
    assert (await asked(await new_edge(world), world.token("alice")))[0] == "home"


@pytest.mark.parametrize("opted_out", [True, False])
async def test_in_the_dark_the_vector_of_who_opted_out_is_not_used(world: World, opted_out: bool) -> None:
    client = await new_edge(world)
    await mark(world, "alice", version=7, opted_out=opted_out)
    world.kill("home", "replica")
    vector = {"Atoll-User-Vector": vector_header(1, 2, 3, 4), "Atoll-Vector-Release": world.near.release}
    step, _ = await asked(client, {**world.token("alice"), **vector})
    assert step == ("failover" if opted_out else "failover-vector")


async def test_a_mark_that_cannot_be_read_says_nothing_and_that_is_said() -> None:
    grid = MemoryGrid(clock=SystemClock())
    shared = SharedLists(grid=grid, clock=SystemClock(), timeout_s=1.0, counted=lambda _outcome: None)
    assert await shared.choice("s") is None
    await grid.put(choice_key("s"), b"\xc1", ttl_s=60)
    with pytest.raises(GridUnavailableError, match="cannot be read"):
        await shared.choice("s")
    assert "s" * 32 not in choice_key("s" * 32)
    await grid.close()
