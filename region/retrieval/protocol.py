"""The bytes between a region and its retrieval process. All numbers are little-endian.

Every frame is a uint32 length and that many bytes::

    hello     magic[8] version:u16 dim:u32 num_items:u32 release[20] kind[8]      server, once, at connect
    search    1:u8 id:u32 count:u16 k:u16 dim:u32 vectors[count, dim] float32     client
    side      2:u8 id:u32 count:u32 dim:u32 rows[count] int32 vectors[count, dim] float32   client
    answer    id:u32 0:u8 count:u16 k:u16 rows[count, k] int32 scores[count, k] float32
    failure   id:u32 status:u8 message utf-8

Rows are catalogue rows, best first; -1 (with score -inf) fills what the index did not find. Answers may come in any
order. A length above FRAME_BYTES_MAX ends the connection. `side` says which vectors stand beside the index from now,
in place of those before; it is answered with no rows, and later searches of the connection see it.
"""

import enum
import struct
from dataclasses import dataclass

import numpy as np

from infra.contracts.features import FloatArray, IntArray
from region.retrieval.errors import QueryRefusedError

FRAME_BYTES_MAX = 8 << 20
QUERIES_MAX = 256
K_MAX = 4_096
SIDE_ROWS_MAX = 1_024
"""Rows of the side index: items that came between two releases. More would cost every search what the index saves."""
MAGIC = b"atollret"
VERSION = 2

_LENGTH = struct.Struct("<I")
_HELLO = struct.Struct("<8sHII20s8s")
_SEARCH = struct.Struct("<BIHHI")
_SIDE = struct.Struct("<BIII")
_STATUS = struct.Struct("<IB")
_SHAPE = struct.Struct("<HH")


class Kind(enum.IntEnum):
    """What a client wants."""

    SEARCH = 1
    SIDE = 2


class Status(enum.IntEnum):
    """How a search ended."""

    OK = 0
    REFUSED = 1
    OVERLOADED = 2
    FAILED = 3


class ProtocolError(Exception):
    """The other side does not speak this protocol; the connection is closed."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What the server searches."""

    dim: int
    num_items: int
    release: str
    kind: str


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """Nearest `k` rows of each of `vectors [count, dim] float32`."""

    request_id: int
    k: int
    vectors: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """What is to stand beside the index: `rows [count] int32`, outside of its own, and `vectors [count, dim]`."""

    request_id: int
    rows: IntArray
    vectors: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """`rows [count, k] int32` and `scores [count, k] float32`, or a failure with its message."""

    request_id: int
    status: Status
    rows: IntArray
    scores: FloatArray
    message: str = ""


_NO_ROWS: IntArray = np.empty((0, 0), dtype=np.int32)
_NO_SCORES: FloatArray = np.empty((0, 0), dtype=np.float32)


