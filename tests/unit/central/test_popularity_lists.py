"""Item-to-item lists, popularity, trend, and the release's ready-made lists."""

import numpy as np
import pytest

from central.datasets.interactions import Interactions, leave_last_out
from central.evaluation.baselines import nearest_items_scorer
from central.evaluation.metrics import ranking_metrics, ranks_of_scores
from central.training.popularity import item_counts, log_share, recent_counts, release_lists
from central.training.similar import similar_items
from central.training.tables import item_tables


def test_similar_items_are_scaled_ordered_and_never_the_item_itself(data: Interactions) -> None:
    rows, scores = similar_items(data, data.starts[1:], neighbours=6)
    assert rows.shape == scores.shape == (40, 6)
    assert rows.dtype == np.int32
    assert scores.dtype == np.float32
    assert float(scores.max()) == 1.0
    assert (np.diff(scores, axis=1) <= 0).all()
    assert (scores >= 0).all()
    for row, neighbours in enumerate(rows):
        known = neighbours[neighbours >= 0]
        assert row not in known
        assert len(set(known.tolist())) == len(known)
        assert (neighbours[len(known) :] == -1).all()


def test_neighbours_on_the_ring_come_first(data: Interactions) -> None:
    rows, _ = similar_items(data, data.starts[1:])
    number = [int(item[1:]) for item in data.items.ids]
    near = [
        min((number[row] - number[rows[row, 0]]) % 40, (number[rows[row, 0]] - number[row]) % 40) for row in range(40)
    ]
    assert np.mean(np.array(near) <= 2) > 0.9


def test_what_is_not_visible_does_not_count(data: Interactions) -> None:
    rows, scores = similar_items(data, data.starts[:-1])
    assert (rows == -1).all()
    assert (scores == 0).all()
    assert item_counts(data, data.starts[:-1]).sum() == 0
    assert recent_counts(data, data.starts[:-1]).sum() == 0
    assert (log_share(np.zeros(3)) == 0).all()


def test_popularity_is_a_log_share(data: Interactions) -> None:
    counts = item_counts(data, data.starts[1:])
    assert counts.sum() == data.rows.size
    assert log_share(counts) == pytest.approx(np.log1p(counts) / np.log1p(counts).max(), abs=1e-6)


def test_lists_hold_what_their_key_says(data: Interactions) -> None:
    rows, _ = similar_items(data, data.starts[1:])
    lists = release_lists(data, data.starts[1:], rows)
    assert {"all", "region:us-east", "category:tea"} <= lists.popular.keys()
    assert lists.popular.keys() == lists.trending.keys()
    counts = item_counts(data, data.starts[1:])
    best = [data.items.ids.index(item) for item in lists.popular["all"]]
    assert (np.diff(counts[best]) <= 0).all()
    assert set(lists.popular["all"]) == set(data.items.ids)
    tea = {item for item, labels in zip(data.items.ids, data.items.labels, strict=True) if "tea" in labels}
    assert set(lists.popular["category:tea"]) == tea
    assert lists.titles["i3"] == "Item 3"
    assert "i3" not in lists.similar["i3"]
    east = data.user_regions[data.users] == data.regions.index("us-east")
    of_east = np.bincount(data.rows[east], minlength=40)
    first = data.items.ids.index(lists.popular["region:us-east"][0])
    assert of_east[first] == of_east.max()


def test_nearest_items_beat_chance_on_the_ring(data: Interactions) -> None:
    split = leave_last_out(data)
    tables = item_tables(data, split.train_ends, np.zeros((40, 4), dtype=np.float32), ease_penalty=50.0)
    scores = nearest_items_scorer(data, split.train_ends, tables)(split.test_at)
    ranks = ranks_of_scores([scores], data, split.test_at, data.rows)
    assert ranking_metrics(ranks)["hr10"] > 0.6
