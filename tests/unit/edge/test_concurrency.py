"""The concurrency limit: bounded, falls when answers queue, comes back, shares its room by priority, starts slowly."""

from hypothesis import given
from hypothesis import strategies as st

from edge.routing.concurrency import (
    WINDOW_CALLS,
    Concurrency,
    ConcurrencyPolicy,
    Priority,
    answered,
    came_back,
    first_limit,
    overloaded,
    priority_of,
    room,
)
from infra.contracts.messages import Surface

POLICY = ConcurrencyPolicy()
steps = st.lists(
    st.tuples(st.sampled_from(["answer", "too-much", "back"]), st.floats(0, 5), st.integers(1, 200)), max_size=200
)


def windows(held: Concurrency, count: int, *, took_s: float, in_flight: int) -> Concurrency:
    for _ in range(count * WINDOW_CALLS):
        held = answered(held, POLICY, took_s=took_s, in_flight=in_flight)
    return held


@given(steps)
def test_the_limit_stays_in_its_bounds_and_there_is_always_room_for_one(
    history: list[tuple[str, float, int]],
) -> None:
    held, now_s = first_limit(POLICY), 0.0
    for what, number, in_flight in history:
        now_s += number
        if what == "answer":
            held = answered(held, POLICY, took_s=number, in_flight=in_flight)
        else:
            held = overloaded(held, POLICY) if what == "too-much" else came_back(held, now_s=now_s)
        assert POLICY.limit_min <= held.limit <= POLICY.limit_max
        rooms = [room(held, POLICY, priority, now_s=now_s) for priority in Priority]
        # Declared most worthy first: nobody has more room than somebody who matters more.
        assert rooms == sorted(rooms, reverse=True)
        assert rooms[-1] >= 1


def test_it_falls_by_about_half_while_answers_queue_and_grows_again_afterwards() -> None:
    held = windows(first_limit(POLICY), 30, took_s=0.01, in_flight=100)
    assert held.limit > 2 * POLICY.limit_start
    queued = windows(held, 10, took_s=0.1, in_flight=100)
    assert queued.limit < 0.6 * held.limit
    assert windows(queued, 60, took_s=0.01, in_flight=100).limit > held.limit / 2


def test_ten_times_slower_for_long_is_normal_in_the_end() -> None:
    """A model twice as heavy must not leave a region shut for ever."""
    held = windows(first_limit(POLICY), 30, took_s=0.01, in_flight=100)
    assert windows(held, 200, took_s=0.1, in_flight=100).limit > POLICY.limit_start


def test_a_quiet_edge_learns_nothing_about_how_much_more_would_go() -> None:
    held = first_limit(POLICY)
    assert windows(held, 50, took_s=0.01, in_flight=2).limit == held.limit


def test_a_node_that_came_back_gets_its_room_little_by_little() -> None:
    held = came_back(Concurrency(limit=50.0), now_s=10.0)
    rooms = [room(held, POLICY, Priority.PAGE, now_s=10.0 + step * POLICY.slow_start_s / 10) for step in range(11)]
    assert rooms == sorted(rooms)
    assert rooms[0] == 10
    assert rooms[-1] == 50


def test_a_batch_leaves_half_of_the_room_to_pages_and_events_are_never_held_back() -> None:
    held = Concurrency(limit=40.0)
    assert room(held, POLICY, Priority.PAGE, now_s=0) == 40
    assert room(held, POLICY, Priority.BULK, now_s=0) == 20
    assert room(held, POLICY, Priority.EVENT, now_s=0) == POLICY.limit_max
    assert priority_of(Surface.EMAIL) is Priority.BULK
    assert priority_of(Surface.HOME) is Priority.PAGE
