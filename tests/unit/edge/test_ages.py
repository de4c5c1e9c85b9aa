"""How old a list out of the grid is, whatever wall clocks do."""

import msgspec
import pytest

from edge.cache.ages import AHEAD_S_MAX, RegionTime
from infra.contracts.lists import GridValue, ListKey, grid_key
from infra.contracts.messages import Lifetime, RecommendationType, Surface
from infra.plumbing.clock import ManualClock, SystemClock
from tests.unit.edge.conftest import World
from tests.unit.edge.fakes import answer

TEN_MINUTES_MS = 600_000
LIVES = Lifetime(max_age_s=300, stale_while_revalidate_s=600, stale_if_error_s=86_400)


@pytest.mark.parametrize("step_ms", [-TEN_MINUTES_MS, TEN_MINUTES_MS])
def test_a_step_of_the_own_wall_clock_changes_no_age(step_ms: int) -> None:
    clock = ManualClock()
    time = RegionTime(clock)
    made_ms = clock.now_ms()
    time.hear(made_ms, asked_s=clock.monotonic_s())
    clock.advance(30.0)
    clock.wall_ms += step_ms
    assert time.age_s(made_ms) == pytest.approx(30.0)
    assert time.age_s(made_ms + 30_000) == pytest.approx(0.0)


def test_before_the_region_was_heard_the_own_clock_counts_and_the_future_has_no_age() -> None:
    clock = ManualClock()
    time = RegionTime(clock)
    made_ms = clock.now_ms()
    assert time.age_s(made_ms - 5_000) == pytest.approx(5.0)
    assert time.age_s(made_ms + int(AHEAD_S_MAX * 1000)) == 0.0
    clock.wall_ms -= TEN_MINUTES_MS
    assert time.age_s(made_ms) is None


def test_a_region_that_sets_its_clock_is_believed_from_its_next_answer_on() -> None:
    clock = ManualClock()
    time = RegionTime(clock)
    time.hear(clock.now_ms(), asked_s=0.0)
    before_ms = clock.now_ms()
    time.hear(before_ms - TEN_MINUTES_MS, asked_s=0.0)
    assert time.age_s(before_ms) is None
    time.hear(before_ms + TEN_MINUTES_MS, asked_s=0.0)
    assert time.age_s(before_ms) == pytest.approx(600.0)


async def _step_of(world: World, user: str, *, made_ms: int) -> str:
    """The rung that answers `user`, in whose name a list made at `made_ms` lies in the grid."""
    made = answer(
        "ahead", 30, release=world.home.release, region="here", personal=True, lifetime=LIVES, precomputed=True,
        generated_at_ms=made_ms,
    )  # fmt: skip
    key = ListKey(type=RecommendationType.PERSONAL, surface=Surface.HOME, subject=world.subject(user))
    await world.grid.put(grid_key(key), msgspec.msgpack.encode(GridValue(answer=made, asked=10)), ttl_s=3600)
    page = await world.clients[0].get("/v1/recommendations/personal", headers=world.token(user))
    return str(page.headers["Atoll-Step"])


async def test_an_edge_whose_wall_clock_is_behind_takes_young_lists_and_no_old_ones(world: World) -> None:
    world.home.clock_off_ms = TEN_MINUTES_MS
    client = await world.edge()
    now_ms = SystemClock().now_ms
    # The region was not heard yet: a list out of the future may be of any age.
    assert await _step_of(world, "first", made_ms=now_ms() + TEN_MINUTES_MS) == "home"
    # Soon the edge has listened long enough to trust what is in the grid.
    for number in range(50):
        await client.get(f"/v1/recommendations/popular?n={number + 1}")
        if await _step_of(world, f"young-{number}", made_ms=now_ms() + TEN_MINUTES_MS) == "grid":
            break
    else:
        pytest.fail("a list that was made just now was never taken from the grid")
    # By the edge's own clock this one is of now; it is ten minutes old.
    assert await _step_of(world, "old", made_ms=now_ms()) == "home"
