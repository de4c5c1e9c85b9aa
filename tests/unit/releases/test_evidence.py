"""The e-process: harmless releases are rarely accused, harmful ones soon (Turner, Ly, Grünwald 2021)."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from region.releases.evidence import PRIOR, Block, Evidence, expected_gain, kept, log_mean_e, weighed

LOOKS, PER_LOOK = 200, 20


def walk(rng: np.random.Generator, rate_a: float, rate_b: float) -> float:
    """The highest e-value that an impatient looker sees."""
    evidence, highest = Evidence(), 0.0
    for _ in range(LOOKS):
        block = Block(PER_LOOK, int(rng.binomial(PER_LOOK, rate_a)), PER_LOOK, int(rng.binomial(PER_LOOK, rate_b)))
        evidence = weighed(evidence, block)
        highest = max(highest, evidence.e_value)
    return highest


@pytest.mark.parametrize(("rate_a", "rate_b"), [(0.3, 0.3), (0.02, 0.02), (0.4, 0.3)])
def test_looking_all_the_time_accuses_the_harmless_no_more_often_than_said(rate_a: float, rate_b: float):
    rng = np.random.default_rng(7)
    accused = sum(walk(rng, rate_a, rate_b) >= 20 for _ in range(400))
    assert accused <= 0.05 * 400


@pytest.mark.parametrize(("rate_a", "rate_b"), [(0.3, 0.4), (0.0, 0.05), (0.02, 0.98)])
def test_the_harmful_are_accused(rate_a: float, rate_b: float):
    rng = np.random.default_rng(7)
    assert sum(walk(rng, rate_a, rate_b) >= 20 for _ in range(50)) >= 48


@given(
    st.integers(0, 30), st.integers(0, 30), st.integers(1, 4), st.integers(1, 4),
    st.floats(0.01, 0.99), st.floats(0.0, 1.0),
)  # fmt: skip
def test_the_expectation_of_a_step_is_at_most_one_when_b_is_not_above_a(
    yes_a: int, yes_b: int, count_a: int, count_b: int, rate_a: float, share: float
):
    """Exactly, over all outcomes of a block, for any past and any rate_b up to rate_a."""
    rate_b = share * rate_a
    past = Evidence(count_a=30, yes_a=yes_a, count_b=30, yes_b=yes_b)
    expected = 0.0
    for a, b in product(range(count_a + 1), range(count_b + 1)):
        chance = math.comb(count_a, a) * rate_a**a * (1 - rate_a) ** (count_a - a)
        chance *= math.comb(count_b, b) * rate_b**b * (1 - rate_b) ** (count_b - b)
        expected += chance * weighed(past, Block(count_a, a, count_b, b)).e_value
    assert expected <= 1.0 + 1e-9


@given(
    st.integers(0, 30), st.integers(0, 30), st.integers(1, 4), st.integers(1, 4),
    st.floats(0.01, 0.99), st.floats(0.0, 1.0), st.floats(0.05, 0.99),
)  # fmt: skip
def test_the_expectation_of_a_step_is_at_most_one_when_b_keeps_no_more_than_the_share(
    yes_a: int, yes_b: int, count_a: int, count_b: int, rate_a: float, part: float, share: float
):
    """Exactly, over all outcomes of a block, for any past and any rate_b up to share * rate_a."""
    rate_b = part * share * rate_a
    past = Evidence(count_a=30, yes_a=yes_a, count_b=30, yes_b=yes_b)
    expected = 0.0
    for a, b in product(range(count_a + 1), range(count_b + 1)):
        chance = math.comb(count_a, a) * rate_a**a * (1 - rate_a) ** (count_a - a)
        chance *= math.comb(count_b, b) * rate_b**b * (1 - rate_b) ** (count_b - b)
        expected += chance * kept(past, Block(count_a, a, count_b, b), share=share).e_value
    assert expected <= 1.0 + 1e-9


def test_a_step_gains_what_is_expected_of_it_when_both_rates_are_one():
    past, share = Evidence(count_a=4000, yes_a=1000, count_b=1000, yes_b=250), 0.8
    rate = (1250 + PRIOR) / (5000 + 2 * PRIOR)
    mean = 0.0
    for a, b in product(range(5), range(3)):
        chance = math.comb(4, a) * rate**a * (1 - rate) ** (4 - a) * math.comb(2, b) * rate**b * (1 - rate) ** (2 - b)
        mean += chance * kept(past, Block(4, a, 2, b), share=share).log_e
    assert mean == pytest.approx(expected_gain(rate, share, Block(4, 0, 2, 0)))
    assert mean > 0


def test_what_only_one_stream_has_is_counted_and_says_nothing():
    evidence = weighed(Evidence(count_a=9, yes_a=1, count_b=9, yes_b=8), Block(0, 0, 5, 5))
    assert (evidence.count_b, evidence.yes_b, evidence.log_e) == (14, 13, 0.0)
    assert kept(Evidence(), Block(0, 0, 5, 5), share=0.9) == Evidence(count_b=5, yes_b=5)
    assert PRIOR > 0


def test_a_mean_of_e_values_is_one_test():
    parts = (Evidence(log_e=math.log(100.0)), Evidence(log_e=0.0), Evidence(log_e=-900.0))
    assert log_mean_e(*parts) == pytest.approx(math.log(101.0 / 3))
