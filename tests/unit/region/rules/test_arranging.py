"""Arranging a slate: each item once, rules kept as long as something that fits them is left, diverse."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from infra.contracts.features import FloatArray
from region.rules.arranging import Floors, Layout, Offer, Promoted, Quotas, arrange, quota_limit
from region.rules.diversity import Dpp
from region.rules.schema import Diversity

GROUPS = 4
NONE = Diversity(strength=0.0)


def unit(vectors: FloatArray) -> FloatArray:
    scaled: FloatArray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def offer_of(count: int, *, backfill: int = 0, seed: int = 0) -> Offer:
    rng = np.random.default_rng(seed)
    relevance = np.concatenate([np.sort(rng.random(count - backfill))[::-1], np.zeros(backfill)])
    vectors = unit(rng.normal(size=(count, 6)).astype(np.float32))
    return Offer(relevance=relevance.astype(np.float32), unit_vectors=vectors, backfill=backfill)


def members_of(groups: list[set[int]]) -> "np.ndarray":
    membership = np.zeros((len(groups), GROUPS), dtype=np.bool_)
    for place, own in enumerate(groups):
        membership[place, list(own)] = True
    return membership


def quotas_of(groups: list[set[int]], share: float) -> Quotas:
    return Quotas(members=members_of(groups), share_max=np.full(GROUPS, share), names=tuple("abcd"))


memberships = st.lists(st.sets(st.integers(0, GROUPS - 1), max_size=2), max_size=40)


@given(
    groups=memberships, slots=st.integers(1, 50), page=st.integers(1, 20), seed=st.integers(0, 9),
    diversity=st.builds(Diversity, method=st.sampled_from(["mmr", "dpp"]), strength=st.floats(0.0, 1.0)),
    share=st.floats(0.05, 1.0), backfill=st.integers(0, 10),
)  # fmt: skip
def test_a_slate_is_full_without_repeats_and_over_a_quota_only_when_it_must(
    groups: list[set[int]], slots: int, page: int, seed: int, diversity: Diversity, share: float, backfill: int
) -> None:
    offer = offer_of(len(groups), backfill=min(backfill, len(groups)), seed=seed)
    quotas = quotas_of(groups, share)
    placed = arrange(offer, Layout(diversity=diversity, quotas=quotas), slots=slots, page=page).order.tolist()
    assert len(placed) == min(slots, len(groups))
    assert len(set(placed)) == len(placed)
    held = np.zeros(GROUPS, dtype=int)
    for index, choice in enumerate(placed):
        full = held >= quota_limit(index + 1, page=page, share_max=quotas.share_max)
        if (quotas.members[choice] & full).any():
            left = set(range(len(groups))) - set(placed[:index])
            assert all((quotas.members[other] & full).any() for other in left)
        held += quotas.members[choice]


@given(
    groups=memberships,
    slots=st.integers(1, 50),
    page=st.integers(1, 20),
    needed=st.integers(0, 8),
    seed=st.integers(0, 9),
)
def test_floors_are_met_as_far_as_there_is_anything(
    groups: list[set[int]], slots: int, page: int, needed: int, seed: int
) -> None:
    members = members_of(groups)[:, :1] if groups else np.zeros((0, 1), dtype=np.bool_)
    page = min(page, slots)
    wanted = min(needed, page, int(members.sum()))
    floors = Floors(members=members, needed=np.asarray([wanted]), names=("floor",))
    layout = Layout(diversity=Diversity(), quotas=quotas_of(groups, 0.3), floors=floors)
    placed = arrange(offer_of(len(groups), seed=seed), layout, slots=slots, page=page).order
    assert members[placed[:page]].sum() >= wanted


def arranged_by_the_book(offer: Offer, quotas: Quotas, strength: float, *, slots: int, page: int) -> list[object]:
    """Maximal marginal relevance within quotas as its definition says it: nothing is kept between steps."""
    count, single = offer.relevance.size, np.float32
    behind = np.zeros(count, single)
    behind[count - offer.backfill :] = -100.0 - np.arange(offer.backfill)
    placed: list[int] = []
    names: list[object] = []
    for position in range(1, min(slots, count) + 1):
        closest = np.zeros(count, single)
        for other in placed:
            closest = np.maximum(closest, offer.unit_vectors @ offer.unit_vectors[other])
        values = (single(1.0 - strength) * offer.relevance - single(strength) * closest) + behind
        values[placed] = -np.inf
        full = quotas.members[placed].sum(axis=0) >= quota_limit(position, page=page, share_max=quotas.share_max)
        free = choice = int(values.argmax())
        within = np.where((quotas.members & full).any(axis=1), -np.inf, values)
        why: tuple[str, ...] = ()
        if (quotas.members[free] & full).any() and within.max() > -np.inf:
            choice = int(within.argmax())
            over = np.flatnonzero(quotas.members[free] & ~quotas.members[choice]).tolist()
            why = tuple(dict.fromkeys(quotas.names[one] for one in over))[:3]
        left = (offer.relevance + behind)[[place for place in range(count) if place not in placed]]
        if strength and not why and left.max() > (offer.relevance + behind)[choice]:
            why = ("diversity",)
        placed.append(choice)
        names.append(why)
    return [placed, names]


@given(
    groups=memberships, slots=st.integers(1, 30), page=st.integers(1, 20), seed=st.integers(0, 99),
    strength=st.sampled_from([0.0, 0.3, 1.0]), share=st.floats(0.05, 1.0), backfill=st.integers(0, 10),
)  # fmt: skip
def test_a_slate_is_what_its_definition_says(
    groups: list[set[int]], slots: int, page: int, seed: int, strength: float, share: float, backfill: int
) -> None:
    offer = offer_of(len(groups), backfill=min(backfill, len(groups)), seed=seed)
    quotas = quotas_of(groups, share)
    layout = Layout(diversity=Diversity(strength=strength), quotas=quotas)
    placed = arrange(offer, layout, slots=slots, page=page)
    wanted = arranged_by_the_book(offer, quotas, strength, slots=slots, page=page)
    assert [placed.order.tolist(), list(placed.touched)] == wanted


def test_promotions_stand_at_their_positions_and_say_so() -> None:
    promoted = {
        1: Promoted(choices=np.array([7], np.int32), name="ad"),
        3: Promoted(choices=np.array([7, 9], np.int32), name="ad"),
    }
    placed = arrange(offer_of(12), Layout(diversity=NONE, promoted=promoted), slots=6, page=6)
    assert placed.order.tolist() == [7, 0, 9, 1, 2, 3]
    assert placed.touched[0] == placed.touched[2] == ("ad",)
    assert placed.touched[1] == ()


def test_without_rules_relevance_is_the_order() -> None:
    assert arrange(offer_of(12), Layout(diversity=NONE), slots=12, page=12).order.tolist() == list(range(12))


def test_diversity_puts_something_else_between_twins_and_says_so() -> None:
    twin = np.array([1.0, 0.0], dtype=np.float32)
    offer = Offer(
        relevance=np.array([1.0, 0.99, 0.5], dtype=np.float32),
        unit_vectors=np.stack([twin, twin, np.array([0.0, 1.0], dtype=np.float32)]),
    )
    for method in ("mmr", "dpp"):
        layout = Layout(diversity=Diversity(method=method, strength=0.6))
        placed = arrange(offer, layout, slots=3, page=3)
        assert placed.order.tolist() == [0, 2, 1]
        assert placed.touched[1] == ("diversity",)
    assert arrange(offer, Layout(diversity=NONE), slots=3, page=3).order.tolist() == [0, 1, 2]


def test_backfill_comes_last_however_much_diversity_weighs() -> None:
    for method in ("mmr", "dpp"):
        layout = Layout(diversity=Diversity(method=method, strength=1.0))
        placed = arrange(offer_of(9, backfill=4), layout, slots=9, page=9).order.tolist()
        assert set(placed[:5]) == set(range(5))
        assert method == "dpp" or placed[5:] == [5, 6, 7, 8]


def test_a_full_quota_names_what_it_held_back() -> None:
    groups: list[set[int]] = [{0}, {0}, {0}, {1}]
    placed = arrange(offer_of(4), Layout(diversity=NONE, quotas=quotas_of(groups, 0.5)), slots=4, page=4)
    assert placed.order.tolist() == [0, 1, 3, 2]
    assert placed.touched[2] == ("a",)


@given(seed=st.integers(0, 200), strength=st.floats(0.2, 0.8))
def test_the_greedy_map_takes_the_largest_determinant_at_each_step(seed: int, strength: float) -> None:
    rng = np.random.default_rng(seed)
    vectors, relevance = unit(rng.normal(size=(7, 12)).astype(np.float32)), rng.random(7).astype(np.float32)
    quality = np.exp((1.0 - strength) / (2.0 * strength) * relevance.astype(np.float64))
    kernel = quality[:, None] * (1.0 + vectors.astype(np.float64) @ vectors.T.astype(np.float64)) / 2.0 * quality
    dpp = Dpp(relevance, vectors, strength, slots=4)
    chosen: list[int] = []
    for _ in range(4):
        gains = {
            item: np.linalg.det(kernel[np.ix_([*chosen, item], [*chosen, item])])
            for item in range(7)
            if item not in chosen
        }
        values = dpp.values()
        ours = max(gains, key=lambda item: values[item])
        assert gains[ours] >= max(gains.values()) * (1.0 - 1e-3)
        dpp.place(ours)
        chosen.append(ours)
    assert len(set(chosen)) == 4
