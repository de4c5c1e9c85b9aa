"""The pure stages: history, sources, merging, L1, plans, lifetimes."""

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.contracts.features import QueryState, scaled
from infra.contracts.messages import SLATE_ITEMS_MAX, RecommendationType, Source
from region.funnel import sources
from region.funnel.merging import SOURCES, Pool, best_first, light_scores, merge
from region.funnel.plans import (
    BUDGET_DEFAULT_S,
    BUDGET_MAX_S,
    DEGRADED_LIFETIME,
    LIFETIMES,
    Budget,
    lifetime_for,
    slots_for,
)
from region.funnel.query import read_history
from region.funnel.sources import Candidates, Trend, standing_of
from region.funnel.tables import ReleaseTables, unit_rows
from region.rules.schema import Lives
from region.store.port import HistoryEntry, Interactions
from tests.unit.region.worlds import NOW_MS, bundle_tables


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> ReleaseTables:
    path: Path = tmp_path_factory.mktemp("bundle")
    return bundle_tables(path)


def entry(item: str, *, strength: int = 5, minute: int = 0) -> HistoryEntry:
    return HistoryEntry(item=item, strength=strength, at_ms=NOW_MS + 60_000 * minute)


def test_history_is_put_in_order_and_counts_what_the_release_lacks(tables: ReleaseTables) -> None:
    past = Interactions.of((entry("item-2", minute=-1), entry("gone", minute=-3), entry("item-1", minute=-5)))
    history = read_history(past, ("item-9", "item-2", "gone too"), tables=tables, now_s=NOW_MS / 1000)
    assert history.rows.tolist() == [1, 2, 9]
    assert history.strengths.tolist() == [5, 5, 3]
    assert np.all(np.diff(history.times_s) > 0)
    assert history.unknown == 2


def candidates(source: Source, *rows: int) -> Candidates:
    return Candidates(source, np.asarray(rows, np.int32), np.linspace(1.0, 0.1, len(rows), dtype=np.float32))


WEIGHTS = {Source.ANN: 1.0, Source.SIMILAR_TO_RECENT: 0.8, Source.POPULAR: 0.2}
row_lists = st.lists(st.integers(0, 30), unique=True, max_size=20)


def named(pool: Pool) -> list[Source]:
    return [SOURCES[owner] for owner in pool.owners.tolist()]


@given(row_lists, row_lists, row_lists)
def test_merging_keeps_every_row_once_best_first(ann: list[int], recent: list[int], popular: list[int]) -> None:
    groups = [
        candidates(Source.ANN, *ann),
        candidates(Source.SIMILAR_TO_RECENT, *recent),
        candidates(Source.POPULAR, *popular),
    ]
    pool = merge(groups, WEIGHTS)
    assert sorted(pool.rows.tolist()) == sorted({*ann, *recent, *popular})
    assert np.all(np.diff(pool.fused) <= 0)
    for row, source, similar in zip(pool.rows.tolist(), named(pool), pool.similar.tolist(), strict=True):
        parts = {
            group.source: WEIGHTS[group.source] / (61.0 + group.rows.tolist().index(row))
            for group in groups
            if row in group.rows
        }
        assert parts[source] == max(parts.values())
        assert (similar > 0) == (row in recent)


def test_a_row_that_two_sources_put_up_beats_its_neighbours() -> None:
    pool = merge([candidates(Source.ANN, 1, 2, 3), candidates(Source.SIMILAR_TO_RECENT, 3)], WEIGHTS)
    assert pool.rows.tolist() == [3, 1, 2]
    assert named(pool)[0] is Source.ANN


def test_light_scores_follow_the_vector(tables: ReleaseTables) -> None:
    pool = merge([candidates(Source.ANN, *range(50))], WEIGHTS)
    vector = tables.arrays.vectors[7]
    nobody = QueryState(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0), 0.0, vector)
    scores = light_scores(pool, nobody, tables)
    order = pool.rows[best_first(scores, 5)].tolist()
    assert int((tables.arrays.vectors @ vector).argmax()) in order


def test_scaling_survives_equal_and_missing_values() -> None:
    assert scaled(np.zeros(0, np.float32)).size == 0
    assert scaled(np.full(3, 4.0, np.float32)).tolist() == [0.0, 0.0, 0.0]
    assert scaled(np.array([2.0, 4.0, 3.0], np.float32)).tolist() == [0.0, 1.0, 0.5]
    assert unit_rows(np.zeros((1, 3), np.float32)).tolist() == [[0.0, 0.0, 0.0]]


