"""Token buckets per caller, shared by the edges of a region; the loop's lag; floods in virtual time."""

import asyncio
import math
import random

from hypothesis import given
from hypothesis import strategies as st

from edge.limits.buckets import HEAVY_SHARE, CallerLimits, Rate
from edge.limits.lag import LOOPS, LoopLag
from edge.limits.sharing import SHARE_S, hear_taken, tell_taken
from infra.plumbing.grid.memory import MemoryGrid
from tests.sim.edge.virtual import LoopClock, run_virtually
from tests.unit.edge.conftest import World

RATE = Rate(per_s=10, burst=5)


@given(st.lists(st.floats(0, 2), max_size=100))
def test_no_caller_gets_more_than_rate_and_burst(waits: list[float]) -> None:
    limits = CallerLimits(rate=RATE)
    now_s = allowed = 0.0
    for wait_s in waits:
        now_s += wait_s
        allowed += limits.allow("a", now_s=now_s)
    assert allowed <= RATE.burst + RATE.per_s * now_s + 1e-6


@given(st.integers(1, 20))
def test_a_caller_that_waits_is_served_again(flood: int) -> None:
    limits = CallerLimits(rate=RATE)
    for _ in range(flood):
        limits.allow("a", now_s=0.0)
    assert limits.allow("a", now_s=0.2)
    assert limits.allow("b", now_s=0.0)


def test_memory_is_bounded() -> None:
    limits = CallerLimits(rate=RATE, callers_max=3)
    for number in range(10):
        limits.allow(str(number), now_s=0.0)
        assert 0 < len(limits) <= 3


def test_who_waits_for_nothing_is_forgotten_first() -> None:
    limits = CallerLimits(rate=RATE, callers_max=4)
    for _ in range(5):
        assert limits.allow("flood", now_s=9.9)
    for number in range(3):
        limits.allow(str(number), now_s=0.0)
    assert limits.allow("new", now_s=10.0)
    assert not limits.allow("flood", now_s=9.9)


def test_charges_of_other_edges_count_and_are_bounded() -> None:
    limits = CallerLimits(rate=RATE)
    limits.charge("a", 10_000, now_s=0.0)
    assert not limits.allow("a", now_s=0.0)
    assert limits.allow("b", now_s=0.0)
    # However much others say, a caller that waits as long as two bursts take has one again.
    assert limits.allow("a", now_s=2 * RATE.burst / RATE.per_s)


async def _flood(edges: int, seconds: float, allowed: list[int]) -> None:
    """One caller, a thousand calls a second, spread over edges that share what was taken."""
    rng, clock, rate = random.Random(1), LoopClock(), Rate(per_s=100, burst=200)
    grid = MemoryGrid(clock=clock)
    limits = [CallerLimits(rate=rate) for _ in range(edges)]
    work = []
    for number, held in enumerate(limits):
        work += [
            asyncio.create_task(tell_taken(grid, held, node=str(number), counted=lambda _: None)),
            asyncio.create_task(hear_taken(grid, held, node=str(number), clock=clock, counted=lambda _: None)),
        ]
    while clock.monotonic_s() < seconds:
        await asyncio.sleep(0.001)
        allowed.append(rng.choice(limits).allow("flood", now_s=clock.monotonic_s()))
        assert limits[0].allow(f"other-{len(allowed)}", now_s=clock.monotonic_s())
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)


def test_one_caller_at_three_edges_gets_about_what_one_edge_would_give() -> None:
    allowed: list[int] = []
    run_virtually(_flood(3, 20.0, allowed))
    ideal = 200 + 100 * 20.0
    slack = 200 * HEAVY_SHARE * 2 + 2 * 1000 * SHARE_S / 3
    assert ideal * 0.85 <= sum(allowed) <= ideal + slack


async def _p99_of_another(flood_per_s: float, took_s: list[float]) -> None:
    """Another caller's calls to a region of one node that slows down with what it has in flight."""
    rng, clock, limits = random.Random(2), LoopClock(), CallerLimits(rate=Rate(per_s=50, burst=50))
    in_flight = 0

    async def call() -> None:
        nonlocal in_flight
        in_flight += 1
        await asyncio.sleep(rng.uniform(0.004, 0.008) * (1 + in_flight / 20))
        in_flight -= 1

    async def other() -> None:
        for _ in range(400):
            began_s = clock.monotonic_s()
            await call()
            took_s.append(clock.monotonic_s() - began_s)
            await asyncio.sleep(0.02)

    async def flood(tasks: asyncio.TaskGroup) -> None:
        while flood_per_s and len(took_s) < 400:
            await asyncio.sleep(1 / flood_per_s)
            if limits.allow("flood", now_s=clock.monotonic_s()):
                tasks.create_task(call())

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(other())
        tasks.create_task(flood(tasks))


def test_one_callers_flood_leaves_another_callers_p99_within_one_and_a_half() -> None:
    calm: list[float] = []
    flooded: list[float] = []
    run_virtually(_p99_of_another(0.0, calm))
    run_virtually(_p99_of_another(5_000.0, flooded))
    rank = math.ceil(0.99 * len(calm)) - 1
    assert sorted(flooded)[rank] <= 1.5 * sorted(calm)[rank]


async def test_one_list_is_not_asked_of_the_region_for_ever(world: World) -> None:
    """An explained call goes past the cache: many of them are a flood that no coalescing holds back."""
    client = await world.edge(fills_per_list_s=0.001, burst_per_list=3.0)
    steps = []
    for _ in range(6):
        response = await client.get("/v1/recommendations/popular?n=5&explain=1")
        assert response.status == 200
        assert (await response.json())["items"]
        steps.append(response.headers["Atoll-Step"])
    assert steps == ["home"] * 3 + ["release"] * 3
    assert len(world.home.calls("/v1/recommend")) == 3


@given(st.lists(st.floats(-1, 5), min_size=1, max_size=50))
def test_lag_is_between_nothing_and_the_worst_and_goes_away(late: list[float]) -> None:
    lag = LoopLag()
    for one in late:
        lag.note(one)
        assert 0.0 <= lag.lag_s <= max(0.0, *late, 0.0)
        assert lag.gone_s == LOOPS * lag.lag_s
    for _ in range(60):
        lag.note(0.0)
    assert lag.lag_s < 1e-6
