"""The round as a state machine: laws that hold whatever phones do, and the paths by name."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.messages import Phase
from federation.rounds.machine import HUNG_UP_S, ORDER, Round, Selection, Verdict
from federation.secure_aggregation.seats import DRAWS_MAX
from federation.settings import CohortSettings

POLICY = CohortSettings(
    count_min=2, goal_count=3, over_selection=1.5, selection_s=2.0, sharing_s=1.0, reporting_s=5.0, unmasking_s=1.0,
    check_ins_max=8,
)  # fmt: skip
STEPS = (Phase.SHARING, Phase.REPORTING, Phase.CHECKING, Phase.UNMASKING)


def _round(**changes) -> Round:
    policy = msgspec.structs.replace(POLICY, **changes)
    return Round(round_id="a" * 16, policy=policy, opened_s=100.0)


def _select(one: Round, subjects: str, now_s: float = 100.0) -> None:
    for subject in subjects:
        assert one.check_in(subject, ticket=f"t-{subject}", heads=True, now_s=now_s) is Selection.SELECTED


def _take(one: Round, step: Phase, subjects: str, now_s: float) -> list[Verdict]:
    return [one.take(f"t-{subject}", step, now_s=now_s) for subject in subjects]


def test_a_round_goes_through_its_phases_as_everybody_does_each_step() -> None:
    one = _round()
    _select(one, "abcde")  # ceil(3 * 1.5)
    seen = [one.phase]
    for step, who in zip(STEPS[:3], ("abcde", "abc", "abc"), strict=True):
        assert _take(one, step, who, 100.5) == [Verdict.ACCEPTED] * len(who)
        if step is Phase.CHECKING:
            assert one.phase is step  # d and e were late and may sign, unless the caller has all that it needs
            one.agreed(now_s=100.5)
        seen.append(one.phase)
    assert seen == list(STEPS)
    assert one.weight == 3
    assert one.take("t-d", Phase.REPORTING, now_s=100.5) is Verdict.LATE
    assert one.take("t-d", Phase.CHECKING, now_s=100.5) is Verdict.LATE
    one.finish()
    assert one.phase is Phase.CLOSED


def test_the_goal_count_ends_reporting() -> None:
    one = _round()
    _select(one, "abcde")
    _take(one, Phase.SHARING, "abcde", 100.5)
    assert _take(one, Phase.REPORTING, "abc", 100.5) == [Verdict.ACCEPTED] * 3
    assert one.phase is Phase.CHECKING
    assert one.check_in("f", ticket="t-f", heads=True, now_s=100.5) is Selection.OVER


def test_time_ends_every_phase_and_those_who_missed_it_have_dropped_out() -> None:
    one = _round()
    _select(one, "abcd")
    assert one.ends_s == 100.0 + 2.0 + 1.0 + 5.0 + 1.0 + 1.0
    one.tick(now_s=102.0)
    assert (one.phase, one.phase_ends_s) == (Phase.SHARING, 103.0)
    _take(one, Phase.SHARING, "abc", 102.5)
    assert one.take("t-d", Phase.REPORTING, now_s=102.5) is Verdict.LATE
    assert one.take("t-a", Phase.REPORTING, now_s=102.5) is Verdict.EARLY
    one.tick(now_s=103.0)
    assert one.take("t-d", Phase.SHARING, now_s=103.5) is Verdict.LATE
    _take(one, Phase.REPORTING, "ab", 107.9)
    one.tick(now_s=108.0)
    _take(one, Phase.CHECKING, "ab", 108.5)
    one.tick(now_s=120.0)
    assert one.over
    assert "threshold" in one.reason


@pytest.mark.parametrize("step", [Phase.SHARING, Phase.REPORTING, Phase.CHECKING])
def test_below_the_minimum_a_round_is_void_whatever_the_phase(step: Phase) -> None:
    one = _round()
    _select(one, "abcde")
    for before in STEPS[: STEPS.index(step)]:
        _take(one, before, "abcde"[: 3 if before is Phase.REPORTING else 5], 100.5)
    _take(one, step, "a", 100.5)
    one.tick(now_s=200.0)
    assert one.phase is Phase.VOID
    assert "fewer than 2" in one.reason


def test_nobody_selected_is_void_at_the_end_of_selection() -> None:
    one = _round()
    one.tick(now_s=102.0)
    assert one.phase is Phase.VOID


def test_duplicates_strangers_and_crowds() -> None:
    one = _round(goal_count=20)
    _select(one, "abcdefgh")
    assert one.check_in("a", ticket="t-2", heads=True, now_s=100.0) is Selection.ALREADY
    assert one.check_in("z", ticket="t-z", heads=True, now_s=100.0) is Selection.FULL
    assert one.take("t-a", Phase.SHARING, now_s=100.0) is Verdict.EARLY
    one.tick(now_s=102.0)
    assert one.take("t-a", Phase.SHARING, now_s=102.0) is Verdict.ACCEPTED
    assert one.take("t-a", Phase.SHARING, now_s=102.0) is Verdict.DUPLICATE
    assert one.take("t-2", Phase.SHARING, now_s=102.0) is Verdict.UNKNOWN_TICKET
    assert (one.count(Phase.SHARING), one.selected, one.checked_in) == (1, 8, 8)


def test_who_was_late_with_the_update_may_sign_and_give_shares_and_is_not_in_the_sum() -> None:
    one = _round()
    _select(one, "abcde")
    _take(one, Phase.SHARING, "abcd", 100.5)
    one.tick(now_s=101.6)
    assert one.take("t-d", Phase.CHECKING, now_s=101.6) is Verdict.EARLY
    _take(one, Phase.REPORTING, "abc", 101.6)
    assert _take(one, Phase.REPORTING, "d", 101.7) == [Verdict.LATE]
    assert _take(one, Phase.CHECKING, "ed", 101.7) == [Verdict.LATE, Verdict.ACCEPTED]  # e never shared
    assert _take(one, Phase.CHECKING, "abc", 101.7) == [Verdict.ACCEPTED] * 3
    assert one.phase is Phase.UNMASKING
    assert _take(one, Phase.UNMASKING, "d", 101.8) == [Verdict.ACCEPTED]
    assert one.accepted == one.weight == 3


def test_who_hung_up_is_waited_for_a_moment_where_most_others_are_done() -> None:
    one = _round(sharing_s=60.0, reporting_s=60.0, goal_count=5, over_selection=1.0)
    _select(one, "abcde")
    one.leave("t-e", now_s=100.1)
    one.leave("t-nobody", now_s=100.1)
    _take(one, Phase.SHARING, "abc", 100.5)
    assert one.phase_ends_s == 160.0  # d is there still
    _take(one, Phase.SHARING, "d", 101.0)
    assert (one.phase, one.phase_ends_s) == (Phase.SHARING, 101.0 + HUNG_UP_S[Phase.SHARING])
    assert _take(one, Phase.SHARING, "e", 101.5) == [Verdict.ACCEPTED]  # it came back
    assert one.phase is Phase.REPORTING
    one.leave("t-e", now_s=101.6)
    _take(one, Phase.REPORTING, "abc", 101.7)
    assert one.phase_ends_s == 101.5 + 60.0
    _take(one, Phase.REPORTING, "d", 101.8)
    assert one.phase_ends_s == 101.8 + HUNG_UP_S[Phase.REPORTING]  # an update can be sent later


def _large(**changes) -> tuple[Round, list[str]]:
    """A round of 26 phones in one sum, its selection over."""
    one = _round(goal_count=26, over_selection=1.0, check_ins_max=30, **changes)
    names = [chr(ord("A") + number) for number in range(26)]
    _select(one, "".join(names))
    return one, names


def test_the_seats_of_a_large_sum_are_drawn_before_anything_is_shared() -> None:
    one, names = _large()
    assert (one.phase, one.draw, one.drawing()) == (Phase.SEATING, 1, {f"t-{name}" for name in names})
    assert one.take("t-A", Phase.SHARING, now_s=100.1) is Verdict.EARLY
    assert set(_take(one, Phase.SEATING, "".join(names), 100.5)) == {Verdict.ACCEPTED}
    assert (one.phase, one.draw, one.phase_ends_s) == (Phase.SHARING, 1, 100.5 + POLICY.sharing_s)
    assert one.take("t-A", Phase.SEATING, now_s=100.5) is Verdict.DUPLICATE
    assert set(_take(one, Phase.SHARING, "".join(names), 100.6)) == {Verdict.ACCEPTED}


def test_who_leaves_while_seats_are_drawn_is_out_and_all_others_draw_again() -> None:
    one, names = _large(sharing_s=60.0)
    rest = "".join(names[1:])
    _take(one, Phase.SEATING, rest, 100.5)
    assert one.phase_ends_s == 160.0  # the first has not hung up
    one.leave("t-A", now_s=100.6)
    assert one.phase_ends_s == 100.6 + HUNG_UP_S[Phase.SEATING]
    one.tick(now_s=102.0)
    assert (one.phase, one.draw, one.drawing()) == (Phase.SEATING, 2, {f"t-{name}" for name in rest})
    assert one.take("t-A", Phase.SEATING, now_s=102.1) is Verdict.LATE
    _take(one, Phase.SEATING, rest, 102.2)
    assert one.phase is Phase.SHARING
    assert one.take("t-A", Phase.SHARING, now_s=102.3) is Verdict.LATE


def test_a_round_in_which_phones_leave_in_every_draw_is_void() -> None:
    one, names = _large()
    for draw in range(1, DRAWS_MAX + 1):
        assert one.draw == draw
        _take(one, Phase.SEATING, "".join(names[draw:]), one.phase_ends_s - 0.5)
        one.tick(now_s=one.phase_ends_s)  # somebody says nothing until the deadline
    assert (one.phase, one.reason) == (Phase.VOID, f"phones left during each of {DRAWS_MAX} draws of the seats")
    nobody, _ = _large()
    nobody.tick(now_s=1000.0)
    assert nobody.phase is Phase.VOID
    assert "fewer than 2" in nobody.reason


@pytest.mark.parametrize(("changes", "leave"), [({}, "cde"), ({"sampling_probability": 0.5}, "e")])
def test_the_clock_decides_where_many_hung_up_and_where_phones_are_sampled(changes, leave: str) -> None:
    one = _round(sharing_s=60.0, goal_count=4, over_selection=1.25, **changes)
    _select(one, "abcde")
    one.tick(now_s=102.0)
    began_s = one.began_s[Phase.SHARING]
    for subject in leave:
        one.leave(f"t-{subject}", now_s=102.0)
    _take(one, Phase.SHARING, sorted(set("abcde") - set(leave)), 102.5)  # type: ignore[arg-type]
    assert one.phase_ends_s == began_s + 60.0


def test_signing_ends_when_all_that_are_there_have_signed_and_it_is_enough() -> None:
    one = _round(unmasking_s=60.0)
    _select(one, "abcde")
    _take(one, Phase.SHARING, "abcde", 100.5)
    _take(one, Phase.REPORTING, "abc", 100.6)
    _take(one, Phase.CHECKING, "a", 100.7)
    one.agreed(now_s=100.7)
    seen = [one.phase]
    one.leave("t-b", now_s=100.8)
    _take(one, Phase.CHECKING, "c", 101.0)
    one.agreed(now_s=101.0)
    assert [*seen, one.phase] == [Phase.CHECKING, Phase.UNMASKING]
    assert one.lasted_s(103.0) == pytest.approx(
        {"selecting": 0.0, "sharing": 0.5, "reporting": 0.1, "checking": 0.4, "unmasking": 2.0}
    )


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
    assert one.check_in("c", ticket="t-c", heads=True, now_s=100.0) is Selection.SELECTED
    one.tick(now_s=102.0)
    _take(one, Phase.SHARING, "ac", 102.0)
    assert one.take("t-a", Phase.REPORTING, now_s=102.0) is Verdict.ACCEPTED
    seen = [one.phase]  # the goal count must not end it
    one.tick(now_s=107.0)
    # One update is below count_min, but three asked, which is what counts here.
    assert [*seen, one.phase] == [Phase.REPORTING, Phase.CHECKING]
    assert one.weight == 4


_ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["check-in", "tick", "leave", "agreed", *STEPS]),
        st.integers(0, 9),
        st.booleans(),
        st.floats(0.0, 2.0),
    ),
    max_size=80,
)  # fmt: skip


@pytest.mark.parametrize("probability", [1.0, 0.5])
@given(actions=_ACTIONS)
def test_laws(probability: float, actions) -> None:
    """Phases only go forward; a ticket takes a step once and in order; nothing counts after the end."""
    one = _round(sampling_probability=probability)
    order = [*ORDER, Phase.CLOSED, Phase.VOID]
    now_s, taken, seen = 100.0, dict[int, list[Phase]](), one.phase
    for action, who, heads, delay_s in actions:
        now_s += delay_s
        over_before = one.over
        if action == "check-in":
            one.check_in(f"s{who}", ticket=f"t{who}", heads=heads, now_s=now_s)
        elif action == "tick":
            one.tick(now_s=now_s)
        elif action == "leave":
            one.leave(f"t{who}", now_s=now_s)
        elif action == "agreed":
            one.agreed(now_s=now_s)
        elif one.take(f"t{who}", action, now_s=now_s) is Verdict.ACCEPTED:
            assert not over_before
            taken.setdefault(who, []).append(action)
        assert order.index(one.phase) >= order.index(seen)
        assert not (over_before and one.phase is not seen)
        seen = one.phase
        for steps in taken.values():
            helped = [step for step in STEPS if step is not Phase.REPORTING][: len(steps)]
            assert steps in (list(STEPS[: len(steps)]), helped)
        assert one.accepted == sum(Phase.REPORTING in steps for steps in taken.values())
        assert one.accepted <= one.selected <= one.checked_in <= POLICY.check_ins_max
    one.tick(now_s=now_s + 20.0)
    assert one.phase is Phase.VOID  # nobody said that the shares are complete
