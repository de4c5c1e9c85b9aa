"""Cold items are out of training as if they had never been there, and hits are counted fairly."""

import numpy as np
import pytest

from central.commands import evaluate_cold, train
from central.datasets.interactions import Interactions
from central.evaluation.cold import SHOWN, _queries, chance_of_showing, cold_mask, without_items
from central.training.windows import event_table, history_batch


def test_what_is_taken_out_leaves_no_trace(data: Interactions) -> None:
    cold = cold_mask(data, 0)
    warm = without_items(data, cold)
    assert cold.sum() == 2 * SHOWN
    assert len(warm.items) == 40 - cold.sum()
    assert warm.rows.size == (~cold[data.rows]).sum()
    left = [data.items.ids[row] for row in data.rows if not cold[row]]
    assert [warm.items.ids[row] for row in warm.rows] == left
    assert (np.diff(warm.starts) == np.bincount(warm.users, minlength=warm.num_users)).all()


def test_a_query_sees_the_warm_history_before_it(data: Interactions) -> None:
    cold = cold_mask(data, 0)
    warm = without_items(data, cold)
    queries = _queries(data, warm, cold, 0)
    histories = history_batch(event_table(warm), queries.begins, queries.at, 20)
    asked = [place for place in np.flatnonzero(cold[data.rows]) if _warm_past(data, cold, place)]
    assert queries.at.size == len(asked)
    for line, place in enumerate(asked):
        wanted = [data.items.ids[row] for row in _warm_past(data, cold, place)]
        assert [warm.items.ids[item - 1] for item in histories.items[line] if item] == wanted[-20:]
        assert queries.gap_s[line] >= 0.0


def _warm_past(data: Interactions, cold: np.ndarray, place: np.signedinteger) -> list[int]:
    past = data.rows[data.starts[data.users[place]] : place]
    return [int(row) for row in past if not cold[row]]


def test_items_that_score_alike_share_their_places() -> None:
    targets = np.array([3])
    assert chance_of_showing(np.zeros((1, 40), dtype=np.float32), targets) == SHOWN / 40
    assert chance_of_showing(np.arange(40, dtype=np.float32)[None], targets) == 0.0
    assert chance_of_showing(-np.arange(40, dtype=np.float32)[None], targets) == 1.0


def test_the_figures_of_the_ring(dataset_folder, tmp_path) -> None:
    train(dataset=dataset_folder, out=tmp_path / "model", epochs=1, seed=1)
    found = evaluate_cold(model=tmp_path / "model", dataset=dataset_folder)
    assert found.items == 20
    assert found.random_hr10 == pytest.approx(0.5)
    assert 0.0 < found.hr10 <= 1.0
    assert 0.0 < found.popularity_by_category_hr10 <= 1.0
