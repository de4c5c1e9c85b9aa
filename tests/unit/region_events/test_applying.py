import hashlib

from infra.contracts.events import EventType
from region.store.applying import SubjectState, apply_event, apply_events
from tests.contract.building import ALICE, logged, placed


def test_an_event_id_is_not_recognised_across_two_others() -> None:
    """The remembered digests stand side by side; what matches between two of them is no event id."""
    record = logged(1)
    digest = hashlib.blake2b(record.event.event_id.encode(), digest_size=8).digest()
    state = SubjectState(event_ids=b"\x00" * 3 + digest + b"\x00" * 5)
    assert apply_event(state, record, history_max=5)
    assert not apply_event(state, record, history_max=5)


def test_events_out_of_order_are_applied_in_order() -> None:
    outcome = apply_events(
        [placed(3, item="c"), placed(1, item="a"), placed(2, item="b")],
        applied={0: 1},
        load=lambda _: None,
        history_max=5,
    )
    assert outcome.states[ALICE].items == ["b", "c"]
    assert outcome.offsets == {0: 3}


def test_a_bound_of_nothing_keeps_nothing_and_still_says_what_was_seen() -> None:
    outcome = apply_events([placed(1, item="a")], applied={0: 0}, load=lambda _: None, history_max=0)
    assert outcome.states[ALICE].items == []
    assert outcome.changes[0].consumed == ("a",)


def test_consumed_items_are_named_once() -> None:
    events = [placed(1, item="a"), placed(2, item="a"), placed(3, item="b", kind=EventType.LIKE)]
    outcome = apply_events(events, applied={0: 0}, load=lambda _: None, history_max=5)
    assert outcome.changes[0].consumed == ("a", "b")
