"""Hot keys: found whatever else is asked for, forgotten in time, in bounded memory, and their lists made anew early."""

import random

from hypothesis import given
from hypothesis import strategies as st

from edge.cache.policy import Life, with_early_refresh
from edge.limits.hot_keys import ASKS_MIN, HALVE_S, HOT_SHARE, PLACES, HotKeys
from tests.unit.edge.conftest import World


@given(st.integers(0, 1000), st.floats(3 * HOT_SHARE, 0.5))
def test_a_key_with_a_large_share_is_found_among_ever_new_ones(seed: int, share: float) -> None:
    rng, keys = random.Random(seed), HotKeys()
    for number in range(4 * ASKS_MIN):
        keys.note("viral" if rng.random() < share else number, 1, now_s=0.0)
        assert len(keys._counts) <= PLACES
    assert keys.is_hot("viral")
    assert len(keys) == 1
    assert keys.top_share <= 0.6


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 300)), max_size=300))
def test_no_share_is_said_to_be_larger_than_it_is(asks: list[tuple[int, int]]) -> None:
    keys, true = HotKeys(places=8), dict[int, int]()
    for key, times in asks:
        keys.note(key, times, now_s=0.0)
        true[key] = true.get(key, 0) + times
    for key, count in true.items():
        assert keys._share(key) <= count / sum(true.values()) + 1e-9


def test_what_was_hot_is_forgotten() -> None:
    keys = HotKeys()
    keys.note("old", 10_000, now_s=0.0)
    assert keys.is_hot("old")
    for period in range(1, 12):
        for number in range(1000):
            keys.note((period, number), 1, now_s=period * HALVE_S)
    assert not keys.is_hot("old")


def test_few_asks_say_nothing() -> None:
    keys = HotKeys()
    keys.note("first", 10, now_s=0.0)
    assert not keys.is_hot("first")
    assert keys.top_share == 0.0


def test_a_hot_list_is_made_anew_earlier() -> None:
    life = Life(60.0, 90.0, 120.0)
    usual = with_early_refresh(life, cost_s=0.1, uniform=lambda low, high: 0.5)
    hot = with_early_refresh(life, cost_s=0.1, uniform=lambda low, high: 0.5, is_hot=True)
    assert hot.refresh_from_s < usual.refresh_from_s < life.fresh_until_s


async def test_metrics_say_how_many_and_nobody_s_name(world: World) -> None:
    client = await world.edge(requests_per_address_s=1e6, burst_per_address=1e6)
    for _ in range(ASKS_MIN + 1):
        response = await client.get("/v1/recommendations/popular?n=2", headers={"X-Long-Way": "1"})
        assert response.status == 200
        await response.read()
    assert world.metric("atoll_edge_hot_keys ") == 1
    assert world.metric("atoll_edge_hot_key_share ") == 1.0
