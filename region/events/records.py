"""How a record of the log is encoded: msgpack of `LoggedEvent`, the same in every adapter."""

import msgspec

from infra.contracts.events import Event, EventType, LoggedEvent
from region.store.port import OffsetEvent

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(LoggedEvent)
NOTHING = LoggedEvent(
    subject="", event=Event(event_id="unreadable", type=EventType.IMPRESSION, at_ms=0), received_ms=0
)  # fmt: skip
"""Stands where a record could not be read."""
SHREDDED = "the key of its subject was erased"
"""What is broken about a record of somebody who was erased: nothing that anybody could mend."""


def encode_record(record: LoggedEvent) -> bytes:
    """Bytes of a record."""
    return _ENCODER.encode(record)


def decode_record(offset: int, content: bytes, *, partition: int = 0) -> OffsetEvent:
    """Inverse of `encode_record`, with the record's place.

    Bytes that are no record that this code knows come back as a broken one: one of them must not stop the others.
    """
    try:
        return OffsetEvent(offset=offset, logged=_DECODER.decode(content), partition=partition)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = f"the record cannot be read: {error}"
        return OffsetEvent(offset=offset, logged=NOTHING, partition=partition, broken=reason, content=content)


def break_record(record: OffsetEvent, reason: str) -> OffsetEvent:
    """The record as one that cannot be applied."""
    return OffsetEvent(
        offset=record.offset, logged=NOTHING, partition=record.partition, broken=reason,
        content=encode_record(record.logged),
    )  # fmt: skip
