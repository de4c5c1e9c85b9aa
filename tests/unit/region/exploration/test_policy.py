"""The chances of a slot: a distribution, with what epsilon and the bounds on new items guarantee."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.plumbing.draws import named_generator
from region.exploration.policy import Arms, chances
from region.rules.schema import Exploration


@st.composite
def slots(draw: st.DrawFn) -> tuple[Arms, Exploration]:
    count = draw(st.integers(1, 20))
    impressions = np.asarray(draw(st.lists(st.floats(0, 1e6), min_size=count, max_size=count)))
    share = np.asarray(draw(st.lists(st.floats(0, 2), min_size=count, max_size=count)))
    low = draw(st.floats(0, 1))
    arms = Arms(
        clicks=impressions * share, impressions=impressions,
        new=np.asarray(draw(st.lists(st.booleans(), min_size=count, max_size=count))),
        prior_rate=draw(st.floats(0.001, 0.5)),
    )  # fmt: skip
    rules = Exploration(
        method=draw(st.sampled_from(["epsilon-greedy", "thompson"])), epsilon=draw(st.floats(0, 1)),
        new_share_min=low, new_share_max=draw(st.floats(low, 1)),
    )  # fmt: skip
    return arms, rules


@given(slots(), st.integers(0, 100))
def test_chances_sum_to_one_and_new_items_get_their_share(slot: tuple[Arms, Exploration], seed: int) -> None:
    arms, rules = slot
    table = chances(arms, rules, named_generator(str(seed)))
    assert table.sum() == pytest.approx(1.0)
    assert (table >= 0.0).all()
    if arms.new.any() and not arms.new.all():
        share = float(table[arms.new].sum())
        assert rules.new_share_min - 1e-9 <= share <= rules.new_share_max + 1e-9
    else:
        assert (table >= rules.epsilon / arms.count - 1e-9).all()


@given(slots())
def test_the_same_name_gives_the_same_table(slot: tuple[Arms, Exploration]) -> None:
    arms, rules = slot
    tables = [chances(arms, rules, named_generator("a", "b")) for _ in range(2)]
    assert (tables[0] == tables[1]).all()


def arms_of(clicks: list[float], impressions: list[float]) -> Arms:
    return Arms(
        clicks=np.asarray(clicks), impressions=np.asarray(impressions), new=np.zeros(len(clicks), np.bool_),
        prior_rate=0.1,
    )  # fmt: skip


def test_epsilon_greedy_is_what_it_says() -> None:
    rules = Exploration(method="epsilon-greedy", epsilon=0.2)
    table = chances(arms_of([0, 0, 0, 0], [0, 0, 0, 0]), rules, named_generator("x"))
    assert table == pytest.approx([0.85, 0.05, 0.05, 0.05])


def test_thompson_gives_two_equal_arms_half_each_and_a_clearly_better_one_nearly_all() -> None:
    rules = Exploration(method="thompson", epsilon=0.0)
    equal = chances(arms_of([5, 5], [50, 50]), rules, named_generator("x"), draws=20_000)
    assert equal == pytest.approx([0.5, 0.5], abs=0.02)
    clear = chances(arms_of([10, 900], [1000, 1000]), rules, named_generator("x"))
    assert clear == pytest.approx([0.0, 1.0], abs=0.01)


def test_an_item_that_nobody_clicks_fades_away_while_the_even_share_stays() -> None:
    rules = Exploration(method="thompson", epsilon=0.1)
    table = chances(arms_of([0, 50], [2000, 500]), rules, named_generator("x"))
    assert table[0] == pytest.approx(0.05, abs=0.01)
