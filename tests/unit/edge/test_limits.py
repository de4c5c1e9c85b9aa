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
        assert 0 < len(limits) <= 3


def test_who_waits_for_nothing_is_forgotten_first() -> None:
    limits = CallerLimits(rate=RATE, callers_max=4)
    for _ in range(5):
        assert limits.allow("flood", now_s=9.9)
    for number in range(3):
        limits.allow(str(number), now_s=0.0)
    assert limits.allow("new", now_s=10.0)
    assert not limits.allow("flood", now_s=9.9)
