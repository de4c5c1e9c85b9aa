"""The parts of an evaluation: slices, intervals, the exact order, the leak check, the split by time, the report."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from central.datasets.interactions import Interactions, global_time_split, leave_last_out
from central.datasets.text import DatasetError
from central.evaluation.baselines import ease_scorer, ials_scorer, popularity_scorer
from central.evaluation.exact import exact_ranks, exact_sample
from central.evaluation.leaks import check_leaks
from central.evaluation.metrics import NEVER, ranking_metrics, ranks_of_scores
from central.evaluation.report import render
from central.evaluation.results import Evaluation, LeakCheck
from central.evaluation.slices import intervals, popularity_bucket, sliced
from central.evaluation.splits import split_for
from central.training.config import RankerConfig
from central.training.popularity import item_counts
from central.training.ranker import RankerNetwork
from central.training.tables import item_tables
from infra.contracts.features import RANKING_FEATURES


def test_slices_hold_every_user_once(data: Interactions) -> None:
    split = leave_last_out(data)
    ranks = np.random.default_rng(0).integers(1, 40, split.users.size)
    found = sliced(data, split, ranks, item_counts(data, split.known_ends))
    for name, rows in found.items():
        assert sum(row["users"] for row in rows.values()) == split.users.size, name
        mean = sum(row["users"] * row["ndcg10"] for row in rows.values()) / split.users.size
        assert mean == pytest.approx(ranking_metrics(ranks)["ndcg10"]), name
    assert set(found["cohort"]) <= {"1-9", "10-49"}


def test_buckets_of_popularity_hold_about_as_many_interactions() -> None:
    counts = np.array([1.0, 30.0, 10.0, 10.0, 9.0, 0.0])
    assert popularity_bucket(counts).tolist() == [2, 0, 1, 2, 2, 2]


def test_intervals_hold_the_mean_and_shrink_with_the_users() -> None:
    ranks = np.random.default_rng(0).integers(1, 30, 2000)
    wide, narrow = intervals(ranks[:100]), intervals(ranks)
    for name in ("hr10", "ndcg10"):
        assert narrow[name][0] < ranking_metrics(ranks)[name] < narrow[name][1]
        assert narrow[name][1] - narrow[name][0] < 0.5 * (wide[name][1] - wide[name][0])
    assert intervals(ranks[:0]) == {}


def test_the_exact_order_is_what_scoring_everything_gives(data: Interactions) -> None:
    """An untrained ranker keeps the retrieval order, so the exact ranks are those of the dot product."""
    split = leave_last_out(data)
    rng = np.random.default_rng(0)
    tables = item_tables(data, split.known_ends, rng.normal(size=(40, 4)).astype(np.float32), ease_penalty=50.0)
    vectors = rng.normal(size=(split.test_at.size, 4)).astype(np.float32)
    network = RankerNetwork(
        config=RankerConfig(), mean=np.zeros(len(RANKING_FEATURES), dtype=np.float32),
        deviation=np.ones(len(RANKING_FEATURES), dtype=np.float32),
    )  # fmt: skip
    found = exact_ranks(network, data, split.test_at, vectors, tables)
    assert np.array_equal(found, ranks_of_scores([vectors @ tables.vectors.T], data, split.test_at, data.rows))
    repeated = replace(data, rows=data.rows.copy())
    repeated.rows[split.test_at[0]] = data.rows[split.test_at[0] - 1]
    assert exact_ranks(network, repeated, split.test_at[:1], vectors[:1], tables).tolist() == [NEVER]
    assert exact_sample(100, 10_000_000).size == 50
    assert exact_sample(100, 40).tolist() == list(range(100))


def test_the_leak_check_passes_and_finds_what_is_wrong(data: Interactions) -> None:
    split = leave_last_out(data)
    good = check_leaks(data, split, history_length=20)
    assert (good.passed, good.learned_inputs, good.tables_moved) == (True, 0, ())
    assert good.later_share > 0.05
    leaky = replace(split, train_ends=data.starts[1:] - 1)
    found = check_leaks(data, leaky, history_length=20)
    assert not found.passed
    assert found.learned_inputs > 0
    assert {"popularity", "similar", "followers", "soon"} <= set(found.tables_moved)


def test_a_split_by_time_knows_nothing_of_later(data: Interactions) -> None:
    split = split_for(data, "global-time")
    cut = data.times_s[split.test_at].min()
    known = np.arange(data.rows.size) < split.known_ends[data.users]
    assert (data.times_s[known] < cut).all()
    assert (data.times_s[~known] >= cut).all()
    assert check_leaks(data, split, history_length=20).later_share == 0.0
    assert check_leaks(data, split, history_length=20).passed
    timeless = replace(data, card=msgspec.structs.replace(data.card, has_times=False))
    with pytest.raises(DatasetError, match="no timestamps"):
        global_time_split(timeless)


def test_baselines_beat_chance_and_popularity_on_the_ring(data: Interactions) -> None:
    split = leave_last_out(data)
    ends = split.known_ends
    found = {
        name: ranking_metrics(ranks_of_scores([scorer(split.test_at)], data, split.test_at, data.rows))["ndcg10"]
        for name, scorer in {
            "popularity": popularity_scorer(data, ends),
            "ease": ease_scorer(data, ends, 50.0),
            "ials": ials_scorer(data, ends, valid_ends=split.train_ends, valid_at=split.valid_at),
        }.items()
    }
    assert found["ease"] > 1.5 * found["popularity"]
    assert found["ials"] > 1.5 * found["popularity"]


def test_the_report_is_one_page_with_its_plots_and_says_when_it_must_not_be_believed() -> None:
    figures = {"hr10": 0.2, "ndcg10": 0.1, "users": 9.0}
    seen = Evaluation(
        dataset="<shop>", dataset_sha256="0", protocol="p", ties="file", users=9, items=5,
        stage={"retrieval": figures, "served": figures, "served_same_users": figures},
        baselines={"popularity": figures}, regions={}, untied={}, standard_error={}, train_s=1.0,
        slices={"region": {"eu": figures}}, intervals={"retrieval": {"ndcg10": (0.05, 0.15)}},
        calibration={"click": 0.1}, curve=(0.1, 0.2), variants={"items only": figures},
        leaks=LeakCheck(passed=False, learned_inputs=3, tables_moved=("soon",), taken_before=0.0, later_share=0.0),
    )  # fmt: skip
    page = render(seen)
    assert "&lt;shop&gt;" in page
    assert "<shop>" not in page
    assert page.count("data:image/png;base64,") == 3  # stages, regions, training
    assert "FAILED: soon" in page
    assert "://" not in page
    assert "items only" in page
