"""Arranging a slate: each item once, capped by category as long as something under the cap is left, diverse."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from region.rules.arranging import Offer, arrange, backfill_relevance, category_limit

NUM_CATEGORIES = 4


def offer_of(categories: list[set[int]], *, backfill: int = 0, seed: int = 0) -> Offer:
    rng = np.random.default_rng(seed)
    count = len(categories)
    vectors = rng.normal(size=(count, 6)).astype(np.float32)
    membership = np.zeros((count, NUM_CATEGORIES), dtype=np.bool_)
    for place, members in enumerate(categories):
        membership[place, list(members)] = True
    candidates = count - backfill
    relevance = np.concatenate([np.sort(rng.random(candidates))[::-1], backfill_relevance(backfill)])
    return Offer(
        relevance=relevance.astype(np.float32),
        unit_vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        membership=membership,
    )


memberships = st.lists(st.sets(st.integers(0, NUM_CATEGORIES - 1), max_size=2), max_size=40)


@given(
    categories=memberships, slots=st.integers(1, 50), page=st.integers(1, 20), seed=st.integers(0, 9),
    diversity=st.floats(0.0, 1.0), share=st.floats(0.05, 1.0), backfill=st.integers(0, 10),
)  # fmt: skip
def test_a_slate_is_full_without_repeats_and_over_the_cap_only_when_it_must(
    categories: list[set[int]], slots: int, page: int, seed: int, diversity: float, share: float, backfill: int
) -> None:
    offer = offer_of(categories, backfill=min(backfill, len(categories)), seed=seed)
    placed = arrange(offer, slots=slots, page=page, diversity=diversity, share_max=share).tolist()
    assert len(placed) == min(slots, len(categories))
    assert len(set(placed)) == len(placed)
    held = np.zeros(NUM_CATEGORIES, dtype=int)
    for index, choice in enumerate(placed):
        full = held >= category_limit(index + 1, page=page, share_max=share)
        if (offer.membership[choice] & full).any():
            left = set(range(len(categories))) - set(placed[:index])
            assert all((offer.membership[other] & full).any() for other in left)
        held += offer.membership[choice]


def test_without_diversity_and_cap_relevance_is_the_order() -> None:
    offer = offer_of([{0}] * 12)
    assert arrange(offer, slots=12, page=12, diversity=0.0, share_max=1.0).tolist() == list(range(12))


def test_diversity_puts_something_else_between_twins() -> None:
    twin = np.array([1.0, 0.0], dtype=np.float32)
    offer = Offer(
        relevance=np.array([1.0, 0.99, 0.5], dtype=np.float32),
        unit_vectors=np.stack([twin, twin, np.array([0.0, 1.0], dtype=np.float32)]),
        membership=np.zeros((3, 1), dtype=np.bool_),
    )
    assert arrange(offer, slots=3, page=3, diversity=0.5, share_max=1.0).tolist() == [0, 2, 1]
    assert arrange(offer, slots=3, page=3, diversity=0.1, share_max=1.0).tolist() == [0, 1, 2]


def test_backfill_stays_behind_every_candidate_under_full_diversity() -> None:
    offer = offer_of([set()] * 8, backfill=3)
    assert sorted(arrange(offer, slots=8, page=8, diversity=1.0, share_max=1.0).tolist()[5:]) == [5, 6, 7]


def test_the_category_that_was_asked_for_has_no_cap() -> None:
    offer = offer_of([{0}] * 6 + [{1}] * 6)
    exempt = np.array([True, False, False, False])
    placed = arrange(offer, slots=6, page=6, diversity=0.0, share_max=0.5, exempt=exempt)
    assert placed.tolist() == [0, 1, 2, 3, 4, 5]


def test_the_cap_counts_the_page_first_and_then_what_lies_behind_it() -> None:
    assert [category_limit(position, page=10, share_max=0.3) for position in (1, 10, 20, 30)] == [3, 3, 6, 9]
    assert category_limit(1, page=1, share_max=0.1) == 1
    assert category_limit(10, page=10, share_max=0.6) == 6
