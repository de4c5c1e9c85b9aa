"""Lists that the region made ahead: taken from the grid by an edge that has heard everything since, and by no other."""

import msgspec

from edge.cache.entry import Entry
from edge.cache.invalidation import SUBJECTS_MAX, Ledger
from edge.cache.policy import Life, Standing
from infra.contracts.lists import GridValue, ListKey, grid_key
from infra.contracts.messages import Invalidation, Lifetime, RecommendationType, Surface
from infra.plumbing.clock import ManualClock, SystemClock
from tests.unit.edge.conftest import World
from tests.unit.edge.fakes import answer

LIVES = Lifetime(max_age_s=3600, stale_while_revalidate_s=600, stale_if_error_s=86_400)


async def test_a_list_made_ahead_answers_without_the_region(world: World) -> None:
    client = await world.edge()
    # An edge that has just begun to listen trusts nothing from before: soon after it does.
    for number in range(50):
        user = f"user-{number}"
        made = answer(
            "ahead", 30, release=world.home.release, region="here", personal=True, lifetime=LIVES, precomputed=True,
            generated_at_ms=SystemClock().now_ms() + 1,
        )  # fmt: skip
        key = ListKey(type=RecommendationType.PERSONAL, surface=Surface.HOME, subject=world.subject(user))
        await world.grid.put(grid_key(key), msgspec.msgpack.encode(GridValue(answer=made, asked=10)), ttl_s=3600)
        asked = len(world.home.calls("/v1/recommend"))
        page = await client.get("/v1/recommendations/personal", headers=world.token(user))
        if page.headers["Atoll-Step"] == "grid":
            break
    assert page.headers["Atoll-Step"] == "grid"
    assert (await page.json())["items"][0]["item"] == "ahead-0"
    assert len(world.home.calls("/v1/recommend")) == asked
    assert world.metric('atoll_edge_grid_total{outcome="precomputed"}') >= 1


def entry_made(at_s: float) -> Entry:
    made = answer("x", 3, release="r", region="here", personal=True, precomputed=True, generated_at_ms=1)
    return Entry(made, Life(3600, 3600, 3600), made_s=at_s, asked=10)


def test_what_may_have_been_missed_makes_it_old() -> None:
    clock = ManualClock()
    clock.advance(1000)
    ledger = Ledger(clock=clock)
    start_s = clock.monotonic_s()
    assert ledger.standing(entry_made(start_s + 1), "a") is Standing.CURRENT
    assert ledger.standing(entry_made(start_s - 1), "a") is Standing.OVERTAKEN
    clock.advance(10)
    for number in range(SUBJECTS_MAX + 1):
        ledger.apply(Invalidation(subject=str(number), subject_version=1))
    assert ledger.standing(entry_made(start_s + 1), "a") is Standing.OVERTAKEN
