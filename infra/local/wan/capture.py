"""The capture file of one link: every byte that crossed, in order, with direction, time and connection.

File: `MAGIC`, then records of a header (big-endian: direction u8, Unix milliseconds u64, connection u32, length u32)
and `length` bytes. A file that ends inside a record was cut by a crash; what is whole counts. When the bound of the
file is reached bytes are counted instead of kept, and one last record of direction CUT carries the count of the lost
bytes (u64) each time the file is closed.
"""

import contextlib
import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from infra.plumbing.errors import InvalidInputError

MAGIC = b"ATOLLCAP1\n"
_HEADER = struct.Struct(">BQII")
_COUNT = struct.Struct(">Q")
FLUSH_BYTES = 64 << 10


class Direction(enum.IntEnum):
    """Which way a record's bytes went."""

    OUT = 0
    """From the origin of the link to its destination."""
    BACK = 1
    OPENED = 2
    """A connection began; no bytes."""
    CUT = 3
    """Not bytes of the wire: the number of bytes that were not kept."""


@dataclass(frozen=True, slots=True)
class CaptureRecord:
    """One read of a socket."""

    direction: Direction
    at_ms: int
    connection: int
    payload: bytes


class CaptureWriter:
    """Appends records to a file, within its bound."""

    def __init__(self, path: Path, *, bytes_max: int) -> None:
        self._path = path
        self._bytes_max = bytes_max
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=FLUSH_BYTES)
        self._size = self._file.tell()
        if self._size:
            # A killed predecessor may have left half a record: what follows it could not be read.
            self._size = whole_length(path)
            self._file.truncate(self._size)
        self.bytes_kept = 0
        self.bytes_cut = 0
        self._cut_told = 0
        if self._size == 0:
            self._size = self._file.write(MAGIC)

    def write(self, record: CaptureRecord) -> None:
        """Keep the record, or count its bytes when the bound is reached."""
        length = len(record.payload)
        if self._size + _HEADER.size + length > self._bytes_max:
            self.bytes_cut += length
            return
        try:
            self._put(record)
            self.bytes_kept += length
        except OSError:  # the disk is full: the link goes on, the loss is counted
            self.bytes_cut += length

    def flush(self) -> None:
        """Let readers see everything so far, the number of lost bytes included."""
        with contextlib.suppress(OSError):  # the disk is full: tried again at the next flush
            if self.bytes_cut > self._cut_told:
                self._put(CaptureRecord(Direction.CUT, 0, 0, _COUNT.pack(self.bytes_cut - self._cut_told)))
                self._cut_told = self.bytes_cut
            self._file.flush()

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        with contextlib.suppress(OSError):
            self._file.close()

    def _put(self, record: CaptureRecord) -> None:
        self._file.write(_HEADER.pack(record.direction, record.at_ms, record.connection, len(record.payload)))
        self._file.write(record.payload)
        self._size += _HEADER.size + len(record.payload)


def read_capture(content: bytes) -> Iterator[CaptureRecord]:
    """The whole records of a capture file.

    Raises:
        InvalidInputError: the content is not a capture.
    """
    if MAGIC.startswith(content):  # killed before the first flush
        return
    if not content.startswith(MAGIC):
        raise InvalidInputError("this is not a capture file.", fix="Capture files lie in <state>/capture.")
    offset = len(MAGIC)
    while offset + _HEADER.size <= len(content):
        direction, at_ms, connection, length = _HEADER.unpack_from(content, offset)
        offset += _HEADER.size
        if offset + length > len(content):
            return
        yield CaptureRecord(Direction(direction), at_ms, connection, content[offset : offset + length])
        offset += length


def whole_length(path: Path) -> int:
    """Bytes of a capture file up to the end of its last whole record."""
    end = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return 0
        position = len(MAGIC)
        while position + _HEADER.size <= end:
            file.seek(position)
            length = _HEADER.unpack(file.read(_HEADER.size))[3]
            if position + _HEADER.size + length > end:
                break
            position += _HEADER.size + length
    return position


def cut_count(record: CaptureRecord) -> int:
    """How many bytes a CUT record stands for."""
    return int(_COUNT.unpack(record.payload)[0])
