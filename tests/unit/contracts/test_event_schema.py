"""Producers of other versions keep working; what would break them is named and refused."""

import msgspec
import pytest

from infra.contracts.event_schema import (
    SchemaRecord,
    describe,
    load_record,
    parse_version,
    problems,
    read_batch,
    whole_ack,
)
from infra.contracts.events import SCHEMA_VERSION, EventAck, EventType, RejectedEvent
from region.events.schema_check import SchemaBrokenError, check_event_schema

EVENT = {"event_id": "event-0001", "type": "view", "item": "x", "at_ms": 1}
MAJOR, MINOR = parse_version(SCHEMA_VERSION)
NEWER = f"{MAJOR}.{MINOR + 1}"


def changed(**fields: object) -> SchemaRecord:
    """This code's schema with a change."""
    return msgspec.structs.replace(describe(), **fields).with_fingerprint()


def without(record: SchemaRecord, field: str) -> dict[str, str]:
    return {name: shape for name, shape in record.fields.items() if name != field}


def test_what_is_recorded_is_what_the_code_says() -> None:
    assert load_record() == describe(), "run `./atoll events schema --record`, after a thought about the version"
    check_event_schema()


def test_a_planted_break_is_refused_with_what_broke_and_what_to_do() -> None:
    current = describe()
    planted = changed(
        fields={**without(current, "Event.request_id"), "Event.at_ms": '{"type":"string"}'},
        required=(*current.required, "Event.item"),
        types=tuple(kind for kind in current.types if kind != "skip"),
    )
    with pytest.raises(SchemaBrokenError) as caught:
        check_event_schema(planted)
    said = str(caught.value)
    for part in (
        "Event.request_id was removed",
        "Event.at_ms was",
        "Event.item is required",
        "type skip was removed",
    ):
        assert part in said
    assert "raise the major" in said


def test_an_addition_asks_for_a_minor() -> None:
    current = describe()
    more = {**current.fields, "Event.device": '{"type":"string"}'}
    with pytest.raises(SchemaBrokenError, match=r"Event.device was added.*Raise the minor"):
        check_event_schema(changed(fields=more, types=(*current.types, "share")))
    check_event_schema(changed(fields=more, types=(*current.types, "share"), version=NEWER))


@pytest.mark.parametrize("version", ["0.9", f"{MAJOR}.{MINOR - 1}", f"{MAJOR + 1}.0"])
def test_a_version_that_is_not_recorded_is_refused(version: str) -> None:
    with pytest.raises(SchemaBrokenError, match="is recorded"):
        check_event_schema(changed(version=version))


def test_a_record_that_was_edited_by_hand_is_refused() -> None:
    edited = msgspec.structs.replace(load_record(), required=())
    assert problems(edited, describe())[0].what == "the recorded schema was edited by hand"


@pytest.mark.parametrize("version", ["1.0", SCHEMA_VERSION, NEWER, "1.99"])
def test_a_producer_of_any_minor_keeps_working(version: str) -> None:
    body = {"schema_version": version, "events": [EVENT, {**EVENT, "new": 1, "newer": {}}], "extra": True}
    read = read_batch(msgspec.json.encode(body))
    assert (len(read.batch.events), read.unknown_fields, read.rejected) == (2, 3, ())
    assert read.batch.events[1].item == "x"


def test_a_type_of_a_newer_minor_is_turned_back_alone() -> None:
    body = {"schema_version": NEWER, "events": [{**EVENT, "type": "share"}, EVENT, {**EVENT, "type": "gift"}, EVENT]}
    read = read_batch(msgspec.json.encode(body))
    assert [one.index for one in read.rejected] == [0, 2]
    ack = EventAck(accepted=1, duplicates=0, rejected=(RejectedEvent(index=1, reason="too old"),))
    told = whole_ack(ack, read)
    assert [(one.index, one.reason[:7]) for one in told.rejected] == [(0, "type is"), (2, "type is"), (3, "too old")]


@pytest.mark.parametrize(
    "body",
    [
        {"schema_version": SCHEMA_VERSION, "events": [{**EVENT, "type": "share"}]},
        {"events": [{**EVENT, "type": "share"}]},
        {"schema_version": NEWER, "events": [{**EVENT, "at_ms": "now"}]},
        {"schema_version": NEWER, "events": [7]},
        {"schema_version": "x", "events": {}},
        [],
    ],
)
def test_what_is_wrong_in_our_own_version_is_refused(body: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        read_batch(msgspec.json.encode(body))


@pytest.mark.parametrize("text", ["", "1", "1.", ".1", "1.x", "1.1.1", "\u0661.0"])
def test_a_version_is_two_numbers(text: str) -> None:
    with pytest.raises(ValueError, match="two numbers"):
        parse_version(text)


def test_every_type_is_described() -> None:
    assert set(describe().types) == {kind.value for kind in EventType}
