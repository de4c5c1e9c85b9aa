"""Sessions in evaluation: where they begin, that nothing before them is read, and that rivals know only them."""

from dataclasses import replace

import numpy as np
import pytest

from central.datasets.interactions import Interactions, leave_last_out
from central.evaluation.sessions import GAP_S, session_figures, session_knn, session_queries
from central.training.config import RankerConfig, default_config
from central.training.ranker import RankerNetwork
from central.training.retrieval import TwoTowerModel
from central.training.tables import item_tables
from central.training.towers import catalogue_vectors
from infra.contracts.features import RANKING_FEATURES


def test_a_session_begins_behind_the_last_pause_or_with_the_user(data: Interactions) -> None:
    at, begins = session_queries(data, leave_last_out(data))
    assert at.size
    for place, begin in zip(at, begins, strict=True):
        start = data.starts[data.users[place]]
        gaps = np.diff(data.times_s[start : place + 1])
        assert gaps[-1] <= GAP_S
        pauses = np.flatnonzero(gaps > GAP_S)
        assert begin == (start + pauses[-1] + 1 if pauses.size else start)


def test_a_user_who_paused_is_not_asked(data: Interactions) -> None:
    times = data.times_s.copy()
    times[data.starts[1:] - 1] += 10 * GAP_S
    late = replace(data, times_s=times)
    assert session_queries(late, leave_last_out(late))[0].size == 0


def test_session_knn_follows_sessions_that_share_items(data: Interactions) -> None:
    flat = np.zeros(len(data.items), dtype=np.float32)
    split = leave_last_out(data)
    rows = data.rows[data.starts[0] : split.known_ends[0]]
    scores = session_knn(data, split, [rows[:2]], flat)
    assert scores.shape == (1, len(data.items))
    assert scores[0, rows[2]] > np.median(scores[0])


def test_every_model_is_asked_for_the_same_and_nothing_before_the_session_counts(data: Interactions) -> None:
    split = leave_last_out(data)
    towers = TwoTowerModel(
        config=default_config(data, seed=0, bfloat16=False), data=data,
        item_shares=np.ones(len(data.items), dtype=np.float32),
    )  # fmt: skip
    width = len(RANKING_FEATURES)
    ranker = RankerNetwork(
        config=RankerConfig(), mean=np.zeros(width, np.float32), deviation=np.ones(width, np.float32)
    )
    tables = item_tables(data, split.known_ends, catalogue_vectors(towers.items), ease_penalty=100.0)
    found = session_figures(towers, ranker, data, split, tables)
    assert set(found) == {
        "tower_and_ranker", "tower", "session_knn", "transitions", "item_knn", "ease", "popularity",
    }  # fmt: skip
    assert len({figures["users"] for figures in found.values()}) == 1
    at, begins = session_queries(data, split)
    other = data.rows.copy()
    for place, begin in zip(at, begins, strict=True):
        other[data.starts[data.users[place]] : begin] = 0
    changed = session_figures(towers, ranker, replace(data, rows=other), split, tables)
    for name in ("tower", "transitions", "item_knn", "ease", "popularity"):
        assert changed[name] == pytest.approx(found[name]), name
