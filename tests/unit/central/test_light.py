"""L1: drawn to the ranker over whole pools, tried on other users, and only taken where it keeps more."""

import numpy as np
import pytest

from central.datasets.interactions import Interactions, leave_last_out
from central.training import light
from central.training.light import LightPool, distil, fit, pool_for, recall_kept
from central.training.tables import item_tables
from infra.contracts.features import LIGHT_FEATURES, LIGHT_WEIGHTS, FloatArray, ItemTables, light_features


@pytest.fixture(scope="module")
def tables(data: Interactions) -> ItemTables:
    vectors = np.random.default_rng(0).normal(size=(len(data.items), 8)).astype(np.float32)
    return item_tables(data, leave_last_out(data).train_ends, vectors, ease_penalty=100.0)


@pytest.fixture(scope="module")
def pools(data: Interactions, tables: ItemTables) -> list[LightPool]:
    rng = np.random.default_rng(1)
    at = leave_last_out(data).valid_at
    return [pool_for(data, int(place), rng.normal(size=8).astype(np.float32), tables) for place in at]


def of(pool: LightPool, tables: ItemTables) -> FloatArray:
    return light_features(pool.state, pool.rows, pool.similar, tables)


def test_a_pool_holds_nothing_of_the_history_and_nothing_twice(pools: list[LightPool], tables: ItemTables) -> None:
    for pool in pools:
        assert not np.isin(pool.rows, pool.state.rows).any()
        assert np.unique(pool.rows).size == pool.rows.size
        features = of(pool, tables)
        assert features.shape == (pool.rows.size, len(LIGHT_FEATURES))
        assert (features.min(), features.max()) == (0.0, 1.0)
    assert any(pool.similar.max() > 0.0 for pool in pools)


def test_what_a_linear_teacher_thinks_is_learned(pools: list[LightPool], tables: ItemTables) -> None:
    teacher = np.asarray([3.0, 1.0, -2.0, 0.5, 0.0, 4.0])
    features = [of(pool, tables) for pool in pools]
    found = fit(features, [(one @ teacher).astype(np.float32) for one in features])
    # All of the ring lies within the window of the trend: there it says what popularity says.
    found[2:4] = teacher[2:4] + (found[2] + found[3] - teacher[2] - teacher[3]) / 2
    assert np.abs(found - teacher).max() < 0.2


def test_a_student_is_taken_only_where_it_keeps_more(
    pools: list[LightPool], tables: ItemTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(light, "KEPT", 10)
    contrary = [of(pool, tables) @ np.asarray([-3.0, 0.0, -2.0, 0.0, 1.0, -1.0], np.float32) for pool in pools]
    found = distil(pools, contrary, tables)
    assert found.recall_after > found.recall_before + 0.3
    assert found.weights["retrieval"] < 0.0
    same = [of(pool, tables) @ np.asarray([1.0, 1.0, 0.1, 0.0, 0.0, 0.0], np.float32) for pool in pools]
    assert distil(pools, same, tables).recall_before == 1.0
    assert distil(pools, same, tables).weights["retrieval"] == LIGHT_WEIGHTS["retrieval"]


def test_recall_counts_the_rankers_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(light, "KEPT", 5)
    monkeypatch.setattr(light, "TOP", 2)
    ranked = np.asarray([9.0, 8.0, 1, 1, 1, 1, 1, 1], np.float32)
    assert recall_kept(np.arange(8.0)[::-1], ranked) == 1.0
    assert recall_kept(np.arange(8.0), ranked) == 0.0
