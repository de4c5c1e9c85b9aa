"""Features have one definition; these are its laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.contracts.features import (
    EASE_EVENTS,
    GAP_BUCKETS,
    GAP_CLASSES,
    GAP_UNKNOWN,
    MARKS,
    RANKING_FEATURES,
    RECENT_EVENTS,
    IntArray,
    ItemLinks,
    ItemTables,
    QueryState,
    category_affinity,
    encode_history,
    gap_bucket,
    gap_class,
    item_to_item_features,
    ranking_features,
)


@given(st.lists(st.floats(-1e3, 1e12), min_size=1, max_size=50))
def test_gap_buckets_are_bounded_and_monotonic(gaps: list[float]):
    buckets = gap_bucket(np.sort(np.asarray(gaps)))
    assert (np.diff(buckets) >= 0).all()
    assert buckets.min() >= 0
    assert buckets.max() < GAP_UNKNOWN < GAP_BUCKETS


def test_no_gap_has_a_bucket_of_its_own():
    assert gap_bucket(np.array([0.0, 1.0])).tolist() == [0, 2]


def test_history_is_right_aligned_with_gaps_on_both_sides():
    encoded = encode_history([5, 6, 7], [3, 4, 5], [0.0, 0.0, 100.0], now_s=4000.0, length=5)
    assert encoded.items.tolist() == [0, 0, 6, 7, 8]
    assert encoded.strengths.tolist() == [0, 0, 3, 4, 5]
    assert encoded.gaps_before.tolist() == [0, 0, GAP_UNKNOWN, 0, 7]
    assert encoded.gaps_after.tolist() == [0, 0, 0, 7, 12]


def test_a_longer_history_keeps_the_gap_before_its_first_event():
    whole = encode_history([1, 2, 3], [5, 5, 5], [0.0, 64.0, 128.0], now_s=200.0, length=2)
    assert whole.items.tolist() == [3, 4]
    assert whole.gaps_before.tolist() == gap_bucket(np.array([64.0, 64.0])).tolist()


def test_an_empty_history_is_all_padding():
    assert all(not part.any() for part in encode_history([], [], [], now_s=1.0, length=4))


@given(st.integers(0, 30), st.integers(1, 12))
def test_encoding_is_what_is_left_of_the_longest_one(events: int, length: int):
    rng = np.random.default_rng(events)
    rows, strengths = rng.integers(0, 9, events), rng.integers(1, 6, events)
    times = np.sort(rng.uniform(0, 1e6, events))
    short = encode_history(rows, strengths, times, now_s=2e6, length=length)
    long = encode_history(rows, strengths, times, now_s=2e6, length=64)
    for a, b in zip(short, long, strict=True):
        assert a.tolist() == b[-length:].tolist()


@pytest.fixture
def tables() -> ItemTables:
    similar_rows = np.array([[1, 2], [0, -1], [0, 3], [-1, -1]], dtype=np.int32)
    followers = np.full((4, GAP_CLASSES, 1), -1, dtype=np.int32)
    followers[0, :, 0] = [1, 2, 3, 3]  # after item 0: 1 at once, 2 within a minute, 3 later
    return ItemTables(
        vectors=np.eye(4, dtype=np.float32),
        popularity=np.array([1.0, 0.5, 0.2, 0.1], dtype=np.float32),
        trend=np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32),
        categories=np.array([[1, 0], [1, 0], [0, 1], [0.5, 0.5]], dtype=np.float32),
        similar_rows=similar_rows,
        similar_scores=np.where(similar_rows >= 0, 0.5, 0.0).astype(np.float32),
        strength=np.full(4, 0.6, dtype=np.float32),
        first_seen_s=np.array([0.0, 500.0, 900.0, 5000.0]),
        followers=ItemLinks(followers, np.where(followers >= 0, 0.8, 0.0).astype(np.float32)),
        soon=links([[3], [-1], [-1], [-1]], 0.4),
        ease=links([[1, 3], [-1, -1], [3, -1], [-1, -1]], 0.25),
    )


def links(rows: list[list[int]], score: float) -> ItemLinks:
    leads = np.array(rows, dtype=np.int32)
    return ItemLinks(leads, np.where(leads >= 0, score, 0.0).astype(np.float32))


def query(rows: list[int], strengths: list[int], times: list[float], now_s: float = 1000.0) -> QueryState:
    return QueryState(
        rows=np.array(rows, dtype=np.int32),
        strengths=np.array(strengths, dtype=np.int32),
        times_s=np.array(times, dtype=np.float64),
        now_s=now_s,
        vector=np.array([1, 2, 3, 4], dtype=np.float32),
    )


def test_dislikes_count_against_their_category(tables: ItemTables):
    affinity = category_affinity(query([0, 2], [5, 1], [1000.0, 1000.0]), tables.categories)
    assert affinity.tolist() == pytest.approx([0.5, -0.5])


def test_older_events_count_less(tables: ItemTables):
    affinity = category_affinity(query([0, 2], [5, 5], [0.0, 30 * 86_400.0], 30 * 86_400.0), tables.categories)
    assert affinity.tolist() == pytest.approx([1 / 3, 2 / 3])


def features_of(state: QueryState, tables: ItemTables, candidates: list[int]) -> dict[str, list[float]]:
    found = ranking_features(state, np.array(candidates, dtype=np.int32), tables)
    assert found.shape == (len(candidates), len(RANKING_FEATURES))
    assert found.dtype == np.float32
    return {name: found[:, at].tolist() for at, name in enumerate(RANKING_FEATURES)}


def test_similarity_ignores_padding_and_weighs_later_events_more(tables: ItemTables):
    found = features_of(query([2, 0], [5, 5], [1.0, 2.0]), tables, [0, 1, 2, 3])
    assert found["similar_to_last"] == [0, 0.5, 0.5, 0]
    assert found["similar_to_recent"] == [0.25, 0.5, 0.5, 0.25]


def test_features_follow_the_order_of_the_candidates(tables: ItemTables):
    state = query([2, 0], [5, 4], [1.0, 2.0])
    one, other = features_of(state, tables, [0, 1, 2, 3]), features_of(state, tables, [3, 1, 0])
    for name in RANKING_FEATURES:
        assert other[name] == [one[name][row] for row in (3, 1, 0)], name


@pytest.mark.parametrize(("gap_s", "next_row"), [(0.0, 1), (30.0, 2), (600.0, 3), (1e6, 3)])
def test_what_follows_depends_on_the_gap(tables: ItemTables, gap_s: float, next_row: int):
    found = features_of(query([0], [5], [0.0], gap_s), tables, [1, 2, 3])
    assert found["follows_last"] == pytest.approx([0.8 if row == next_row else 0.0 for row in (1, 2, 3)])


def test_ease_sums_over_the_history_and_recency_is_counted_apart(tables: ItemTables):
    found = features_of(query([0, 2], [5, 5], [1.0, 2.0]), tables, [1, 3])
    assert found["ease"] == [0.25, 0.5]
    long = features_of(query([0] + [1] * RECENT_EVENTS, [5] * 11, [float(at) for at in range(11)]), tables, [1, 3])
    assert (long["ease"], long["ease_of_recent"]) == ([0.25, 0.25], [0, 0])


def test_ranking_features_hold_the_retrieval_score_and_the_age(tables: ItemTables):
    found = features_of(query([0], [5], [990.0]), tables, [3, 1])
    assert found["retrieval_score"] == [4, 2]
    assert found["age"][0] == 0.0  # not seen before the request
    assert found["age"][1] > 0.0


def test_ranking_features_of_a_newcomer_are_finite(tables: ItemTables):
    assert np.isfinite(ranking_features(query([], [], []), np.arange(4, dtype=np.int32), tables)).all()


def summed_one_by_one(links: ItemLinks, candidates: IntArray) -> list[float]:
    """What `item_to_item_features` says, without a shortcut: link by link, in double precision."""
    sums = dict.fromkeys(candidates.tolist(), 0.0)
    for row, score in zip(links.rows.ravel().tolist(), links.scores.ravel().tolist(), strict=True):
        if row in sums:
            sums[row] += score
    return [float(np.float32(value)) for value in sums.values()]


@given(st.integers(0, 12), st.integers(0, 400), st.integers(0, 10_000))
def test_sums_over_links_are_those_of_every_link_in_its_order(events: int, count: int, seed: int):
    """Rows whose last bits are the same share a mark; they are told apart all the same."""
    rng = np.random.default_rng(seed)
    shape, reach = 40, 8 * MARKS
    pool = rng.choice(np.unique(np.concatenate([rng.integers(0, reach, 200), rng.integers(0, 9, 200) * MARKS])), 60)

    def links(*tail: int) -> ItemLinks:
        rows = rng.choice(np.append(pool, -1), size=(shape, *tail)).astype(np.int32)
        return ItemLinks(rows, rng.random((shape, *tail)).astype(np.float32))

    near, followers, soon, ease = links(7), links(GAP_CLASSES, 3), links(4), links(5)
    numbers = np.zeros(shape, dtype=np.float32)
    tables = ItemTables(
        vectors=numbers[:, None], popularity=numbers, trend=numbers, strength=numbers,
        first_seen_s=numbers.astype(np.float64), categories=numbers[:, None], similar_rows=near.rows,
        similar_scores=near.scores, followers=followers, soon=soon, ease=ease,
    )  # fmt: skip
    candidates = rng.permutation(np.unique(rng.choice(np.append(pool, np.arange(count)), 50))).astype(np.int32)
    state = query(rng.integers(0, shape, events).tolist(), [5] * events, [float(at) for at in range(events)])
    found = item_to_item_features(state, candidates, tables)
    recent = state.rows[-RECENT_EVENTS:][::-1]
    fading = (1.0 / (1.0 + np.arange(recent.size, dtype=np.float32)))[:, None]
    last, kinds = recent[:1], gap_class(np.asarray([state.now_s - state.times_s[-1]]) if events else np.zeros(1))
    wanted = {
        "similar_to_last": ItemLinks(near.rows[last], near.scores[last]),
        "similar_to_recent": ItemLinks(near.rows[recent], near.scores[recent] * fading),
        "follows_last": ItemLinks(followers.rows[last, kinds], followers.scores[last, kinds]),
        "follows_recent": ItemLinks(soon.rows[recent], soon.scores[recent] * fading),
        "ease": ItemLinks(ease.rows[state.rows[-EASE_EVENTS:]], ease.scores[state.rows[-EASE_EVENTS:]]),
        "ease_of_recent": ItemLinks(ease.rows[recent], ease.scores[recent]),
    }
    assert {name: values.tolist() for name, values in found.items()} == {
        name: summed_one_by_one(one, candidates) for name, one in wanted.items()
    }
