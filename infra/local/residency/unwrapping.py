"""What lies inside what lies inside a body: compressed streams, archives, arrays and tables, wherever they begin.

A content encoding says of itself that it is one (`http_messages`); this is for what does not: a gzip stream in a
MessagePack field, an npz in base64 in JSON, an Arrow table with compressed buffers, a Parquet file. Tables and arrays
of text come out as comma-separated text under their columns' names, so that a short id is found beside its name.
"""

import base64
import binascii
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from infra.local.residency import http_messages
from infra.local.residency.http_messages import ARCHIVE_MEMBERS_MAX, UndecodableError, unzstd

DEPTH_MAX = 4
FINDS_MAX = 2_000
"""Containers looked into in one body."""
CELL_BYTES_MIN, CELLS_MAX = 8, 1_000
_GZIP, _ZSTD, _LZ4 = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"
_ZIP, _NPY, _PARQUET, _ARROW_FILE, _ARROW_STREAM = (
    b"PK\x03\x04",
    b"\x93NUMPY",
    b"PAR1",
    b"ARROW1\0\0",
    b"\xff\xff\xff\xff",
)
_ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_STARTS = re.compile(b"|".join(re.escape(one) for one in (_GZIP, _ZSTD, _LZ4, _ZIP, _NPY, _PARQUET, _ARROW_FILE)))
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{32,}={0,2}")
_PIECE_BYTES = 1 << 20
View = tuple[str, bytes]


def unwrapped(body: bytes) -> Iterator[View]:
    """(name, bytes) of everything that a body holds inside containers, to DEPTH_MAX levels, FINDS_MAX at most.

    Raises:
        UndecodableError: the body as a whole is a container that cannot be opened here, or too large.
    """
    found = 0
    waiting: list[tuple[str, bytes, int]] = [("body", body, 0)]
    while waiting:
        name, content, depth = waiting.pop()
        if depth == DEPTH_MAX:
            continue
        for inner_name, inner in _inside(content):
            found += 1
            if found > FINDS_MAX:
                raise UndecodableError("too many containers in one body")
            path = f"{name}, {inner_name}"
            yield path, inner
            waiting.append((path, inner, depth + 1))


def _inside(content: bytes) -> Iterator[View]:
    yield from _at_start(content)
    # A stream that really begins here decodes; whatever only looks like one does not, and is no failure.
    for match in _STARTS.finditer(content, 1):
        try:
            yield from _opened(content[match.start() :])
        except UndecodableError:
            continue
    for match in _BASE64.finditer(content):
        decoded = _of_base64(match[0])
        if decoded is not None and (_STARTS.match(decoded) or decoded.startswith((*_ZLIB, _ARROW_STREAM))):
            yield "base64", decoded


def _at_start(content: bytes) -> Iterator[View]:
    if content.startswith(_ZLIB):
        try:
            yield "zlib", _inflated(content, 15)
        except UndecodableError:
            return  # two bytes are no proof
    elif content.startswith(_ARROW_STREAM):
        try:
            yield from _arrow(content)
        except UndecodableError:
            return  # four bytes of ones are none either
    elif _STARTS.match(content):
        yield from _opened(content)


def _opened(content: bytes) -> Iterator[View]:
    openers: dict[bytes, Callable[[bytes], Iterator[View]]] = {
        _GZIP: lambda held: iter([("gzip", _inflated(held, 31))]),
        _ZSTD: lambda held: iter([("zstd", unzstd(held))]),
        _LZ4: lambda held: iter([("lz4", _by_arrow_codec(held, "lz4"))]),
        _ZIP: _members,
        _NPY: lambda held: _array("array", held),
        _PARQUET: _parquet,
        _ARROW_FILE: _arrow,
    }
    yield from next(opener for start, opener in openers.items() if content.startswith(start))(content)


def _of_base64(text: bytes) -> bytes | None:
    plain = text.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except binascii.Error:
        return None


