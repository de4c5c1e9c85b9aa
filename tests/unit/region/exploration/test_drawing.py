"""Exploration slots inside a slate: drawn under every rule, each item once, the same under the same name."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from infra.contracts.features import IntArray
from infra.plumbing.draws import named_generator
from region.exploration.drawing import Explorer
from region.exploration.policy import Chances
from region.rules.arranging import EXPLORED, Floors, Layout, Offer, Promoted, Quotas, arrange
from region.rules.schema import Diversity, Exploration

NONE = Diversity(strength=0.0)


def nothing_known(places: IntArray) -> tuple[Chances, Chances]:
    return np.zeros(places.size), np.zeros(places.size)


def offer_of(count: int, backfill: int) -> Offer:
    relevance = np.concatenate([np.linspace(1, 0, count - backfill), np.zeros(backfill)]).astype(np.float32)
    return Offer(relevance=relevance, unit_vectors=np.eye(count, 4, dtype=np.float32), backfill=backfill)


def explorer_of(count: int, new: set[int], name: str, **rules: object) -> Explorer:
    settings = {"positions": (2, 4), "epsilon": 0.5, **rules}
    return Explorer(
        rules=Exploration(**settings), generator=named_generator(name),  # type: ignore[arg-type]
        new=np.asarray([place in new for place in range(count)]), counts=nothing_known, prior_rate=0.05,
    )  # fmt: skip


@given(st.integers(1, 30), st.data())
def test_a_slate_stays_whole_whatever_is_drawn(count: int, data: st.DataObject) -> None:
    backfill = data.draw(st.integers(0, count))
    new = data.draw(st.sets(st.integers(0, count - 1)))
    explorer = explorer_of(count, new, data.draw(st.text(max_size=3)), arms=data.draw(st.integers(2, 10)))
    placed = arrange(offer_of(count, backfill), Layout(diversity=NONE, explorer=explorer), slots=12, page=6)
    assert len(set(placed.order.tolist())) == placed.order.size == min(12, count)
    for drawn in explorer.drawn:
        assert drawn.position in (2, 4)
        assert placed.order[drawn.position - 1] == drawn.arms[drawn.shown]
        assert EXPLORED in placed.touched[drawn.position - 1]
        assert not set(drawn.arms.tolist()) & set(placed.order[: drawn.position - 1].tolist())
        assert abs(drawn.chances.sum() - 1.0) < 1e-9
    assert len(explorer.drawn) == sum(position <= min(6, count) for position in (2, 4))


def test_the_same_name_draws_the_same_slate() -> None:
    slates = [
        arrange(
            offer_of(20, 5), Layout(diversity=NONE, explorer=explorer_of(20, {17, 18}, "one")), slots=10, page=10
        ).order.tolist()
        for _ in range(2)
    ]  # fmt: skip
    others = [
        arrange(
            offer_of(20, 5), Layout(diversity=NONE, explorer=explorer_of(20, {17, 18}, str(name))), slots=10, page=10
        ).order.tolist()
        for name in range(20)
    ]  # fmt: skip
    assert slates[0] == slates[1]
    assert len({tuple(order) for order in others}) > 5


def test_promotions_quotas_and_floors_hold_for_what_is_drawn() -> None:
    promoted = {2: Promoted(choices=np.asarray([9], np.int32), name="p")}
    members = np.zeros((12, 1), np.bool_)
    members[:6] = True
    quotas = Quotas(members=members, share_max=np.asarray([0.5]), names=("q",))
    floors = Floors(members=~members, needed=np.asarray([2]), names=("f",))
    for seed in range(50):
        explorer = explorer_of(12, {0, 7}, str(seed), epsilon=1.0)
        placed = arrange(
            offer_of(12, 0), Layout(diversity=NONE, explorer=explorer, promoted=promoted, quotas=quotas, floors=floors),
            slots=4, page=4,
        )  # fmt: skip
        assert placed.order[1] == 9
        assert [drawn.position for drawn in explorer.drawn] == [4]
        assert members[placed.order, 0].sum() <= 2
        assert (~members[placed.order, 0]).sum() >= 2


def test_what_is_drawn_comes_as_often_as_its_chance_says() -> None:
    shown, expected = np.zeros(12), np.zeros(12)
    for seed in range(3000):
        explorer = explorer_of(12, {10, 11}, str(seed), positions=(2,), new_share_min=0.3, new_share_max=0.4)
        arrange(offer_of(12, 2), Layout(diversity=NONE, explorer=explorer), slots=3, page=3)
        drawn = explorer.drawn[0]
        shown[drawn.arms[drawn.shown]] += 1
        expected[drawn.arms] += drawn.chances
    assert np.abs(shown - expected).max() < 4 * np.sqrt(expected.max())
    assert 0.27 < shown[10:].sum() / 3000 < 0.43