class FrameBuffer:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are complete now.

        Raises:
            ProtocolError: a frame says it is longer than FRAME_BYTES_MAX.
        """
        self._bytes += data
        frames = []
        start = 0
        while len(self._bytes) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._bytes, start)
            if length > FRAME_BYTES_MAX:
                raise ProtocolError(f"a frame of {length} bytes is longer than {FRAME_BYTES_MAX}")
            end = start + _LENGTH.size + length
            if len(self._bytes) < end:
                break
            frames.append(bytes(self._bytes[start + _LENGTH.size : end]))
            start = end
        del self._bytes[:start]
        return frames


def encode_hello(hello: Hello) -> bytes:
    """A hello as a frame."""
    return _frame(_HELLO.pack(MAGIC, VERSION, hello.dim, hello.num_items, hello.release.encode(), hello.kind.encode()))


def decode_hello(payload: bytes) -> Hello:
    """Inverse of `encode_hello`, without the frame's length.

    Raises:
        ProtocolError: something else, or another version.
    """
    if len(payload) != _HELLO.size:
        raise ProtocolError("no hello came")
    magic, version, dim, num_items, release, kind = _HELLO.unpack(payload)
    if magic != MAGIC or version != VERSION:
        raise ProtocolError(f"a hello of version {version} came, this is version {VERSION}")
    return Hello(dim, num_items, release.rstrip(b"\0").decode("ascii"), kind.rstrip(b"\0").decode("ascii"))


def encode_search(search: Search) -> bytes:
    """A search as a frame."""
    count, dim = search.vectors.shape
    vectors = np.ascontiguousarray(search.vectors, dtype="<f4")
    return _frame(_SEARCH.pack(Kind.SEARCH, search.request_id, count, search.k, dim) + vectors.tobytes())


def decode_search(payload: bytes) -> Search:
    """Inverse of `encode_search`, without the frame's length. The vectors are not judged yet.

    Raises:
        ProtocolError: the lengths do not fit.
    """
    if len(payload) < _SEARCH.size:
        raise ProtocolError("a search was cut short")
    _, request_id, count, k, dim = _SEARCH.unpack_from(payload)
    if len(payload) - _SEARCH.size != count * dim * 4:
        raise ProtocolError("a search has more or fewer numbers than it says")
    vectors = np.frombuffer(payload, dtype="<f4", offset=_SEARCH.size).reshape(count, dim)
    return Search(request_id, k, vectors)


def encode_side(side: Side) -> bytes:
    """A side index as a frame."""
    count, dim = side.vectors.shape
    head = _SIDE.pack(Kind.SIDE, side.request_id, count, dim)
    rows = np.ascontiguousarray(side.rows, dtype="<i4").tobytes()
    return _frame(head + rows + np.ascontiguousarray(side.vectors, dtype="<f4").tobytes())


def decode_side(payload: bytes) -> Side:
    """Inverse of `encode_side`, without the frame's length. Rows and vectors are not judged yet.

    Raises:
        ProtocolError: the lengths do not fit.
    """
    if len(payload) < _SIDE.size:
        raise ProtocolError("a side index was cut short")
    _, request_id, count, dim = _SIDE.unpack_from(payload)
    if len(payload) - _SIDE.size != count * 4 * (1 + dim):
        raise ProtocolError("a side index has more or fewer numbers than it says")
    rows = np.frombuffer(payload, dtype="<i4", count=count, offset=_SIDE.size)
    vectors = np.frombuffer(payload, dtype="<f4", offset=_SIDE.size + 4 * count).reshape(count, dim)
    return Side(request_id, rows, vectors)


def kind_of(payload: bytes) -> Kind:
    """What a frame of a client wants.

    Raises:
        ProtocolError: nothing that is known.
    """
    try:
        return Kind(payload[0])
    except (IndexError, ValueError):
        raise ProtocolError("a frame of no known kind came") from None


def encode_answer(request_id: int, rows: IntArray, scores: FloatArray) -> bytes:
    """An answer as a frame."""
    head = _STATUS.pack(request_id, Status.OK) + _SHAPE.pack(*rows.shape)
    row_bytes = np.ascontiguousarray(rows, dtype="<i4").tobytes()
    return _frame(head + row_bytes + np.ascontiguousarray(scores, dtype="<f4").tobytes())


def encode_failure(request_id: int, status: Status, message: str) -> bytes:
    """A failure as a frame."""
    return _frame(_STATUS.pack(request_id, status) + message.encode()[:1000])


def decode_answer(payload: bytes) -> Answer:
    """Inverse of `encode_answer` and `encode_failure`, without the frame's length.

    Raises:
        ProtocolError: the lengths do not fit.
    """
    try:
        request_id, code = _STATUS.unpack_from(payload)
        status = Status(code)
        if status is not Status.OK:
            message = payload[_STATUS.size :].decode(errors="replace")
            return Answer(request_id, status, _NO_ROWS, _NO_SCORES, message)
        count, k = _SHAPE.unpack_from(payload, _STATUS.size)
        start = _STATUS.size + _SHAPE.size
        numbers = np.frombuffer(payload, dtype="<i4", offset=start)
        rows = numbers[: count * k].reshape(count, k)
        scores = numbers[count * k :].view("<f4").reshape(count, k)
    except (struct.error, ValueError) as error:
        raise ProtocolError(f"an answer cannot be read: {error}") from error
    return Answer(request_id, status, rows, scores)


def check_query(vectors: FloatArray, *, k: int, dim: int) -> None:
    """Refuse what must not reach an index: ScaNN answers a NaN with an error at best, and with a crash at worst.

    Raises:
        QueryRefusedError: wrong shape, too many, `k` out of bounds, or a number that is not finite.
    """
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise QueryRefusedError(f"a query of shape {vectors.shape} does not fit an index of dimension {dim}.")
    if not 1 <= vectors.shape[0] <= QUERIES_MAX:
        raise QueryRefusedError(f"{vectors.shape[0]} queries at once are not between 1 and {QUERIES_MAX}.")
    if not 1 <= k <= K_MAX or vectors.shape[0] * k * 8 >= FRAME_BYTES_MAX:
        raise QueryRefusedError(f"k = {k} is not between 1 and {K_MAX}, or too much for {len(vectors)} queries.")
    if not np.isfinite(vectors).all():
        raise QueryRefusedError("a query vector holds a number that is not finite.")


def check_side(rows: IntArray, vectors: FloatArray, *, dim: int, num_items: int) -> None:
    """Refuse a side index that cannot stand beside an index of `num_items` rows of `dim`.

    Raises:
        QueryRefusedError: too many rows, one of the index's own or one twice, or a number that is not finite.
    """
    if rows.shape[0] > SIDE_ROWS_MAX:
        raise QueryRefusedError(f"{rows.shape[0]} rows are more than the {SIDE_ROWS_MAX} of a side index.")
    if vectors.shape != (rows.shape[0], dim):
        raise QueryRefusedError(f"vectors of shape {vectors.shape} do not fit {rows.shape[0]} rows of {dim}.")
    if rows.size and (int(rows.min()) < num_items or np.unique(rows).size != rows.size):
        raise QueryRefusedError("a row of the side index is one of the index's own, or stands there twice.")
    if not np.isfinite(vectors).all():
        raise QueryRefusedError("a vector of the side index holds a number that is not finite.")


def _frame(payload: bytes) -> bytes:
    return _LENGTH.pack(len(payload)) + payload