def _inflated(content: bytes, window_bits: int) -> bytes:
    decoder = zlib.decompressobj(window_bits)
    try:
        inflated = decoder.decompress(content, http_messages.DECODED_BYTES_MAX)
    except zlib.error as error:
        raise UndecodableError(str(error)) from error
    if decoder.unconsumed_tail:
        raise UndecodableError("too large once it is decoded")
    return inflated


def _members(content: bytes) -> Iterator[View]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if (
                len(members) > ARCHIVE_MEMBERS_MAX
                or sum(one.file_size for one in members) > http_messages.DECODED_BYTES_MAX
            ):
                raise UndecodableError("the archive is too large")
            for member in members:
                held = archive.read(member)
                yield "archive member", held
                if held.startswith(_NPY):
                    yield from _array(member.filename.rpartition("/")[2].removesuffix(".npy"), held)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise UndecodableError(f"damaged archive: {error}") from error


def _array(name: str, content: bytes) -> Iterator[View]:
    """An array of text or whole numbers as a column; others are searched as the bytes that they are."""
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UndecodableError(f"damaged array: {error}") from error
    if array.dtype.kind in "USiu":
        values = [
            one.decode(errors="replace") if isinstance(one, bytes) else str(one) for one in array.ravel().tolist()
        ]
        yield "array", _column_text({name: values})
    if array.dtype == np.uint8:
        yield "array of bytes", array.tobytes()


def _parquet(content: bytes) -> Iterator[View]:
    arrow = _pyarrow()
    import pyarrow.parquet  # noqa: PLC0415 - as `_pyarrow` says

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(content))
    except (OSError, arrow.ArrowException) as error:
        raise UndecodableError(f"damaged Parquet: {error}") from error
    yield from _table(table, "Parquet")


def _arrow(content: bytes) -> Iterator[View]:
    arrow = _pyarrow()
    opener = arrow.ipc.open_file if content.startswith(_ARROW_FILE) else arrow.ipc.open_stream
    try:
        table = opener(content).read_all()
    except (OSError, arrow.ArrowException) as error:
        raise UndecodableError(f"damaged Arrow: {error}") from error
    yield from _table(table, "Arrow")


def _by_arrow_codec(content: bytes, codec: str) -> bytes:
    arrow = _pyarrow()
    held = bytearray()
    try:
        with arrow.CompressedInputStream(arrow.BufferReader(content), codec) as stream:
            # Arrow makes room for all that is asked for, and never gives it back when what it reads is damaged.
            while len(held) <= http_messages.DECODED_BYTES_MAX and (piece := stream.read(_PIECE_BYTES)):
                held += piece
    except (OSError, arrow.ArrowException) as error:
        raise UndecodableError(str(error)) from error
    if len(held) > http_messages.DECODED_BYTES_MAX:
        raise UndecodableError("too large once it is decoded")
    return bytes(held)


def _table(table: Any, kind: str) -> Iterator[View]:
    """A table as text under its columns' names, and its cells of bytes by themselves: they may be documents."""
    columns: dict[str, list[str]] = {}
    for name in table.column_names:
        values = table.column(name).to_pylist()
        columns[name] = [one.decode("latin-1") if isinstance(one, bytes) else str(one) for one in values]
        cells = [one for one in values if isinstance(one, bytes) and len(one) >= CELL_BYTES_MIN]
        yield from ((f"{kind} cell", cell) for cell in dict.fromkeys(cells[:CELLS_MAX]))
    yield kind, _column_text(columns)


def _column_text(columns: dict[str, list[str]]) -> bytes:
    rows = zip(*columns.values(), strict=False)
    return "\n".join([",".join(columns), *(",".join(row) for row in rows)]).encode()


def _pyarrow() -> Any:
    """Arrow's reader.

    Raises:
        UndecodableError: it is not part of this environment.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 - the tier that runs worlds does not carry it
        import pyarrow.ipc  # noqa: PLC0415
    except ImportError as error:
        raise UndecodableError("Arrow cannot be read here: run it in the bench tier") from error
    return pa
