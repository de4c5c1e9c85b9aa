"""Laws of the circuit breaker, the retry budget and the order of nodes."""

from hypothesis import given
from hypothesis import strategies as st

from edge.routing.breaker import (
    Breaker,
    BreakerPolicy,
    Phase,
    allows,
    failed,
    probe_failed,
    probe_succeeded,
    succeeded,
    try_begins,
)
from edge.routing.health import Target, Targets, slow_targets
from edge.routing.retry_budget import RetryBudget

POLICY = BreakerPolicy()
steps = st.lists(
    st.tuples(st.sampled_from(["ask", "ok", "fail", "probe-ok", "probe-fail"]), st.floats(0, 3)), max_size=80
)


def play(history: list[tuple[str, float]]) -> tuple[Breaker, float]:
    breaker, now_s = Breaker(), 0.0
    for what, wait_s in history:
        now_s += wait_s
        if what == "ask" and allows(breaker, now_s=now_s):
            breaker = try_begins(breaker, POLICY, now_s=now_s)
        elif what == "ok":
            breaker = succeeded(breaker)
        elif what == "fail":
            breaker = failed(breaker, POLICY, now_s=now_s)
        elif what == "probe-ok":
            breaker = probe_succeeded(breaker)
        elif what == "probe-fail":
            breaker = probe_failed(breaker, POLICY, now_s=now_s)
    return breaker, now_s


@given(steps)
def test_a_healed_target_is_asked_again_within_the_longest_wait(history: list[tuple[str, float]]) -> None:
    breaker, now_s = play(history)
    breaker = probe_succeeded(breaker)
    later_s = now_s + POLICY.open_max_s + POLICY.trial_max_s
    assert allows(breaker, now_s=later_s)
    assert succeeded(try_begins(breaker, POLICY, now_s=later_s)) == Breaker()


@given(steps)
def test_after_a_failing_probe_the_first_good_one_lets_a_trial_through_at_once(
    history: list[tuple[str, float]],
) -> None:
    breaker, now_s = play(history)
    breaker = probe_failed(probe_failed(breaker, POLICY, now_s=now_s), POLICY, now_s=now_s)
    assert breaker.phase is not Phase.CLOSED
    later_s = now_s + POLICY.trial_max_s
    assert allows(probe_succeeded(breaker), now_s=later_s)


@given(steps)
def test_half_open_lets_one_through(history: list[tuple[str, float]]) -> None:
    breaker, now_s = play(history)
    if breaker.phase is Phase.CLOSED:
        breaker = Breaker(phase=Phase.HALF_OPEN)
    now_s += POLICY.open_max_s + POLICY.trial_max_s
    breaker = probe_succeeded(breaker)
    breaker = try_begins(breaker, POLICY, now_s=now_s)
    assert not allows(breaker, now_s=now_s)


@given(steps)
def test_it_opens_after_enough_failures_and_waits(history: list[tuple[str, float]]) -> None:
    breaker, now_s = play(history)
    breaker = succeeded(breaker)
    for _ in range(POLICY.failures_to_open):
        assert allows(breaker, now_s=now_s)
        breaker = failed(breaker, POLICY, now_s=now_s)
    assert breaker.phase is Phase.OPEN
    assert not allows(breaker, now_s=now_s + POLICY.open_base_s * 0.99)
    assert allows(breaker, now_s=now_s + POLICY.open_base_s)


def test_waits_double_up_to_the_longest() -> None:
    breaker, now_s, waits = Breaker(phase=Phase.HALF_OPEN), 0.0, []
    for _ in range(8):
        breaker = failed(breaker, POLICY, now_s=now_s)
        waits.append(breaker.open_until_s - now_s)
        now_s = breaker.open_until_s
        breaker = try_begins(breaker, POLICY, now_s=now_s)
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0]


def test_while_probes_fail_time_alone_lets_nothing_through() -> None:
    breaker = Breaker()
    for now_s in (0.0, 0.5):
        breaker = probe_failed(breaker, POLICY, now_s=now_s)
    assert not allows(breaker, now_s=1e9)
    assert allows(probe_succeeded(breaker), now_s=0.6)


def test_late_failures_do_not_lengthen_the_wait() -> None:
    breaker = Breaker(phase=Phase.OPEN, openings=1, open_until_s=5.0)
    assert failed(breaker, POLICY, now_s=4.0) == breaker


@given(st.lists(st.sampled_from(["first", "retry", "hedge"]), max_size=300))
def test_extra_calls_stay_within_the_budget_and_hedges_leave_half_of_the_reserve(calls: list[str]) -> None:
    budget = RetryBudget()
    first = retries = hedges = 0
    for call in calls:
        if call == "first":
            budget.note_first()
            first += 1
        elif call == "retry":
            retries += budget.take()
        elif budget.take_spare():
            hedges += 1
            assert budget.tokens >= budget.reserve / 2
    assert retries + hedges <= budget.share * first + budget.reserve + 1e-6
    assert budget.refused == calls.count("retry") - retries


def test_slow_nodes_stand_behind_their_siblings_until_probes_made_it_forgotten() -> None:
    first, second = Target("r", "http://1", 0), Target("r", "http://2", 1)
    targets = Targets([first, second], policy=POLICY)
    assert targets.candidates("r", now_s=0) == [first, second]
    for _ in range(10):
        for target, took_s in ((first, 0.5), (second, 0.01)):
            targets.begin(target, now_s=0)
            targets.succeeded(target, took_s=took_s, now_s=0)
    assert targets.candidates("r", now_s=0) == [second, first]
    for _ in range(80):
        targets.probed(first, ok=True, now_s=0)
    assert targets.candidates("r", now_s=0) == [first, second]
    assert targets.answered("r")
    assert not targets.answered("elsewhere")
    assert "r[0]=closed" in repr(targets)
    assert slow_targets([]) == frozenset()
