"""What changed between two arrays of the same kind of rows, as bytes: a new row is copied from the old array or given.

Between two releases most rows of an item table are the same, moved or not. A delta holds the new file's header, runs of
rows that the old file has anywhere, and the rows that it has not; zlib over all of it. For 2 % changed rows it takes
little more than those 2 %. Only .npy files in C order are compared row by row; nothing else is worth a delta here.

::

    ATDELTA1 | u32 length of the header | zlib( header bytes | u32 number of runs | runs [n, 2] int32 | given rows )

A run is (first old row, count), or (-1, count) for rows that are given. Needs NumPy; edges do not import it.
"""

import io
import struct
import zlib
from typing import Final

import numpy as np
import numpy.typing as npt

from infra.plumbing.errors import InvalidInputError

MAGIC: Final = b"ATDELTA1"
ROW_BYTES_MAX: Final = 1 << 16
_LENGTHS = struct.Struct("<II")
Rows = npt.NDArray[np.uint8]


class DeltaError(InvalidInputError):
    """A delta that does not fit the file that it is to be applied to, or is damaged."""


def make_delta(old: bytes, new: bytes) -> bytes | None:
    """The delta that makes `new` of `old`; None when one is not an array of rows, or their rows differ in size."""
    before, after = _rows_of(old), _rows_of(new)
    if before is None or after is None or before[1].shape[1] != after[1].shape[1]:
        return None
    header, rows = after
    sources = _sources(before[1], rows)
    runs = _runs(sources)
    given = rows[sources < 0]
    inner = header + struct.pack("<I", len(runs)) + runs.tobytes() + given.tobytes()
    return MAGIC + _LENGTHS.pack(len(header), rows.shape[1]) + zlib.compress(inner, 6)


def apply_delta(old: bytes, delta: bytes, *, length: int) -> bytearray:
    """The new file of `length` bytes. In memory together: both files and what the delta gives.

    Raises:
        DeltaError: the delta does not fit `old`, would give more or fewer bytes, or is damaged. Whatever it gives must
            be held against a signed hash by the caller.
    """
    before = _rows_of(old)
    if before is None or not delta.startswith(MAGIC):
        raise DeltaError("this is no delta between two arrays.")
    try:
        header_bytes, row_bytes = _LENGTHS.unpack_from(delta, len(MAGIC))
        packed = memoryview(delta)[len(MAGIC) + _LENGTHS.size :]
        inner = _inflate(packed, room=2 * length + 8 * (length + 1) + 65_536)
        header, rest = inner[:header_bytes], memoryview(inner)[header_bytes:]
        (num_runs,) = struct.unpack_from("<I", rest)
        runs = np.frombuffer(rest, dtype=np.int32, count=2 * num_runs, offset=4).reshape(-1, 2)
        given = np.frombuffer(rest, dtype=np.uint8, offset=4 + 8 * num_runs)
    except (struct.error, zlib.error, ValueError) as error:
        raise DeltaError(f"the delta is damaged: {error}.") from error
    rows = before[1]
    whole_bytes = len(header) + int(runs[:, 1].sum(dtype=np.int64)) * row_bytes
    if row_bytes != rows.shape[1] or (runs[:, 1] < 0).any() or whole_bytes != length:
        raise DeltaError("the delta belongs to another file.")
    whole = bytearray(length)
    whole[: len(header)] = header
    _assemble(np.frombuffer(whole, dtype=np.uint8)[len(header) :], rows, runs, given)
    return whole


def _assemble(out: Rows, rows: Rows, runs: npt.NDArray[np.int32], given: Rows) -> None:
    """Fill `out`, of all rows one behind the other."""
    at, end, width = 0, 0, rows.shape[1]
    for first, count in runs.tolist():
        if first < -1 or (first >= 0 and first + count > len(rows)):
            raise DeltaError("the delta names rows that the old file has not.")
        begin, end = end, end + count * width
        if first >= 0:
            out[begin:end] = rows[first : first + count].reshape(-1)
            continue
        taken = given[at : at + count * width]
        if len(taken) != count * width:
            raise DeltaError("the delta lacks rows.")
        out[begin:end] = taken
        at += count * width


def _inflate(content: bytes | memoryview, *, room: int) -> bytes:
    """Decompress; a bomb is refused before it is large."""
    inflater = zlib.decompressobj()
    inner = inflater.decompress(content, room)
    if inflater.unconsumed_tail or not inflater.eof:
        raise DeltaError("the delta is larger than what it is to give, or cut off.")
    return inner


def _rows_of(content: bytes) -> tuple[bytes, Rows] | None:
    """Header and rows `[rows, bytes of a row] uint8` of a .npy file; None for anything else."""
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, in_columns, kind = read(file)
    except (ValueError, EOFError):
        return None
    start = file.tell()
    body = np.frombuffer(content, dtype=np.uint8, offset=start)
    if in_columns or kind.hasobject or not shape or not shape[0] or not body.size or body.size % shape[0]:
        return None
    width = body.size // shape[0]
    if width > ROW_BYTES_MAX:
        return None
    return content[:start], body.reshape(shape[0], width)


def _sources(old: Rows, new: Rows) -> npt.NDArray[np.int64]:
    """For every new row an old row with the same bytes, the one in the same place first; -1 where there is none."""
    sources = np.full(len(new), -1, dtype=np.int64)
    both = min(len(old), len(new))
    in_place = (old[:both] == new[:both]).all(axis=1)
    sources[:both][in_place] = np.flatnonzero(in_place)
    open_rows = np.flatnonzero(sources < 0)
    if not open_rows.size:
        return sources
    known, order = np.unique(_digests(old), return_index=True)
    found = np.minimum(np.searchsorted(known, _digests(new[open_rows])), len(known) - 1)
    candidates = order[found]
    same = (old[candidates] == new[open_rows]).all(axis=1)
    sources[open_rows[same]] = candidates[same]
    return sources


def _digests(rows: Rows) -> npt.NDArray[np.uint64]:
    """A 64-bit digest of every row, to look candidates up by; equality is always checked on the bytes."""
    weights = np.asarray(np.random.default_rng(1).integers(1, 2**63 - 1, size=rows.shape[1]), dtype=np.uint64)
    digests = np.zeros(len(rows), dtype=np.uint64)
    for column in range(rows.shape[1]):
        digests += rows[:, column] * (weights[column] | np.uint64(1))
    return digests


def _runs(sources: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Neighbouring rows that are copied from neighbouring rows, or are given: one run each, `[runs, 2] int32`."""
    given = sources < 0
    steps = np.diff(sources)
    joined = (given[1:] & given[:-1]) | (~given[1:] & ~given[:-1] & (steps == 1))
    starts = np.flatnonzero(np.concatenate([[True], ~joined]))
    counts = np.diff(np.append(starts, len(sources)))
    firsts = np.maximum(sources[starts], -1)
    return np.stack([firsts, counts], axis=1).astype(np.int32)
