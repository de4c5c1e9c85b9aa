"""The round as a state machine: laws that hold whatever phones do, and the paths by name."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.messages import Phase
from federation.rounds.machine import Round, Selection, Verdict
from federation.settings import CohortSettings

POLICY = CohortSettings(
    count_min=2, goal_count=3, over_selection=1.5, selection_s=2.0, reporting_s=5.0, check_ins_max=8
)  # fmt: skip


def _round(**changes) -> Round:
    policy = msgspec.structs.replace(POLICY, **changes)
    return Round(round_id="a" * 16, policy=policy, opened_s=100.0)


def _select(one: Round, *subjects: str, now_s: float = 100.0) -> None:
    for subject in subjects:
        assert one.check_in(subject, ticket=f"t-{subject}", heads=True, now_s=now_s) is Selection.SELECTED


def test_the_goal_count_closes_the_round() -> None:
    one = _round()
    _select(one, "a", "b", "c", "d")
    assert [one.accept(f"t-{s}", now_s=101.0) for s in "abc"] == [Verdict.ACCEPTED] * 3
    assert one.phase is Phase.CLOSED
    assert one.weight == 3
    assert one.accept("t-d", now_s=101.0) is Verdict.LATE


def test_over_selection_ends_the_selection() -> None:
    one = _round()
    _select(one, "a", "b", "c", "d", "e")  # ceil(3 * 1.5)
    assert one.phase is Phase.REPORTING
    assert one.check_in("f", ticket="t-f", heads=True, now_s=100.5) is Selection.OVER


def test_time_ends_selection_and_reporting() -> None:
    one = _round()
    _select(one, "a", "b", "c")
    assert one.next_change_s == 102.0
    one.tick(now_s=102.0)
    assert one.next_change_s == 107.0
    assert one.check_in("d", ticket="t-d", heads=True, now_s=102.0) is Selection.OVER
    assert not one.over
    assert one.accept("t-a", now_s=103.0) is Verdict.ACCEPTED
    assert one.accept("t-b", now_s=106.9) is Verdict.ACCEPTED
    one.tick(now_s=107.0)
    assert one.phase is Phase.CLOSED


def test_a_round_in_which_everybody_reported_does_not_wait() -> None:
    one = _round()
    _select(one, "a", "b")
    for subject in "ab":
        one.accept(f"t-{subject}", now_s=101.0)
    assert not one.over  # somebody may still check in
    one.tick(now_s=102.0)
    assert one.phase is Phase.CLOSED


def test_below_the_minimum_a_round_is_void() -> None:
    one = _round()
    _select(one, "a", "b", "c")
    one.accept("t-a", now_s=101.0)
    one.tick(now_s=200.0)
    assert one.phase is Phase.VOID
    assert "fewer than 2" in one.reason


def test_duplicates_strangers_and_crowds() -> None:
    one = _round(goal_count=20)
    _select(one, *"abcdefgh")
    assert one.check_in("a", ticket="t-2", heads=True, now_s=100.0) is Selection.ALREADY
    assert one.check_in("z", ticket="t-z", heads=True, now_s=100.0) is Selection.FULL
    assert one.accept("t-a", now_s=100.0) is Verdict.ACCEPTED
    assert one.accept("t-a", now_s=100.0) is Verdict.DUPLICATE
    assert one.accept("t-2", now_s=100.0) is Verdict.UNKNOWN_TICKET
    assert (one.accepted, one.selected, one.checked_in) == (1, 8, 8)


def test_an_abandoned_round_stays_void() -> None:
    one = _round()
    one.abandon("the operator said so")
    one.abandon("again")
    assert (one.phase, one.reason) == (Phase.VOID, "the operator said so")


def test_with_sampling_the_coin_decides_and_the_count_stays_hidden() -> None:
    one = _round(sampling_probability=0.5, expected_count=4, goal_count=1)
    assert one.check_in("a", ticket="t-a", heads=True, now_s=100.0) is Selection.SELECTED
    assert one.check_in("b", ticket="t-b", heads=False, now_s=100.0) is Selection.NOT_SAMPLED
    assert one.check_in("b", ticket="t-b", heads=True, now_s=100.0) is Selection.ALREADY
    assert one.accept("t-a", now_s=100.0) is Verdict.ACCEPTED
    assert not one.over  # the goal count must not close it
    one.tick(now_s=102.0)
    # One update is below count_min, but two asked, which is what counts here.
    assert one.phase is Phase.CLOSED
    assert one.weight == 4


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["check-in", "accept", "tick"]), st.integers(0, 9), st.booleans(), st.floats(0.0, 2.0)
    ),
    max_size=60,
)  # fmt: skip


@pytest.mark.parametrize("probability", [1.0, 0.5])
@given(steps=_STEPS)
def test_laws(probability: float, steps) -> None:
    """Phases only go forward; a ticket counts once; nothing counts after the end; void means below the minimum."""
    one = _round(sampling_probability=probability)
    order = [Phase.SELECTING, Phase.REPORTING, Phase.CLOSED, Phase.VOID]
    now_s, counted, seen = 100.0, set(), one.phase
    for action, who, heads, delay_s in steps:
        now_s += delay_s
        over_before = one.over
        if action == "check-in":
            one.check_in(f"s{who}", ticket=f"t{who}", heads=heads, now_s=now_s)
        elif action == "accept":
            if one.accept(f"t{who}", now_s=now_s) is Verdict.ACCEPTED:
                assert not over_before
                assert who not in counted
                counted.add(who)
        else:
            one.tick(now_s=now_s)
        assert order.index(one.phase) >= order.index(seen)
        assert not (over_before and one.phase is not seen)
        seen = one.phase
        assert one.accepted == len(counted) <= one.selected <= one.checked_in <= POLICY.check_ins_max
    one.tick(now_s=now_s + 10.0)
    assert one.over
    count = one.checked_in if one.sampled else one.accepted
    assert (one.phase is Phase.CLOSED) == (count >= POLICY.count_min)
