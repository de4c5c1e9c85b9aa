"""Item-to-item tables: bounded rows, transitions by gap, EASE in closed form, nothing of what is held out."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from central.datasets.interactions import Interactions, leave_last_out
from central.training import ease, sparse_rows
from central.training.ease import PENALTIES, choose_penalty, ease_scores, ease_weights
from central.training.sparse_rows import best_of_sparse, bounded_length, furthest_of_dense
from central.training.tables import item_tables
from central.training.transitions import follower_links, soon_links
from infra.contracts.features import GAP_CLASSES, gap_class


@given(arrays(np.float64, (4, 6), elements=st.sampled_from([-1.0, 0.0, 0.5, 0.5, 2.0])), st.integers(1, 6))
def test_sparse_and_dense_rows_agree(matrix: np.ndarray, length: int) -> None:
    sparse = best_of_sparse(scipy.sparse.csr_matrix(matrix), length)
    dense = furthest_of_dense(np.maximum(matrix, 0.0), length)
    assert np.array_equal(sparse.scores, dense.scores)
    for rows, scores in (sparse, dense):
        assert ((rows >= 0) == (scores > 0)).all()
        assert (np.diff(scores, axis=1) <= 0).all()
        for line in range(4):
            known = rows[line] >= 0
            assert np.allclose(matrix[line, rows[line][known]], scores[line][known])
            assert len(set(rows[line][known].tolist())) == known.sum()


def test_a_large_catalogue_keeps_fewer_for_each_item() -> None:
    assert bounded_length(64, 4000) == 64
    assert bounded_length(64, 10_000_000) == 8
    assert bounded_length(64, 2_000_000, tables=4) == 8
    assert bounded_length(64, 2_000_000) * 2_000_000 <= sparse_rows.ENTRIES_MAX


def test_on_the_ring_the_next_item_follows_in_its_class_of_gap(data: Interactions) -> None:
    split = leave_last_out(data)
    followers = follower_links(data, split.train_ends)
    assert followers.rows.shape[:2] == (40, GAP_CLASSES)
    ids = data.items.ids
    within_the_hour = int(gap_class(np.array([600.0]))[0])
    best = followers.rows[:, within_the_hour, 0]
    next_of = np.array([ids.index(f"i{(int(item[1:]) + 1) % 40}") for item in ids])
    assert (best == next_of).mean() > 0.8
    assert (followers.scores <= 1.0).all()
    soon = soon_links(data, split.train_ends)
    assert (soon.rows[:, :3] == next_of[:, None]).any(axis=1).mean() > 0.8


def test_a_class_without_events_falls_back_on_all_gaps(data: Interactions) -> None:
    """Nobody on the ring waits less than a second: what is known for that gap is what is known at all, shrunk alike."""
    followers = follower_links(data, leave_last_out(data).train_ends)
    at_once = followers.rows[:, 0, 0]
    assert (at_once >= 0).mean() > 0.9
    assert (at_once == followers.rows[:, 2, 0]).mean() > 0.8


def test_what_is_held_out_moves_no_table(data: Interactions) -> None:
    split = leave_last_out(data)
    shuffled = data.rows.copy()
    shuffled[split.test_at] = np.roll(shuffled[split.test_at], 7)
    other = replace(data, rows=shuffled)
    vectors = np.zeros((40, 4), dtype=np.float32)
    one, two = (item_tables(seen, split.known_ends, vectors, ease_penalty=50.0) for seen in (data, other))
    for name in ("popularity", "trend", "strength", "first_seen_s", "similar_rows", "similar_scores"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name
    for name in ("followers", "soon", "ease"):
        assert np.array_equal(getattr(one, name).rows, getattr(two, name).rows), name
        assert np.array_equal(getattr(one, name).scores, getattr(two, name).scores), name


def test_ease_solves_its_own_equations(data: Interactions) -> None:
    """The gradient of |X - XB|^2 + penalty |B|^2 is zero everywhere but on the diagonal, which is held at zero."""
    ends = leave_last_out(data).train_ends
    weights, chosen = ease_weights(data, ends, 20.0)
    taken = np.zeros((data.num_users, chosen.size))
    visible = np.arange(data.rows.size) < ends[data.users]
    taken[data.users[visible], np.searchsorted(chosen, data.rows[visible])] = 1.0
    gradient = taken.T @ (taken @ weights - taken) + 20.0 * weights
    np.fill_diagonal(gradient, 0.0)
    assert np.abs(gradient).max() < 1e-3
    assert (np.diag(weights) == 0.0).all()


def test_what_speaks_against_an_item_is_kept_as_what_speaks_for_it(data: Interactions) -> None:
    kept = furthest_of_dense(np.array([[0.1, -0.5, 0.0, 0.3], [0.0, 0.0, -0.2, 0.0]]), 3)
    assert kept.rows.tolist() == [[1, 3, 0], [2, -1, -1]]
    assert kept.scores.tolist() == np.array([[-0.5, 0.3, 0.1], [-0.2, 0.0, 0.0]], dtype=np.float32).tolist()
    tables = item_tables(data, leave_last_out(data).train_ends, np.zeros((40, 4), np.float32), ease_penalty=5.0)
    assert (tables.ease.scores > 0.0).any()
    assert (tables.ease.scores < 0.0).any()


def test_only_popular_items_are_solved_for_in_a_large_catalogue(
    data: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ease, "ITEMS_MAX", 10)
    ends = leave_last_out(data).train_ends
    weights, chosen = ease_weights(data, ends, 20.0)
    counts = np.bincount(data.rows[np.arange(data.rows.size) < ends[data.users]], minlength=40)
    assert weights.shape == (10, 10)
    assert counts[chosen].min() >= np.sort(counts)[-10]
    scores = ease_scores(data, weights, chosen)(int(data.starts[1] - 1))
    assert (np.delete(scores, chosen) == 0.0).all()


def test_the_penalty_is_chosen_on_validation_interactions(data: Interactions) -> None:
    split = leave_last_out(data)
    assert choose_penalty(data, split.train_ends, split.valid_at) in PENALTIES
    assert choose_penalty(data, split.train_ends, split.valid_at[:0]) == PENALTIES[1]
