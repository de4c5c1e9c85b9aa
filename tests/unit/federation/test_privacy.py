"""Clipping, noise and the accountant."""

import math
import secrets

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from federation.privacy.accountant import Release, epsilon, noise_for
from federation.privacy.clipping import clip, l2_norm, within_norm
from federation.privacy.noise import GRID_STEPS, coin, gaussian, noised_sum
from tests.unit.federation.building import fixed_entropy

_UPDATES = arrays(np.float32, (3, 4), elements=st.floats(-1e6, 1e6, width=32))


@given(update=_UPDATES, norm=st.floats(1e-3, 1e3))
def test_clipping_bounds_the_norm_and_keeps_the_direction(update, norm: float) -> None:
    clipped = clip(update, norm)
    assert within_norm(clipped, norm)
    before = l2_norm(update)
    if before <= norm:
        np.testing.assert_array_equal(clipped, update)
    else:
        np.testing.assert_allclose(clipped, update * (norm / before), rtol=1e-4, atol=1e-4 * norm)


@pytest.mark.parametrize("norm", [0.0, -1.0, math.inf, math.nan])
def test_a_clipping_norm_is_positive(norm: float) -> None:
    with pytest.raises(ValueError, match="clipping norm"):
        clip(np.ones((2, 2)), norm)


def test_what_is_not_finite_is_not_clipped() -> None:
    with pytest.raises(ValueError, match="not finite"):
        clip(np.array([1.0, np.nan]), 1.0)
    assert not within_norm(np.array([np.inf]), 1e30)


def test_noise_is_gaussian_and_reproducible_from_its_key_only() -> None:
    drawn = gaussian((400, 501), entropy=fixed_entropy())
    np.testing.assert_array_equal(drawn, gaussian((400, 501), entropy=fixed_entropy()))
    assert drawn.shape == (400, 501)
    assert abs(drawn.mean()) < 0.01
    assert abs(drawn.std() - 1.0) < 0.01
    assert abs((drawn**3).mean()) < 0.03
    assert abs((drawn**4).mean() - 3.0) < 0.1
    for bound, share in ((1.0, 0.6827), (2.0, 0.9545), (3.0, 0.9973)):
        assert abs((np.abs(drawn) < bound).mean() - share) < 0.004
    flat = drawn.ravel()
    assert abs(np.corrcoef(flat[:-1], flat[1:])[0, 1]) < 0.01


def test_noise_is_fresh_at_every_draw() -> None:
    assert not np.array_equal(gaussian((3,), entropy=secrets.token_bytes), gaussian((3,), entropy=secrets.token_bytes))
    with pytest.raises(ValueError, match="entropy"):
        gaussian((3,), entropy=lambda _count: b"short")


def test_a_noised_sum_has_the_promised_deviation_and_lies_on_its_grid() -> None:
    total = np.full((200, 200), 7.0)
    noised = noised_sum(total, clipping_norm=0.5, noise_multiplier=3.0, entropy=fixed_entropy())
    assert noised.dtype == np.float32
    assert abs(noised.mean() - 7.0) < 0.04
    assert abs(noised.std() - 1.5) < 0.02
    steps = noised.astype(np.float64) / (0.5 / GRID_STEPS)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
    for norm, multiplier in ((0.0, 1.0), (1.0, 0.0)):
        with pytest.raises(ValueError, match="positive"):
            noised_sum(total, clipping_norm=norm, noise_multiplier=multiplier, entropy=fixed_entropy())


def test_the_coin_is_as_fair_as_it_says() -> None:
    entropy = fixed_entropy()
    heads = sum(coin(0.3, entropy=entropy) for _ in range(4000))
    assert abs(heads / 4000 - 0.3) < 0.03
    assert all(coin(1.0, entropy=lambda count: b"\xff" * count) for _ in range(3))
    assert not coin(0.5, entropy=lambda count: b"\x80" + bytes(count - 1))


@pytest.mark.parametrize(("multiplier", "rounds"), [(1.0, 1), (0.7, 3), (4.0, 10)])
def test_epsilon_agrees_with_a_privacy_loss_distribution_built_apart(multiplier: float, rounds: int) -> None:
    # Gaussians compose into one Gaussian of the summed precision.
    distribution = privacy_loss_distribution.from_gaussian_mechanism(multiplier / rounds**0.5)
    expected = distribution.get_epsilon_for_delta(1e-6)
    assert epsilon([Release(multiplier)] * rounds, delta=1e-6) == pytest.approx(expected, abs=1e-9)
    exact = dp_accounting.get_epsilon_gaussian(multiplier / rounds**0.5, 1e-6)
    assert expected == pytest.approx(exact, rel=1e-3)


def test_epsilon_of_sampled_rounds_agrees_too() -> None:
    distribution = privacy_loss_distribution.from_gaussian_mechanism(2.0, sampling_prob=0.1).self_compose(2)
    expected = distribution.get_epsilon_for_delta(1e-6)
    assert epsilon([Release(2.0, 0.1)] * 2, delta=1e-6) == pytest.approx(expected, abs=1e-9)


def test_epsilon_is_above_the_exact_gaussian_and_below_renyi() -> None:
    found = epsilon([Release(1.0)], delta=1e-6)
    exact = dp_accounting.get_epsilon_gaussian(1.0, 1e-6)
    renyi = dp_accounting.rdp.RdpAccountant().compose(dp_accounting.GaussianDpEvent(1.0)).get_epsilon(1e-6)
    assert exact - 1e-6 <= found <= renyi


@settings(max_examples=5, deadline=None)
@given(multiplier=st.floats(0.8, 5.0), more=st.floats(1.1, 3.0))
def test_more_noise_costs_less_and_more_rounds_cost_more(multiplier: float, more: float) -> None:
    one = epsilon([Release(multiplier)], delta=1e-6)
    assert epsilon([Release(multiplier * more)], delta=1e-6) < one
    assert epsilon([Release(multiplier), Release(multiplier * more)], delta=1e-6) > one


def test_edges_of_the_accountant() -> None:
    assert epsilon([], delta=1e-6) == 0.0
    assert epsilon([Release(0.0), Release(1.0)], delta=1e-6) == math.inf
    for delta in (0.0, 1.0):
        with pytest.raises(ValueError, match="delta"):
            epsilon([Release(1.0)], delta=delta)
    for release in (Release(-1.0), Release(1.0, 0.0), Release(1.0, 1.5)):
        with pytest.raises(ValueError, match="accounted"):
            epsilon([release], delta=1e-6)


def test_noise_for_a_target_is_enough_and_hardly_more() -> None:
    found = noise_for(4.0, delta=1e-6, rounds=2)
    assert epsilon([Release(found)] * 2, delta=1e-6) <= 4.0 < epsilon([Release(found / 1.02)] * 2, delta=1e-6)
    with pytest.raises(ValueError, match="positive"):
        noise_for(0.0, delta=1e-6, rounds=1)
    with pytest.raises(ValueError, match="above 1000"):
        noise_for(1e-3, delta=1e-9, rounds=1)
