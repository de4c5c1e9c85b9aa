"""The grid as a cache level: a bad grid costs a request a few milliseconds at most, and is skipped."""

import asyncio

import msgspec

from edge.cache.shared import SharedLists
from infra.contracts.lists import GridValue, ListKey, grid_key
from infra.contracts.messages import RecommendationType, Surface
from infra.plumbing.clock import ManualClock, SystemClock
from infra.plumbing.grid.memory import MemoryGrid
from infra.plumbing.grid.port import GridUnavailableError
from tests.unit.edge.fakes import answer

KEY = ListKey(type=RecommendationType.PERSONAL, surface=Surface.HOME, subject="f" * 32)


class BadGrid(MemoryGrid):
    def __init__(self, *, hang: bool) -> None:
        super().__init__(clock=SystemClock())
        self.hang = hang
        self.calls = 0

    async def get(self, key: str) -> bytes | None:
        self.calls += 1
        if self.hang:
            await asyncio.Event().wait()
        raise GridUnavailableError("down.")

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        await self.get(key)


async def test_what_is_written_is_read_and_keys_name_nobody() -> None:
    counted: list[str] = []
    grid = MemoryGrid(clock=SystemClock())
    shared = SharedLists(grid=grid, clock=SystemClock(), timeout_s=1.0, counted=counted.append)
    assert await shared.read(KEY) is None
    value = GridValue(answer=answer(), asked=10)
    await shared.write(KEY, value, ttl_s=60)
    await shared.write(KEY, value, ttl_s=0)
    assert await shared.read(KEY) == value
    assert "f" * 32 not in grid_key(KEY)
    await grid.put(grid_key(KEY), b"\xc1garbage", ttl_s=60)
    assert await shared.read(KEY) is None
    assert counted == ["miss", "stored", "hit", "malformed"]
    await grid.close()


async def test_a_slow_or_dead_grid_is_left_alone_after_a_few_failures() -> None:
    for hang in (True, False):
        counted: list[str] = []
        clock = ManualClock()
        grid = BadGrid(hang=hang)
        shared = SharedLists(grid=grid, clock=clock, timeout_s=0.001, counted=counted.append)
        for _ in range(10):
            assert await shared.read(KEY) is None
        await shared.write(KEY, GridValue(answer=answer(), asked=10), ttl_s=60)
        assert grid.calls == 3
        assert counted == ["down"] * 3 + ["skipped"] * 8
        clock.advance(1.0)
        await shared.write(KEY, GridValue(answer=answer(), asked=10), ttl_s=60)
        assert grid.calls == 4
        await grid.close()


async def test_a_value_that_is_too_large_is_not_sent() -> None:
    counted: list[str] = []
    shared = SharedLists(grid=MemoryGrid(clock=SystemClock()), clock=SystemClock(), timeout_s=1, counted=counted.append)
    large = msgspec.structs.replace(answer(), arm="x" * (2 << 20))
    await shared.write(KEY, GridValue(answer=large, asked=10), ttl_s=60)
    assert counted == ["too-large"]
