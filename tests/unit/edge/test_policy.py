"""Laws of freshness (RFC 9111, RFC 5861)."""

import math

from hypothesis import given
from hypothesis import strategies as st

from edge.cache.policy import (
    JITTER,
    LIFE_S_MAX,
    Life,
    Standing,
    Usability,
    jittered_life,
    usability,
    with_early_refresh,
)
from infra.contracts.messages import Lifetime

seconds = st.floats(min_value=0, max_value=10_000)
any_number = st.floats(allow_nan=True, allow_infinity=True)


def lifetime(a: float, b: float, c: float) -> Lifetime:
    return Lifetime(max_age_s=a, stale_while_revalidate_s=b, stale_if_error_s=c)


@given(any_number, any_number, any_number, st.floats(0, 1))
def test_bounds_never_fall_and_stay_finite(a: float, b: float, c: float, at: float) -> None:
    life = jittered_life(lifetime(a, b, c), lambda low, high: low + at * (high - low))
    assert 0 <= life.fresh_until_s <= life.revalidate_until_s <= life.error_until_s < math.inf
    assert life.fresh_until_s <= LIFE_S_MAX * (1 + JITTER)


@given(seconds, st.floats(0, 1))
def test_jitter_stays_within_its_share(max_age_s: float, at: float) -> None:
    life = jittered_life(lifetime(max_age_s, 0, 0), lambda low, high: low + at * (high - low))
    assert max_age_s * (1 - JITTER) - 1e-6 <= life.fresh_until_s <= max_age_s * (1 + JITTER) + 1e-6


@given(seconds, seconds, seconds, seconds, seconds, st.sampled_from(Standing))
def test_an_entry_never_gets_better_with_age(
    a: float, b: float, c: float, age_s: float, more_s: float, standing: Standing
) -> None:
    life = jittered_life(lifetime(a, b, c), lambda low, high: low)
    younger = usability(life, age_s=age_s, standing=standing)
    assert usability(life, age_s=age_s + more_s, standing=standing) >= younger


@given(seconds, seconds, seconds, seconds)
def test_overtaken_is_for_errors_only_and_forbidden_for_nothing(a: float, b: float, c: float, age_s: float) -> None:
    life = jittered_life(lifetime(a, b, c), lambda low, high: high)
    assert usability(life, age_s=age_s, standing=Standing.OVERTAKEN) >= Usability.ON_ERROR
    assert usability(life, age_s=age_s, standing=Standing.FORBIDDEN) is Usability.NEVER


def test_the_four_ages() -> None:
    life = Life(10, 15, 100)
    ages = {0: Usability.FRESH, 10: Usability.REVALIDATE, 15: Usability.ON_ERROR, 100: Usability.NEVER}
    for age_s, expected in ages.items():
        assert usability(life, age_s=age_s, standing=Standing.CURRENT) is expected


@given(st.floats(0.1, 1e5), st.floats(0, 10), st.floats(0, 1))
def test_an_early_refresh_is_early_and_never_before_half_the_life(fresh_s: float, cost_s: float, draw: float) -> None:
    life = with_early_refresh(Life(fresh_s, fresh_s + 1, fresh_s + 2), cost_s=cost_s, uniform=lambda _low, _high: draw)
    assert 0.5 * fresh_s <= life.refresh_from_s <= life.fresh_until_s == fresh_s
