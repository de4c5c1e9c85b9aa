"""How a record of the log is encoded: msgpack of `LoggedEvent`, the same in every adapter."""

import msgspec

from infra.contracts.events import LoggedEvent
from region.events.port import LogUnavailableError
from region.store.port import OffsetEvent

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(LoggedEvent)


def encode_record(record: LoggedEvent) -> bytes:
    """Bytes of a record."""
    return _ENCODER.encode(record)


def decode_record(offset: int, content: bytes, *, partition: int = 0) -> OffsetEvent:
    """Inverse of `encode_record`, with the record's place.

    Raises:
        LogUnavailableError: the bytes are no record that this code knows.
    """
    try:
        return OffsetEvent(offset=offset, logged=_DECODER.decode(content), partition=partition)
    except msgspec.DecodeError as error:
        raise LogUnavailableError(
            f"the record at offset {offset} of partition {partition} cannot be read: {error}.",
            fix="Run the version of Atoll that wrote it, or restore the log.",
        ) from error
