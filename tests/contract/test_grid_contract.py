"""What every grid must do; run against all of them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.local.servers.plans import HAZELCAST_HEAP_SHARE_MB, grid_address
from infra.plumbing.addresses import parse_address
from infra.plumbing.clock import ManualClock, SystemClock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.grid.client import SocketGrid
from infra.plumbing.grid.hazelcast import HazelcastGrid
from infra.plumbing.grid.memory import MemoryGrid
from infra.plumbing.grid.port import KEY_BYTES_MAX, VALUE_BYTES_MAX, Grid, GridUnavailableError
from infra.plumbing.grid.server import GridServer
from tests.support.servers import Servers

BYTES_MAX = 4 << 20


def hazelcast(servers: Servers, clock: ManualClock) -> HazelcastGrid:
    address = parse_address(grid_address(servers.hazelcast), scheme="hazelcast")
    return HazelcastGrid(address, clock=clock, call_timeout_s=10.0, publish_timeout_s=10.0)


async def forget_everything(grid: HazelcastGrid) -> None:
    await grid.get("k")
    assert grid._link is not None
    await grid._link.entries.clear()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "socket", "hazelcast"])
async def grid(request: pytest.FixtureRequest, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Grid]:
    if request.param == "hazelcast":
        servers: Servers = request.getfixturevalue("servers")
        opened = hazelcast(servers, clock)
        await forget_everything(opened)
        yield opened
        await opened.close()
        return
    if request.param == "memory":
        memory = MemoryGrid(clock=clock, bytes_max=BYTES_MAX)
        yield memory
        await memory.close()
        return
    server = GridServer(bytes_max=BYTES_MAX, clock=clock)
    await server.start(tmp_path / "grid.sock")
    client = SocketGrid(tmp_path / "grid.sock", clock=SystemClock(), call_timeout_s=5.0, publish_timeout_s=5.0)
    yield client
    await client.close()
    await server.close()


async def test_a_value_is_there_until_it_is_forgotten(grid: Grid) -> None:
    assert await grid.get("k") is None
    await grid.put("k", b"one", ttl_s=10)
    assert await grid.get("k") == b"one"
    await grid.put("k", b"two", ttl_s=10)
    assert await grid.get("k") == b"two"
    await grid.delete("k")
    await grid.delete("k")
    assert await grid.get("k") is None


async def test_a_value_runs_out(grid: Grid, clock: ManualClock) -> None:
    await grid.put("short", b"1", ttl_s=1.0)
    await grid.put("long", b"2", ttl_s=60.0)
    await grid.put("never", b"3", ttl_s=0.0)
    assert await grid.get("never") is None
    clock.advance(0.999)
    assert await grid.get("short") == b"1"
    clock.advance(0.001)
    assert await grid.get("short") is None
    assert await grid.get("long") == b"2"


async def test_any_bytes_and_an_empty_value_are_values(grid: Grid) -> None:
    content = bytes(range(256)) * 100
    await grid.put("ключ", content, ttl_s=10)
    await grid.put("empty", b"", ttl_s=10)
    assert await grid.get("ключ") == content
    assert await grid.get("empty") == b""


async def test_sizes_are_bounded(grid: Grid) -> None:
    await grid.put("k" * KEY_BYTES_MAX, b"x" * VALUE_BYTES_MAX, ttl_s=10)
    assert await grid.get("k" * KEY_BYTES_MAX) == b"x" * VALUE_BYTES_MAX
    for key in ("", "k" * (KEY_BYTES_MAX + 1), "\ud800"):
        with pytest.raises(InvalidInputError):
            await grid.get(key)
    with pytest.raises(InvalidInputError):
        await grid.put("k", b"x" * (VALUE_BYTES_MAX + 1), ttl_s=10)
    with pytest.raises(InvalidInputError):
        await grid.publish("t", b"x" * (VALUE_BYTES_MAX + 1))


async def test_the_least_recently_used_leave_first(grid: Grid) -> None:
    if isinstance(grid, HazelcastGrid):
        await check_that_it_stays_within_its_heap(grid)
        return
    for number in range(4):
        await grid.put(f"k{number}", bytes(1_000_000), ttl_s=60)
    assert await grid.get("k0") is not None
    await grid.put("k4", bytes(1_000_000), ttl_s=60)
    there = [number for number in range(5) if await grid.get(f"k{number}") is not None]
    assert there == [0, 2, 3, 4]


async def check_that_it_stays_within_its_heap(grid: HazelcastGrid) -> None:
    """Hazelcast evicts by samples: who leaves is roughly, how much stays is surely."""
    total = 2 * HAZELCAST_HEAP_SHARE_MB
    for number in range(total):
        await grid.put(f"k{number}", bytes(1_000_000), ttl_s=600)
    there = [number for number in range(total) if await grid.get(f"k{number}") is not None]
    assert 0 < len(there) < 1.2 * HAZELCAST_HEAP_SHARE_MB
    await forget_everything(grid)


async def test_concurrent_calls_answer_their_own_callers(grid: Grid) -> None:
    await asyncio.gather(*(grid.put(f"k{number}", str(number).encode(), ttl_s=60) for number in range(500)))
    values = await asyncio.gather(*(grid.get(f"k{number}") for number in range(500)))
    assert values == [str(number).encode() for number in range(500)]


async def test_a_topic_reaches_every_subscriber_in_order(grid: Grid) -> None:
    first, second, other = grid.subscribe("t"), grid.subscribe("t"), grid.subscribe("u")
    async with asyncio.timeout(5):
        assert [await anext(one) for one in (first, second, other)] == [None, None, None]
        for number in range(3):
            await grid.publish("t", str(number).encode())
        await grid.publish("u", b"")
        for subscriber in (first, second):
            assert [await anext(subscriber) for _ in range(3)] == [b"0", b"1", b"2"]
        assert await anext(other) == b""
        late = grid.subscribe("t")
        assert await anext(late) is None
        await grid.publish("t", b"3")
        assert await anext(late) == b"3"


async def test_publishing_to_nobody_is_no_error(grid: Grid) -> None:
    await grid.publish("nobody", b"x")


async def test_after_close_calls_fail_at_once_and_subscriptions_end(grid: Grid) -> None:
    subscription = grid.subscribe("t")
    async with asyncio.timeout(5):
        assert await anext(subscription) is None
        await grid.close()
        with pytest.raises(StopAsyncIteration):
            await anext(subscription)
        for call in (grid.get("k"), grid.put("k", b"", ttl_s=1), grid.delete("k"), grid.publish("t", b"")):
            with pytest.raises(GridUnavailableError):
                await call