def test_similar_to_recent_leaves_out_what_was_disliked(tables: ReleaseTables) -> None:
    liked = read_history(
        Interactions.of((entry("item-5"), entry("item-6", minute=1))), (), tables=tables, now_s=NOW_MS / 1000
    )
    found = sources.similar_to_recent(tables, liked, limit=100)
    expected = {*tables.arrays.similar_rows[5].tolist(), *tables.arrays.similar_rows[6].tolist()}
    assert set(found.rows.tolist()) == expected
    assert np.all(np.diff(found.scores) <= 0)
    assert found.rows[0] in tables.arrays.similar_rows[6]
    disliked = read_history(Interactions.of((entry("item-5", strength=1),)), (), tables=tables, now_s=NOW_MS / 1000)
    assert sources.similar_to_recent(tables, disliked, limit=100).rows.size == 0


def test_exact_search_in_a_category(tables: ReleaseTables) -> None:
    vector = tables.arrays.vectors[2]
    found = sources.nearest_in_category(tables, vector, category="drama", limit=4)
    rows = tables.category_rows["drama"]
    best = rows[np.argsort(-(tables.arrays.vectors[rows] @ vector))][:4]
    assert found.rows.tolist() == best.tolist()


def test_live_counts_move_an_item_up_without_turning_the_trend_over(tables: ReleaseTables) -> None:
    standing = standing_of(tables, "us-east")
    weakest = int(standing.trend[: tables.shape.num_items].argmin())
    before, few, many = (Trend(tables, standing, live) for live in ({}, {weakest: 1.0}, {weakest: 500.0}))
    everything = before.best(None, 50)
    assert everything.rows.tolist() == np.argsort(-standing.trend[: tables.shape.num_items], kind="stable").tolist()
    assert few.best(None, 50).scores[few.best(None, 50).rows == weakest] - standing.trend[weakest] < 0.05
    assert many.best(None, 1).rows.tolist() == [weakest]
    own = tables.items[weakest].categories[0]
    assert many.best(own, 1).rows.tolist() == [weakest]
    other = next(name for name in tables.category_rows if name != own)
    assert many.best(other, 50).rows.tolist() == before.best(other, 50).rows.tolist()


def test_a_regions_own_lists_come_first(tables: ReleaseTables) -> None:
    popular = {"region:us-west": ("item-40", "gone", "item-41")}
    lists = msgspec.structs.replace(tables.lists, popular=popular, trending={"region:us-west": ("item-9",)})
    standing = standing_of(dataclasses.replace(tables, lists=lists), "us-west")
    assert standing.popular[:2].tolist() == [40, 41]
    assert sorted(standing.popular.tolist()) == list(range(50))
    assert standing.trend[9] == pytest.approx(tables.arrays.trend[9] / 2 + 0.5)


def test_slots_leave_room_to_filter_and_page() -> None:
    assert [slots_for(n) for n in (1, 10, 50, 200)] == [21, 30, 150, SLATE_ITEMS_MAX]


def test_lifetimes_shorten_only_for_parts_of_the_region() -> None:
    assert set(LIFETIMES) == set(RecommendationType)
    assert lifetime_for(RecommendationType.PERSONAL, ("vector-release",), {}).max_age_s == 60
    assert lifetime_for(RecommendationType.PERSONAL, ("unknown-item", "ann"), {}) is DEGRADED_LIFETIME
    ruled = {RecommendationType.PERSONAL: Lives(max_age_s=7.0)}
    assert lifetime_for(RecommendationType.PERSONAL, (), ruled).max_age_s == 7.0
    assert lifetime_for(RecommendationType.SESSION, (), ruled).max_age_s != 7.0
    assert lifetime_for(RecommendationType.PERSONAL, ("ann",), ruled) is DEGRADED_LIFETIME


def test_budgets_run_out() -> None:
    assert Budget.of(None, started_s=5.0).total_s == BUDGET_DEFAULT_S
    assert Budget.of(1e12, started_s=5.0).total_s == BUDGET_MAX_S
    budget = Budget.of(200.0, started_s=5.0)
    assert budget.total_s == pytest.approx(0.2)
    assert budget.timeout_s("ann", now_s=5.0) == pytest.approx(0.07)
    assert budget.timeout_s("store", now_s=5.15) == pytest.approx(0.05)
    assert budget.timeout_s("ann", now_s=5.15) == 0.0
