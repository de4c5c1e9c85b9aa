"""What a request reads of a row is what the writer wrote: two descriptions of one array must not drift apart."""

from infra.contracts.features import DecayedValue
from region.store.port import Session, SubjectCounters
from region.store.state import RowContent, RowView, SubjectState, encode_content, row_of, to_row


def test_both_name_the_same_fields_in_the_same_places():
    assert RowView.__struct_fields__ == RowContent.__struct_fields__


def test_every_field_of_a_row_is_read_as_it_was_written():
    row = RowContent(
        version=7, opted_out=True, offset=9, last_event_ms=11, touched_ms=12, items=["a", "b"], strengths=[5, 1],
        times_ms=[1, 2], received_days=[3, 4], impressions=5, counters=SubjectCounters(1, 2, 3, 4, 5, 6),
        session=Session(1, 2, 3), affinities={"brand": {"acme": DecayedValue(1.5, 8)}}, ignored=[(1, 2)], choices=3,
        imported=True,
    )  # fmt: skip
    assert row_of("s", encode_content(SubjectState(row))) == to_row("s", row)
