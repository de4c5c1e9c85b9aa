"""Follow and unfollow: checked at intake, applied in log order, bounded, the same in a replay."""

import pytest

from infra.contracts.event_weights import DEFAULT_WEIGHTS, parse_weights
from infra.contracts.events import Event, EventType, LoggedEvent
from infra.plumbing.clock import ManualClock
from region.events.intake import reason_against
from region.store.applying import FOLLOWS_MAX, ApplyRules, apply_events
from region.store.memory import MemoryStore
from region.store.port import OffsetEvent
from tests.contract.building import ALICE, NOW_MS, placed

RULES = ApplyRules()


def a_follow(offset: int, target: str, *, kind: EventType = EventType.FOLLOW) -> OffsetEvent:
    event = Event(event_id=f"follow-{offset:04}", type=kind, follows=target, at_ms=NOW_MS + offset)
    return OffsetEvent(offset=offset, logged=LoggedEvent(subject=ALICE, event=event, received_ms=NOW_MS))


def test_follows_are_in_the_order_of_the_log_and_bounded() -> None:
    events = [
        a_follow(1, "brand:a"), a_follow(2, "category:b"), a_follow(3, "brand:a"),
        a_follow(4, "category:b", kind=EventType.UNFOLLOW), a_follow(5, "creator:c"),
    ]  # fmt: skip
    outcome = apply_events(events, applied={}, load=lambda _: None, rules=RULES)
    row = outcome.states[ALICE].row
    assert row.follows == ["brand:a", "creator:c"]
    assert (row.version, row.items) == (5, [])
    assert [change.consumed for change in outcome.changes] == [()]
    assert not [key for key in outcome.aggregates if not key.scope]
    many = apply_events(
        [a_follow(number, f"brand:{number}") for number in range(1, FOLLOWS_MAX + 6)], applied={},
        load=lambda _: None, rules=RULES,
    )  # fmt: skip
    assert many.states[ALICE].row.follows == [f"brand:{number}" for number in range(6, FOLLOWS_MAX + 6)]


async def test_they_are_read_with_the_row_and_go_with_it() -> None:
    store = MemoryStore(clock=ManualClock())
    await store.apply([placed(1), a_follow(2, "brand:a")])
    row = await store.read(ALICE)
    assert row is not None
    assert row.follows == ("brand:a",)
    await store.write_rows([row])
    again = await store.read(ALICE)
    assert again is not None
    assert again.follows == ("brand:a",)


@pytest.mark.parametrize(
    ("kind", "item", "follows", "good"),
    [
        (EventType.FOLLOW, "", "brand:a", True), (EventType.UNFOLLOW, "", "category:b", True),
        (EventType.FOLLOW, "", None, False), (EventType.FOLLOW, "", "a", False),
        (EventType.FOLLOW, "x", "brand:a", False),
        (EventType.FOLLOW, "", "brand:" + "a" * 200, False), (EventType.VIEW, "x", "brand:a", False),
    ],
)  # fmt: skip
def test_what_may_be_logged(kind: EventType, item: str, follows: str | None, good: bool) -> None:
    event = Event(event_id="event-0001", type=kind, item=item, at_ms=NOW_MS, follows=follows)
    assert (reason_against(event, NOW_MS) is None) is good


def test_a_file_of_weights_from_before_there_were_follows_is_still_good() -> None:
    lines = ["version = 1", "[events]"]
    old = [kind for kind in EventType if kind not in (EventType.FOLLOW, EventType.UNFOLLOW)]
    lines += [f"{kind.value} = {{ strength = 3, affinity = 0.0, trend = 0 }}" for kind in old]
    weights = parse_weights("\n".join(lines).encode())
    assert weights.of(EventType.FOLLOW, None).trend == DEFAULT_WEIGHTS.of(EventType.FOLLOW, None).trend == 0
