"""Warm-up before ready, drain before the end."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge.answering.warming import GRID_NAME, KEYS_MAX, Warmer, WarmKey, audience_keys, keys_in, read_keys
from edge.app import DRAIN
from edge.cache.entry import Entry
from edge.cache.l1 import L1Cache
from edge.cache.policy import Life
from infra.contracts.lists import ListKey
from infra.contracts.messages import HomeRequest, RecommendationType, Surface
from infra.plumbing.clock import SystemClock
from infra.plumbing.grid.memory import MemoryGrid
from infra.plumbing.grid.port import GridUnavailableError
from tests.unit.edge.conftest import World
from tests.unit.edge.fakes import answer
from tests.unit.edge.raw import head, wire
from tests.unit.edge.test_api import POPULAR, items, until


def key(number: int = 0, **changes: Any) -> ListKey:
    fields = {"type": RecommendationType.POPULAR, "surface": Surface.HOME, "category": f"c{number}", **changes}
    return ListKey(**fields)


def test_only_what_belongs_to_everybody_is_written_down_most_wanted_first() -> None:
    cache: L1Cache[Entry] = L1Cache(bytes_max=1 << 30)
    for number in range(KEYS_MAX + 5):
        entry = Entry(answer(), Life(1, 2, 3), made_s=0.0, asked=10)
        cache.put(key(number), entry)
        entry.hits = number
    for changes in ({"subject": "s"}, {"recent": ("a",)}, {"away": True}, {"arm": "trial"}):
        entry = Entry(answer(), Life(1, 2, 3), made_s=0.0, asked=10)
        cache.put(key(1, **changes), entry)
        entry.hits = 1_000
    personal = Entry(answer(personal=True), Life(1, 2, 3), made_s=0.0, asked=10)
    cache.put(key(-1), personal)
    personal.hits = 1_000
    keys = audience_keys(cache)
    assert [warm.key.category for warm in keys[:2]] == ["c204", "c203"]
    assert len(keys) == KEYS_MAX


def test_what_cannot_be_read_or_is_personal_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    assert read_keys(path) == []
    path.write_text("{")
    assert read_keys(path) == []
    path.write_bytes(msgspec.json.encode([WarmKey(key(1, subject="s"), 10), WarmKey(key(2), 10)]))
    assert [warm.key.category for warm in read_keys(path)] == ["c2"]


async def test_a_node_is_ready_once_what_was_in_demand_is_there(world: World) -> None:
    directory = world.directory / "edge-0"
    directory.mkdir()
    warm = WarmKey(ListKey(RecommendationType.POPULAR, Surface.HOME), 10)
    (directory / "warm-keys.json").write_bytes(msgspec.json.encode([warm]))
    client = await world.edge(warm_within_s=20.0)

    async def ready() -> bool:
        return (await client.get("/health/ready")).status == 200

    await until(ready)
    assert len(world.home.calls("/v1/recommend")) == 1
    assert (await items(client, POPULAR))[0] == "fresh"


async def test_a_new_node_learns_from_its_neighbours_what_is_in_demand(world: World) -> None:
    warm = [WarmKey(key(number), 10) for number in range(2)] + [WarmKey(key(2, subject="s"), 10)]
    await world.grid.put(GRID_NAME, msgspec.json.encode(warm), ttl_s=60.0)
    client = await world.edge(warm_within_s=20.0)

    async def ready() -> bool:
        return (await client.get("/health/ready")).status == 200

    await until(ready)
    asked = [msgspec.json.decode(call, type=HomeRequest).category for call in world.home.calls("/v1/recommend")]
    assert sorted(str(category) for category in asked) == ["c0", "c1"]


class _NoGrid(MemoryGrid):
    async def get(self, key: str) -> bytes | None:
        raise GridUnavailableError("gone.")

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        raise GridUnavailableError("gone.")


@pytest.mark.parametrize("kind", [MemoryGrid, _NoGrid])
async def test_what_is_in_demand_is_told_to_who_comes_new(tmp_path: Path, kind: type[MemoryGrid]) -> None:
    cache: L1Cache[Entry] = L1Cache(bytes_max=1 << 30)
    cache.put(key(7), Entry(answer(), Life(1, 2, 3), made_s=0.0, asked=10))
    grid = kind(clock=SystemClock())
    unused: Any = None
    path = tmp_path / "keys"
    warmer = Warmer(path=path, cache=cache, filler=unused, dispatcher=unused, grid=grid, within_s=1.0)
    await warmer.write()
    assert [warm.key.category for warm in read_keys(path)] == ["c7"]
    told = await MemoryGrid.get(grid, GRID_NAME)
    assert (told is not None) == (kind is MemoryGrid)
    assert keys_in(told or b"[]") == (read_keys(path) if told else [])


async def test_a_region_that_does_not_answer_keeps_no_node_from_being_ready(world: World) -> None:
    directory = world.directory / "edge-0"
    directory.mkdir()
    warm = [WarmKey(key(number), 10) for number in range(3)]
    (directory / "warm-keys.json").write_bytes(msgspec.json.encode(warm))
    world.home.mode = world.replica.mode = "hang"
    client = await world.edge(warm_within_s=0.05)

    async def ready() -> bool:
        return (await client.get("/health/ready")).status == 200

    await until(ready)


async def test_while_it_drains_every_answer_ends_its_connection(world: World) -> None:
    client = await world.edge()
    for _ in range(2):
        await (await client.get(POPULAR)).read()
    async with wire(client) as line:
        client.server.app[DRAIN].announced = True  # type: ignore[attr-defined]
        response = await client.get("/health/ready")
        assert response.status == 503
        assert "draining" in json.loads(await response.read())["for"]
        assert b"\r\nConnection: close\r\n" not in await line.ask(head(POPULAR))
        client.server.app[DRAIN].begun = True  # type: ignore[attr-defined]
        assert b"\r\nConnection: close\r\n" in await line.ask(head(POPULAR))
        assert await line.rest() == b""
    response = await client.get("/health/ready")
    assert response.status == 503
    assert "draining" in json.loads(await response.read())["for"]
