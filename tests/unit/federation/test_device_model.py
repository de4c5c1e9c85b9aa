"""The phone's loss and gradients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.device.model import Candidates, all_items, loss_and_gradients, sampled_items, user_vectors


def _problem(seed: int, *, items: int = 9, dim: int = 5, rank: int = 2, examples: int = 4):
    rng = np.random.default_rng(seed)
    return {
        "base": rng.normal(size=(examples, dim)),
        "candidates": Candidates(
            rng.normal(size=(items, dim)), rng.normal(size=items), rng.integers(0, items, examples)
        ),
        "basis": rng.normal(size=(dim, rank)),
        "core": rng.normal(size=(rank, rank)),
        "personal": rng.normal(size=dim),
    }


def _finite_difference(problem, name: str, step: float = 1e-6):
    point = problem[name]
    gradient = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        sides = []
        for sign in (1.0, -1.0):
            moved = point.copy()
            moved[index] += sign * step
            sides.append(loss_and_gradients(**{**problem, name: moved}).loss)
        gradient[index] = (sides[0] - sides[1]) / (2 * step)
    return gradient


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_gradients_agree_with_finite_differences(seed: int) -> None:
    problem = _problem(seed)
    found = loss_and_gradients(**problem)
    np.testing.assert_allclose(found.core, _finite_difference(problem, "core"), atol=2e-7)
    np.testing.assert_allclose(found.personal, _finite_difference(problem, "personal"), atol=2e-7)


def test_without_core_and_personal_part_the_base_vector_stands() -> None:
    problem = _problem(1)
    zero = user_vectors(problem["base"], basis=problem["basis"], core=np.zeros((2, 2)), personal=np.zeros(5))
    np.testing.assert_array_equal(zero, problem["base"])


def test_loss_is_the_softmax_cross_entropy() -> None:
    vectors = np.eye(3)
    found = loss_and_gradients(
        np.array([[2.0, 0.0, 0.0]]), all_items(vectors, np.array([0])), basis=np.zeros((3, 1)), core=np.zeros((1, 1)),
        personal=np.zeros(3),
    )  # fmt: skip
    assert found.loss == pytest.approx(np.log(np.exp(2.0) + 2.0) - 2.0)


def test_log_q_takes_back_what_sampling_adds() -> None:
    """Drawing nearly everything, the corrected sampled loss comes near the full one."""
    rng = np.random.default_rng(4)
    vectors, base = rng.normal(size=(30, 4)), rng.normal(size=(6, 4))
    targets = rng.integers(0, 30, 6)
    weight = rng.uniform(1, 5, 30)
    log_q = np.log(weight / weight.sum())
    rest = {"basis": np.zeros((4, 1)), "core": np.zeros((1, 1)), "personal": np.zeros(4)}
    full = loss_and_gradients(base, all_items(vectors, targets), **rest)
    sampled = sampled_items(vectors, targets, log_q=log_q, negatives=4000, rng=rng)
    assert sampled.vectors.shape == (30, 4)
    assert loss_and_gradients(base, sampled, **rest).loss == pytest.approx(full.loss, abs=1e-6)


def test_a_sample_holds_every_target_once() -> None:
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(100, 4))
    targets = np.array([7, 7, 99])
    found = sampled_items(vectors, targets, log_q=np.full(100, np.log(0.01)), negatives=10, rng=rng)
    np.testing.assert_array_equal(found.vectors[found.targets], vectors[targets])
    assert len(np.unique(found.vectors, axis=0)) == len(found.vectors)
