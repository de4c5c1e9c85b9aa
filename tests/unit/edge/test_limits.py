"""Token buckets per caller."""

from hypothesis import given
from hypothesis import strategies as st

from edge.limits.buckets import CallerLimits, Rate

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
    assert len(limits) == 3
