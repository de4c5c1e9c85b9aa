"""One fill per key; nobody's cancellation is anybody else's failure."""

import asyncio

import pytest

from edge.cache.coalescing import Coalescer, wait_for
from infra.plumbing.errors import OverloadedError


class Work:
    def __init__(self) -> None:
        self.started = 0
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> str:
        self.started += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return "list"


async def test_a_thousand_misses_are_one_fill() -> None:
    flights: Coalescer[str] = Coalescer(flights_max=10)
    work = Work()

    async def miss() -> str:
        return await wait_for(flights.join("key", work)[0], timeout_s=5)

    callers = [asyncio.create_task(miss()) for _ in range(1000)]
    await asyncio.sleep(0)
    assert len(flights) == 1
    work.gate.set()
    assert await asyncio.gather(*callers) == ["list"] * 1000
    assert work.started == 1
    assert len(flights) == 0


async def test_a_cancelled_leader_fails_no_follower() -> None:
    flights: Coalescer[str] = Coalescer(flights_max=10)
    work = Work()
    leader = asyncio.create_task(wait_for(flights.join("key", work)[0], timeout_s=5))
    await asyncio.sleep(0)
    task, joined = flights.join("key", work)
    assert joined
    follower = asyncio.create_task(wait_for(task, timeout_s=5))
    await asyncio.sleep(0)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    work.gate.set()
    assert await follower == "list"


async def test_a_late_fill_goes_on_and_its_error_is_not_lost_noise() -> None:
    flights: Coalescer[str] = Coalescer(flights_max=10)
    work = Work()
    work.error = OverloadedError("no.")
    task, _ = flights.join("key", work)
    with pytest.raises(TimeoutError):
        await wait_for(task, timeout_s=0.001)
    work.gate.set()
    await asyncio.wait({task})
    with pytest.raises(OverloadedError):
        await wait_for(task, timeout_s=1)


async def test_flights_are_bounded_and_closing_ends_them() -> None:
    flights: Coalescer[str] = Coalescer(flights_max=1)
    task, _ = flights.join("a", Work())
    with pytest.raises(OverloadedError):
        flights.join("b", Work())
    await flights.close()
    with pytest.raises(TimeoutError):
        await wait_for(task, timeout_s=1)
    assert len(flights) == 0
