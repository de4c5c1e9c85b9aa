"""Plants: secrets in every form in every kind of place, as they would stand in what crosses, to try the search.

A plant is bytes of one form. A place puts them into the two directions of a connection; places that hold text only take
forms that are text.
"""

import base64
import gzip
import hashlib
import io
import struct
import urllib.parse
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import zstandard

from infra.local.wan.capture import MAGIC, Direction

_ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
_ASKED = b"GET /metadata HTTP/1.1\r\nHost: x\r\n\r\n"
_MESSAGE_PACK = (b"\x82", b"\x94")
_NOISE = hashlib.sha512(b"other bytes").digest()
_PIECE_BYTES = 700
"""Records of a capture hold what a socket delivered: plants are cut anywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """Whose secrets are planted: one of each kind, all of them known to the search."""

    pseudonym: str
    user_id: str
    event_id: str
    item: str
    affinity: float
    session: str


def forms(one: Planted) -> dict[str, bytes]:
    """Every form, by name."""
    name, raw = one.pseudonym, bytes.fromhex(one.pseudonym)
    event = {"event_id": "e-unknown-1", "type": "click", "item": one.item, "at_ms": 1}
    found = {
        "plain": name.encode(), "upper": name.upper().encode(), "raw": raw, "dashed": str(uuid.UUID(name)).encode(),
        "hex of hex": name.encode().hex().encode(), "utf-16": name.encode("utf-16-le"),
        "utf-32": name.encode("utf-32-le"),
        "base64url": base64.urlsafe_b64encode(raw).rstrip(b"="),
        "percent": urllib.parse.quote(f"id={one.event_id}", safe="").encode(),
        "escaped JSON": "".join(f"\\u{ord(letter):04x}" for letter in name).join(('{"x":"', '"}')).encode(),
        "event id": one.event_id.encode(), "user id beside a name": f'"user_id":"{one.user_id}"'.encode(),
        "user id in a query": f"user_id={one.user_id}&n=1".encode(),
        "event": msgspec.json.encode({"events": [event], "subject": "nobody-we-know"}),
        "event in MessagePack": msgspec.msgpack.encode({"events": [event], "subject_version": 3}),
        "nameless event in MessagePack": msgspec.msgpack.encode(
            ["e-unknown-2", "purchase", "i-unknown", 1_700_000_000_001]
        ),
        "features in MessagePack": msgspec.msgpack.encode(
            {"affinities": {"category": [["drama", 0.5, 1_700_000_000_000]]}, "last_event_ms": 1_700_000_000_000}
        ),
        "history": msgspec.json.encode({"history": [[one.item, 3, 1]], "received_ms": 7}),
        "feature": repr(one.affinity).encode(), "feature as a double": struct.pack("<d", one.affinity),
        "feature, big-endian": struct.pack(">d", one.affinity), "session": one.session.encode(),
    }  # fmt: skip
    for shift in range(3):
        found[f"base64, shifted by {shift}"] = base64.b64encode(b"x" * shift + raw + b"tail")
        found[f"base64 of hex, shifted by {shift}"] = base64.b64encode(b"x" * shift + name.encode() + b"tail")
    return found | _hashed(one)


def _hashed(one: Planted) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for kind, text in (("pseudonym", one.pseudonym), ("user id", one.user_id), ("event id", one.event_id)):
        for algorithm in ("md5", "sha1", "sha256", "sha512", "sha3_256", "blake2b"):
            digest = hashlib.new(algorithm, text.encode(), usedforsecurity=False)
            found[f"{algorithm} of {kind}"] = digest.hexdigest().encode()
        found[f"sha256 of {kind}, cut"] = hashlib.sha256(text.encode()).hexdigest()[:16].encode()
        found[f"sha256 of {kind}, raw"] = hashlib.sha256(text.encode()).digest()
        found[f"sha256 of {kind}, base64"] = base64.b64encode(hashlib.sha256(text.encode()).digest())
        found[f"md5 of {kind}, upper"] = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest().upper().encode()
    return found


Streams = tuple[bytes, bytes]
Place = Callable[[bytes], Streams]


def places() -> dict[str, Place]:
    """Every kind of place that takes any bytes, by name."""
    return {
        "request body": lambda plant: (_post(_around(plant)), _ANSWER),
        "answer body": lambda plant: (_ASKED, _reply(_around(plant))),
        "chunked body": lambda plant: (_chunked(_around(plant)), _ANSWER),
        "gzip encoding": lambda plant: (_ASKED, _reply(gzip.compress(_around(plant)), "Content-Encoding: gzip")),
        "deflate encoding": lambda plant: (_post(zlib.compress(_around(plant)), "Content-Encoding: deflate"), _ANSWER),
        "zstd encoding": lambda plant: (_ASKED, _reply(_zstd(_around(plant)), "Content-Encoding: zstd")),
        "gzip in MessagePack": lambda plant: (
            _post(msgspec.msgpack.encode({"x": gzip.compress(_around(plant))})),
            _ANSWER,
        ),
        "zstd in the middle": lambda plant: (_post(b"--part--" + _zstd(_around(plant)) + b"--part--"), _ANSWER),
        "base64 of gzip in JSON": lambda plant: (_post(_json_base64(gzip.compress(_around(plant)))), _ANSWER),
        "base64 of npz in JSON": lambda plant: (_post(_json_base64(_npz(plant))), _ANSWER),
        "npz": lambda plant: (_post(_npz(plant)), _ANSWER),
        "Arrow stream": lambda plant: (_post(_arrow(plant, None)), _ANSWER),
        "Arrow stream, zstd buffers": lambda plant: (_post(_arrow(plant, "zstd")), _ANSWER),
        "Arrow stream, lz4 buffers": lambda plant: (_ASKED, _reply(_arrow(plant, "lz4"))),
        "Parquet": lambda plant: (_post(_parquet(plant)), _ANSWER),
        "no HTTP": lambda plant: (b"\x00\x01PRI binary " + _around(plant), b""),
        "between other bytes": lambda plant: (_post(_NOISE + plant + _NOISE), _ANSWER),
        "framed, no HTTP": lambda plant: (b"PRI " + _NOISE + struct.pack(">I", len(plant)) + plant + _NOISE, b""),
    }


def text_places() -> dict[str, Place]:
    """Places that take text only."""
    return {
        "path": lambda plant: (b"GET /x?q=" + plant.replace(b" ", b"+") + b" HTTP/1.1\r\nHost: x\r\n\r\n", _ANSWER),
        "request header": lambda plant: (_post(b"x", f"X-Note: {plant.decode()}"), _ANSWER),
        "answer header": lambda plant: (_ASKED, _reply(b"x", f"X-Note: {plant.decode()}")),
        "array of text in npz": lambda plant: (_post(_npz_text(plant.decode())), _ANSWER),
    }


def is_text(plant: bytes) -> bool:
    """Whether a form can stand in a header or a path."""
    return plant.isascii() and plant.decode("ascii", errors="replace").isprintable() and b" " not in plant


def planted(one: Planted) -> Iterator[tuple[str, str, Streams]]:
    """(form, place, the connection's two directions) of every plant."""
    for form, plant in forms(one).items():
        for place, put in places().items():
            yield form, place, put(plant)
        if is_text(plant):
            for place, put in text_places().items():
                yield form, place, put(plant)


def as_capture(streams: Streams) -> bytes:
    """A capture file of one connection."""
    content = MAGIC + _record(Direction.OPENED, b"")
    for direction, stream in zip((Direction.OUT, Direction.BACK), streams, strict=True):
        for start in range(0, len(stream), _PIECE_BYTES):
            content += _record(direction, stream[start : start + _PIECE_BYTES])
    return content


def _record(direction: Direction, payload: bytes) -> bytes:
    return struct.pack(">BQII", direction, 0, 1, len(payload)) + payload


def _around(plant: bytes) -> bytes:
    """Documents stay whole; everything else stands among other words."""
    is_document = plant[:1] in (b"{", *_MESSAGE_PACK)
    return plant if is_document else b"before " + plant + b" after" * 50


def _post(body: bytes, *headers: str) -> bytes:
    lines = ["POST /v1/away HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def _reply(body: bytes, *headers: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers, "", ""]).encode() + body


def _chunked(body: bytes) -> bytes:
    parts = [body[start : start + 5] for start in range(0, len(body), 5)]
    encoded = b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in parts)
    return b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + encoded + b"0\r\n\r\n"


def _zstd(content: bytes) -> bytes:
    packed: bytes = zstandard.ZstdCompressor().compress(content)
    return packed


def _json_base64(content: bytes) -> bytes:
    return msgspec.json.encode({"payload": base64.b64encode(content).decode()})


def _npz(plant: bytes) -> bytes:
    buffer = io.BytesIO()
    held = _around(plant)
    np.savez_compressed(buffer, bytes=np.frombuffer(held, dtype=np.uint8), ones=np.ones(64, dtype=np.float32))
    return buffer.getvalue()


def _npz_text(plant: str) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, user_id=np.array(["x", plant, "another one"]))
    return buffer.getvalue()


def _table(plant: bytes) -> "pa.Table":
    return pa.table({"n": list(range(200)), "note": pa.array([b"nothing"] * 199 + [_around(plant)], type=pa.binary())})


def _arrow(plant: bytes, codec: str | None) -> bytes:
    sink, table = pa.BufferOutputStream(), _table(plant)
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_table(table)
    held: bytes = sink.getvalue().to_pybytes()
    return held


def _parquet(plant: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(_table(plant), sink, compression="zstd")
    held: bytes = sink.getvalue().to_pybytes()
    return held
