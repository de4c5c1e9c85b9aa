"""Ranking metrics against values worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from central.datasets.interactions import Interactions, leave_last_out
from central.evaluation.baselines import markov_scorer, popularity_scorer
from central.evaluation.metrics import NEVER, list_metrics, rank_of, ranking_metrics, ranks_of_targets, standard_errors


def test_rank_by_hand() -> None:
    scores = np.array([0.9, 0.5, 0.7, 0.5, 0.1], dtype=np.float32)
    none = np.array([], dtype=np.int32)
    assert rank_of(scores, 2, none) == 2
    assert rank_of(scores, 2, np.array([0], dtype=np.int32)) == 1  # the history is taken out
    assert rank_of(scores, 1, none) == 3  # equal scores: the lower row first
    assert rank_of(scores, 3, none) == 4
    assert rank_of(scores, 0, np.array([0], dtype=np.int32)) == NEVER


def test_figures_by_hand() -> None:
    figures = ranking_metrics(np.array([1, 3, 11, 60]))
    assert figures["hr10"] == figures["recall10"] == 0.5
    assert figures["hr20"] == 0.75
    assert figures["ndcg10"] == pytest.approx((1.0 + 0.5) / 4)
    assert figures["ndcg20"] == pytest.approx((1.5 + 1.0 / math.log2(12)) / 4)
    assert figures["mrr10"] == pytest.approx((1.0 + 1.0 / 3.0) / 4)
    assert ranking_metrics(np.zeros(0, dtype=np.int64))["hr10"] == 0.0
    assert standard_errors(np.array([1, 3, 11, 60]))["hr10"] == pytest.approx(0.25)


@given(st.lists(st.integers(1, 200), min_size=1))
def test_laws_of_the_figures(ranks: list[int]) -> None:
    figures = ranking_metrics(np.array(ranks))
    for cut in (10, 20, 50):
        assert figures[f"precision{cut}"] * cut == pytest.approx(figures[f"hr{cut}"])
        assert (
            0.0 <= figures[f"map{cut}"] <= figures[f"mrr{cut}"] <= figures[f"ndcg{cut}"] <= figures[f"hr{cut}"] <= 1.0
        )
    assert figures["hr10"] <= figures["hr20"] <= figures["hr50"]


def test_coverage_and_novelty_by_hand() -> None:
    popularity = np.array([4.0, 2.0, 2.0, 0.0])
    traits = np.array([[1, 0], [0, 1], [1, 0], [0, 0]], dtype=np.float32)
    figures = list_metrics(np.array([[0, 1], [0, -1]], dtype=np.int32), popularity, traits)
    assert figures["coverage10"] == 0.5
    assert figures["novelty10"] == pytest.approx((1.0 + 2.0 + 1.0) / 3)
    nothing = list_metrics(np.full((2, 2), -1, dtype=np.int32), popularity, traits)
    assert nothing == {"coverage10": 0.0, "novelty10": 0.0, "diversity10": 0.0}


def test_a_list_of_one_kind_has_no_diversity_and_of_strangers_all_of_it() -> None:
    popularity = np.ones(4)
    traits = np.array([[1, 0], [0, 1], [2, 0], [0, 0]], dtype=np.float32)

    def diversity(*lists: list[int]) -> float:
        return list_metrics(np.array(lists, dtype=np.int32), popularity, traits)["diversity10"]

    assert diversity([0, 2]) == pytest.approx(0.0)
    assert diversity([0, 1]) == pytest.approx(1.0)
    assert diversity([0, 1, 2]) == pytest.approx(2 / 3)
    assert diversity([0, 2], [0, 1], [3, -1]) == pytest.approx(0.5)


def test_chunks_do_not_change_ranks(data: Interactions) -> None:
    rng = np.random.default_rng(1)
    at = np.arange(1, data.rows.size)
    at = at[data.users[at] == data.users[at - 1]]
    vectors = rng.normal(size=(at.size, 8)).astype(np.float32)
    table = rng.normal(size=(len(data.items), 8)).astype(np.float32)
    ranks = ranks_of_targets(vectors, table, data, at, data.rows)
    assert at.size > 512  # more than one chunk
    for line in (0, 511, 512, at.size - 1):
        history = data.rows[data.starts[data.users[at[line]]] : at[line]]
        assert ranks[line] == rank_of(table @ vectors[line], int(data.rows[at[line]]), history)


def test_popularity_counts_only_what_is_visible(data: Interactions) -> None:
    split = leave_last_out(data)
    scores = popularity_scorer(data, split.train_ends)(split.test_at[:2])
    seen = np.concatenate([data.rows[s:e] for s, e in zip(data.starts[:-1], split.train_ends, strict=True)])
    counts = np.bincount(seen, minlength=len(data.items))
    assert np.allclose(scores[0] * counts.max(), counts)


def test_markov_follows_the_ring(data: Interactions) -> None:
    split = leave_last_out(data)
    scores = markov_scorer(data, split.train_ends)(split.test_at)
    counts = np.zeros((len(data.items), len(data.items)))
    for start, end in zip(data.starts[:-1], split.train_ends, strict=True):
        for at in range(start, end - 1):
            counts[data.rows[at], data.rows[at + 1]] += 1
    assert np.array_equal(np.floor(scores + 0.5), counts[data.rows[split.test_at - 1]])
