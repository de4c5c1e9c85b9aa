"""The running quantile: close to the true one, bounded, forgetful."""

import math

from hypothesis import given
from hypothesis import strategies as st

from edge.routing.quantile import FORGET_AFTER, GROWTH, LOWEST_S, SAMPLES_MIN, LatencyQuantile

latencies = st.floats(LOWEST_S, 10.0)


@given(st.lists(latencies, min_size=SAMPLES_MIN, max_size=400), st.sampled_from([0.5, 0.95, 0.99]))
def test_it_is_never_under_the_true_quantile_and_at_most_one_bucket_above(samples: list[float], share: float) -> None:
    quantile = LatencyQuantile(share)
    for sample in samples:
        quantile.note(sample)
    true_s = sorted(samples)[math.ceil(share * len(samples)) - 1]
    read_s = quantile.read_s()
    assert read_s is not None
    assert true_s * (1 - 1e-6) <= read_s <= true_s * GROWTH * (1 + 1e-6)


def test_it_says_nothing_before_it_knows_enough() -> None:
    quantile = LatencyQuantile(0.95)
    for _ in range(SAMPLES_MIN - 1):
        quantile.note(0.01)
    assert quantile.read_s() is None
    quantile.note(0.01)
    assert quantile.read_s() is not None


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=50))
def test_whatever_it_is_told_it_stays_bounded(samples: list[float]) -> None:
    quantile = LatencyQuantile(0.95)
    for sample in (*samples, *[0.01] * (3 * FORGET_AFTER)):
        quantile.note(sample)
        assert len(quantile) < FORGET_AFTER


def test_it_forgets() -> None:
    quantile = LatencyQuantile(0.95)
    for _ in range(FORGET_AFTER // 2):
        quantile.note(1.0)
    for _ in range(6 * FORGET_AFTER):
        quantile.note(0.01)
    read_s = quantile.read_s()
    assert read_s is not None
    assert read_s < 0.02
