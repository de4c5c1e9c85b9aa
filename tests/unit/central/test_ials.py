"""iALS: each half step is the ridge regression that it claims to be, and groups of taste are found."""

import numpy as np
import pytest
import scipy.sparse

from central.evaluation import ials
from central.evaluation.ials import factorise


@pytest.mark.parametrize("cells_max", [1, 500, 4_000_000])
def test_a_half_step_solves_every_row(cells_max: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ials, "CELLS_MAX", cells_max)
    rng = np.random.default_rng(0)
    dense = (rng.random((30, 20)) < 0.3).astype(np.float32)
    dense[3] = 0.0
    taken, other = scipy.sparse.csr_matrix(dense), rng.normal(size=(20, 4)).astype(np.float32)
    found = ials._solved(taken, other, 0.5, 3.0)
    for row in range(30):
        weights = np.diag(1.0 + 3.0 * dense[row])
        exact = np.linalg.solve(other.T @ weights @ other + 0.5 * np.eye(4), other.T @ weights @ dense[row])
        assert found[row] == pytest.approx(exact, abs=1e-4)
    assert not found[3].any()


def test_two_groups_of_taste_are_told_apart():
    rng = np.random.default_rng(1)
    likes = np.kron(np.eye(2), np.ones((40, 15))) > 0
    taken = scipy.sparse.csr_matrix((likes & (rng.random(likes.shape) < 0.4)).astype(np.float32))
    users, items = factorise(taken, factors=4, iterations=8, regularization=0.05, alpha=10.0, seed=0)
    scores = users @ items.T
    assert scores[likes].mean() > 4 * abs(scores[~likes].mean())
    again = factorise(taken, factors=4, iterations=8, regularization=0.05, alpha=10.0, seed=0)
    assert np.array_equal(users, again[0])
