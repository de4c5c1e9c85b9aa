"""The residency scan: every form of every secret is found where it was planted, and a clean capture is clean."""

import base64
import gzip
import hashlib
import io
import json
import resource
import struct
import urllib.parse
import uuid
import zipfile
import zlib
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from infra.contracts.events import Event, EventBatch, EventType
from infra.contracts.messages import AwayRequest, HomeRequest, RecommendationType
from infra.contracts.residency import encode_global, encode_regional
from infra.local.residency import ResidencyReport, grep_telemetry, scan
from infra.local.residency.contract_fields import resident_names
from infra.local.residency.fields import find_beside_names, find_in_columns, names_an_id
from infra.local.residency.http_messages import UndecodableError, parse_stream, plain_body
from infra.local.residency.needles import NeedleSet
from infra.local.residency.scan import LEAKS_MAX, Searcher, scan_with
from infra.local.wan.capture import MAGIC, Direction
from infra.plumbing.keys import RegionKeys

KEYS = RegionKeys.generate("us-east")
PSEUDONYMS = [KEYS.pseudonym("user", str(user)) for user in range(1200)]
VICTIM = PSEUDONYMS[123]
RAW = bytes.fromhex(VICTIM)
SECRETS = {
    "pseudonym": PSEUDONYMS[100:150],
    "user_id": [*(str(user) for user in range(1, 1000)), "somebody@example.org"],
    "event_id": ["evt-0000-4711", "evt-ü-ß-0815"],
    "session": ["session-abcdef"],
}
LINK = "us-east--us-west"
SEARCHER = Searcher(SECRETS)


def record(direction: Direction, payload: bytes, connection: int = 1) -> bytes:
    return struct.pack(">BQII", direction, 0, connection, len(payload)) + payload


def capture(out: bytes, back: bytes = b"HTTP/1.1 204 No Content\r\n\r\n", *, pieces: int = 700) -> bytes:
    content = MAGIC + record(Direction.OPENED, b"")
    for direction, stream in ((Direction.OUT, out), (Direction.BACK, back)):
        for start in range(0, len(stream), pieces):  # as sockets deliver it: cut anywhere
            content += record(direction, stream[start : start + pieces])
    return content


def post(body: bytes, *headers: str, path: str = "/v1/away") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def answer(body: bytes, *headers: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers, "", ""]).encode() + body


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    encoded = b"".join(f"{len(part):x};x=y\r\n".encode() + part + b"\r\n" for part in parts)
    return b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + encoded + b"0\r\nTrailer: t\r\n\r\n"


def archive(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("arrays/ids.npy", content)
    return buffer.getvalue()


def scan_one(out: bytes, back: bytes = b"HTTP/1.1 204 No Content\r\n\r\n", *, link: str = LINK) -> ResidencyReport:
    return scan_with({link: capture(out, back)}, SEARCHER)


CLEAN_BODY = encode_global(AwayRequest(type=RecommendationType.POPULAR, n=20, vector=(0.25, 0.5)))


def test_what_may_cross_is_clean() -> None:
    items = json.dumps({"items": [{"item": str(row), "score": row / 7} for row in range(2000)], "users": 943})
    problem = json.dumps({"type": "about:blank", "title": "Gone", "status": 503, "detail": "x", "request_id": "r"})
    report = scan(
        {
            LINK: capture(
                post(CLEAN_BODY) + b"GET /x?item=196&n=10 HTTP/1.1\r\n\r\n",
                answer(items.encode()) + answer(problem.encode()),
            ),
            # What central gives out may use any word: it comes into the region.
            "us-east--central": capture(
                b"GET /metadata/timestamp.json HTTP/1.1\r\n\r\n",
                answer(b'{"signed": {"version": 3, "history": 1, "users": 12, "value": 5}}'),
            ),
        },
        SECRETS,
    )
    assert report.leaks == ()
    assert report.clean
    assert (report.messages, report.connections, report.links) == (6, 2, 2)
    assert report.bytes_scanned > 20_000


@pytest.mark.parametrize(
    "planted",
    [
        pytest.param(VICTIM.encode(), id="hex"),
        pytest.param(VICTIM.upper().encode(), id="upper case"),
        pytest.param(RAW, id="raw"),
        pytest.param(base64.b64encode(RAW), id="base64"),
        pytest.param(base64.b64encode(b"x" + RAW + b"tail"), id="base64 shifted by one"),
        pytest.param(base64.b64encode(b"xy" + RAW + b"tail"), id="base64 shifted by two"),
        pytest.param(base64.urlsafe_b64encode(RAW).rstrip(b"="), id="base64url"),
        pytest.param(base64.b64encode(b'{"s":"' + VICTIM.encode() + b'"}'), id="base64 of hex"),
        pytest.param(VICTIM.encode().hex().encode(), id="hex of hex"),
        pytest.param(str(uuid.UUID(VICTIM)).encode(), id="dashed"),
        pytest.param(VICTIM.encode("utf-16-le"), id="utf-16"),
        pytest.param(b"evt-0000-4711", id="event id"),
        pytest.param("evt-ü-ß-0815".encode(), id="event id, not ascii"),
        pytest.param(urllib.parse.quote("evt-ü-ß-0815").encode(), id="event id, percent"),
        pytest.param(b"session-abcdef", id="session"),
        pytest.param(b"somebody@example.org", id="long user id"),
        pytest.param(b"somebody%40example.org", id="long user id, percent"),
        pytest.param(b'"user_id":"196"', id="user id in JSON"),
        pytest.param(b'{\\"user_id\\": \\"196\\"}', id="user id in JSON in JSON"),
        pytest.param(b"user_id=196&n=1", id="user id in a query"),
        pytest.param(b"%22subject%22%3A%22196%22", id="user id in a quoted query"),
        pytest.param(b'"User":196}', id="user id as a number"),
        pytest.param(b'"user_ids": ["196", "7"]', id="user ids in a list"),
        pytest.param(b"X-User-Id: 196", id="user id in a header"),
        pytest.param(msgspec.msgpack.encode({"user_id": "196"}), id="user id in MessagePack"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["request", "answer", "path", "chunks", "gzip", "deflate", "archive", "not http"])
def test_every_form_is_found_everywhere(planted: bytes, where: str) -> None:
    body = b"before " + planted + b" after" * 50
    get = b"GET /x HTTP/1.1\r\n\r\n"
    # The raw pseudonym is 16 bytes of any value; only in text is a blank a blank.
    in_path = planted if planted == RAW else planted.replace(b" ", b"+")
    streams = {
        "request": (post(body), b""),
        "answer": (get, answer(body)),
        "path": (b"GET /x?q=" + in_path + b" HTTP/1.1\r\n\r\n", b""),
        "chunks": (chunked(body, 5), b""),
        "gzip": (get, answer(gzip.compress(body), "Content-Encoding: gzip")),
        "deflate": (post(zlib.compress(body)[2:-4], "Content-Encoding: deflate"), b""),
        "archive": (post(archive(body)), b""),
        "not http": (b"\x00\x01PRI binary " + body, b""),
    }
    report = scan_one(*streams[where])
    assert report.leaks_total > 0
    assert not report.clean
    # A report may be shown to anyone: it says where and what kind, not whom.
    shown = msgspec.json.encode(report)
    assert VICTIM.encode() not in shown
    assert b"somebody" not in shown


def test_a_csv_column_of_users_is_found() -> None:
    body = b"item_id,user_id\n12,196\n"
    assert [leak.kind for leak in scan_one(post(body)).leaks] == ["id in a column"]
    assert list(find_in_columns(b"item_id\tuser_id\n12\t'196'\n", frozenset({b"196"}))) == [(1, "user_id")]
    assert list(find_in_columns(b"item_id,n\n196,196\n", frozenset({b"196"}))) == []


def test_messages_that_stay_in_the_region_are_known_by_their_fields() -> None:
    event = Event(event_id="unknown-event", type=EventType.CLICK, item="1", at_ms=1)
    for message in (
        EventBatch(events=(event,)),
        HomeRequest(type=RecommendationType.PERSONAL, subject="nobody-we-know", exclude=("1",)),
    ):
        kinds = {leak.kind for leak in scan_one(post(encode_regional(message))).leaks}
        assert kinds & {"field events", "field subject"}
    lines = b'{"ok": 1}\n{"received_ms": 5}\nnot json\n{broken\n'
    assert "field received_ms" in {leak.kind for leak in scan_one(post(lines)).leaks}
    packed = msgspec.msgpack.encode([{"subject_version": 3}])
    assert [leak.kind for leak in scan_one(post(packed)).leaks] == ["field subject_version"]
    # Towards central too; but not in what comes from there.
    body = b'{"subject_version": 3}'
    central = "us-east--central"
    assert scan_one(post(body), link=central).leaks_total == 1
    assert scan_one(b"GET /x HTTP/1.1\r\n\r\n", answer(body), link=central).leaks_total == 0
    assert scan_one(b"GET /x HTTP/1.1\r\n\r\n", answer(body)).leaks_total == 1


def test_resident_names_are_computed_from_the_contracts() -> None:
    names = resident_names()
    assert {"subject", "event_id", "events", "consumed", "strength"} <= names
    assert not {"item", "items", "vector", "type", "score", "release"} & names


def test_escaped_and_keyed_secrets_are_found() -> None:
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in VICTIM)
    assert scan_one(post(f'{{"x": ["{escaped}"]}}'.encode())).leaks_total == 1
    assert scan_one(post(f'{{"{escaped}": 1}}'.encode())).leaks_total == 1
    deep = b"[" * 200 + b"]" * 200
    assert scan_one(post(deep)).leaks_total == 0


def test_what_cannot_be_looked_into_is_counted() -> None:
    for body, header in (
        (b"x" * 99, "Content-Encoding: br"),
        (b"not gzip", "Content-Encoding: gzip"),
        (b"not deflate", "Content-Encoding: deflate"),
        (b"\x28\xb5\x2f\xfd" + b"x" * 20, "X: y"),
        (b"not zstd", "Content-Encoding: zstd"),
        (b"PK\x03\x04 broken", "X: y"),
    ):
        report = scan_one(post(body, header))
        assert report.bodies_undecodable == 1, header
        assert not report.clean
    assert scan_one(b"\x00 no http").streams_unparsed == 1
    assert scan_one(post(b"x", "Content-Encoding: identity")).clean
    cut = MAGIC + record(Direction.OPENED, b"") + record(Direction.CUT, struct.pack(">Q", 77))
    report = scan({LINK: cut}, SECRETS)
    assert report.bytes_cut == 77
    assert not report.clean


def test_a_bomb_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.local.residency.http_messages.DECODED_BYTES_MAX", 1000)
    assert scan_one(post(gzip.compress(bytes(100_000)))).bodies_undecodable == 1
    assert scan_one(post(archive(bytes(100_000)))).bodies_undecodable == 1
    assert scan_one(post(zstandard.compress(bytes(100_000)))).bodies_undecodable == 1
    assert scan_one(post(pa.compress(bytes(100_000), codec="lz4", asbytes=True))).bodies_undecodable == 1


def test_a_damaged_lz4_stream_keeps_no_room_for_what_it_might_have_held() -> None:
    with pa.BufferOutputStream() as sink:
        with pa.CompressedOutputStream(sink, "lz4") as out:
            out.write(b"held" * 1000)
        damaged = sink.getvalue().to_pybytes()[:-30] + bytes(30)
    before = address_space_bytes()
    for _ in range(10):
        assert scan_one(post(damaged)).bodies_undecodable == 1
    assert address_space_bytes() - before < 100 << 20


def address_space_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def test_leaks_are_kept_to_a_bound_and_all_counted() -> None:
    out = post(b" ".join(name.encode() for name in PSEUDONYMS))
    report = scan({LINK: capture(out)}, {"pseudonym": PSEUDONYMS})
    assert report.leaks_total == len(PSEUDONYMS)
    assert len(report.leaks) == LEAKS_MAX


def test_connections_of_a_restarted_link_are_told_apart() -> None:
    half = len(VICTIM) // 2
    first = MAGIC + record(Direction.OPENED, b"") + record(Direction.OUT, VICTIM[:half].encode())
    # The process began anew and counts from 1 again: these bytes never stood together.
    second = record(Direction.OPENED, b"") + record(Direction.OUT, VICTIM[half:].encode())
    report = scan({LINK: first + second}, SECRETS)
    assert report.leaks_total == 0
    assert report.connections == 2


def test_responses_are_parsed_beside_their_requests() -> None:
    requests = parse_stream(b"HEAD /x HTTP/1.1\r\n\r\nGET /x HTTP/1.1\r\n\r\n")
    assert [message.method for message in requests.messages] == ["HEAD", "GET"]
    stream = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end"
    )
    parsed = parse_stream(stream, answers_to=["HEAD", "GET"])
    assert [message.body for message in parsed.messages] == [b"", b"", b"hello", b"until the end"]
    assert parsed.bytes_unparsed == 0
    broken = parse_stream(b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n")
    assert broken.messages[0].body == b"hello"
    open_end = parse_stream(b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhello")
    assert open_end.messages[0].body == b"hello"
    assert parse_stream(b"GET /x HTTP/1.1\r\nHost: x\r\n").bytes_unparsed > 0


def test_nested_encodings_are_undone() -> None:
    body = gzip.compress(zlib.compress(b"inner"))
    message = parse_stream(post(body, "Content-Encoding: deflate, gzip")).messages[0]
    assert plain_body(message) == b"inner"
    unknown = parse_stream(post(body, "Content-Encoding: rot13")).messages[0]
    with pytest.raises(UndecodableError, match="rot13"):
        plain_body(unknown)


@given(
    st.lists(st.binary(min_size=8, max_size=40), min_size=1, max_size=20, unique=True),
    st.binary(max_size=300),
    st.data(),
)
def test_needles_are_found_at_every_position(needles: list[bytes], hay: bytes, data: st.DataObject) -> None:
    known = NeedleSet({"x": needles})
    planted = data.draw(st.sampled_from(needles))
    at = data.draw(st.integers(0, len(hay)))
    stack = hay[:at] + planted + hay[at:]
    found = {(position, needle.content) for position, needle in known.find(stack)}
    assert (at, planted) in found
    expected = {
        (position, needle) for needle in needles for position in range(len(stack)) if stack.startswith(needle, position)
    }
    assert expected <= found  # besides, there are the needles' other forms


def test_needles_are_found_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.local.residency.needles._BLOCK_BYTES", 64)
    known = NeedleSet({"x": [b"needle-needle"]})
    for at in range(40, 80):
        assert [position for position, _ in known.find(bytes(at) + b"needle-needle" + bytes(30))] == [at]
    assert list(NeedleSet({}).find(b"anything at all")) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [("user_id", True), ("User-Ids", True), ("x-user-id", True), ("item", False), ("users", True), ("discuss", False)],
)
def test_names_of_ids(name: str, *, expected: bool) -> None:
    assert names_an_id(name) is expected


def test_counts_and_longer_words_are_no_ids() -> None:
    ids = frozenset({b"196"})
    for text in (b'"users": 196', b"enduser=1960", b'"superuser":"196"', b"user agent 196", b'"user":"1961"'):
        assert list(find_beside_names(text, ids)) == [], text
    assert list(find_beside_names(b'"users": ["196"]', ids)) != []


def test_telemetry_is_searched_in_every_file(tmp_path: Path) -> None:
    for folder in ("logs", "spans", "elsewhere"):
        (tmp_path / folder).mkdir()
    (tmp_path / "logs" / "edge.log").write_text('{"message": "listening", "port": 196}\n')
    (tmp_path / "spans" / "edge.jsonl").write_text("{}\n")
    clean = grep_telemetry(tmp_path, SECRETS, metrics={"edge": 'requests{route="/x"} 196\n'})
    assert clean.clean
    assert clean.links == 3
    (tmp_path / "logs" / "api.log").write_text('{"message": "failed for user 196", "user": "196"}\n')
    (tmp_path / "spans" / "api.jsonl").write_text(f'{{"attributes": {{"who": "{VICTIM}"}}}}\n')
    report = grep_telemetry(tmp_path, SECRETS, metrics={"api": f'lists{{subject="{VICTIM}"}} 1\n'})
    assert {leak.link for leak in report.leaks} == {"logs/api.log", "spans/api.jsonl", "metrics of api"}


def npz(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def arrow(codec: str | None, **columns: object) -> bytes:
    table, sink = pa.table(columns), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def parquet(**columns: object) -> bytes:
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(pa.table(columns), sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


EVENT = json.dumps({"events": [{"event_id": "unknown", "item": "1"}]})


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(hashlib.sha256(VICTIM.encode()).hexdigest().encode(), id="sha256"),
        pytest.param(hashlib.sha256(b"196").hexdigest()[:16].encode(), id="sha256 of a short id, cut"),
        pytest.param(hashlib.md5(b"196").digest(), id="md5 of a short id, raw"),
        pytest.param(base64.b64encode(hashlib.sha1(b"evt-0000-4711").digest()), id="sha1, base64"),
        pytest.param(msgspec.msgpack.encode({"x": gzip.compress(VICTIM.encode())}), id="gzip in MessagePack"),
        pytest.param(b"--" + gzip.compress(gzip.compress(VICTIM.encode())) + b"--", id="gzip in gzip in the middle"),
        pytest.param(
            json.dumps({"p": base64.b64encode(npz(a=np.frombuffer(VICTIM.encode(), np.uint8))).decode()}).encode(),
            id="npz in base64 in JSON",
        ),
        pytest.param(npz(user_id=np.array(["1", "196"])), id="short ids in npz"),
        pytest.param(npz(user_id=np.array([1, 196])), id="numbers in npz"),
        pytest.param(npz(x=np.array([VICTIM])), id="text in npz"),
        pytest.param(arrow(None, user_id=["a", "196"]), id="short id in Arrow"),
        pytest.param(arrow("zstd", x=["a", VICTIM]), id="Arrow, zstd"),
        pytest.param(arrow("lz4", x=["a", VICTIM]), id="Arrow, lz4"),
        pytest.param(parquet(x=["a", VICTIM]), id="Parquet"),
        pytest.param(parquet(x=[EVENT]), id="an event in a cell"),
        pytest.param(b"note=" + EVENT.encode() + b";", id="an event in the middle"),
        pytest.param(zlib.compress(VICTIM.encode()), id="zlib"),
    ],
)  # fmt: skip
def test_what_lies_inside_is_found(body: bytes) -> None:
    report = scan_one(post(body))
    assert report.leaks_total > 0
    assert report.bodies_undecodable == 0


def test_what_only_looks_like_a_container_is_no_failure() -> None:
    for start in (b"x\x1f\x8b\x08", b"xPK\x03\x04", b"\x78\x9c", b"\xff\xff\xff\xff", b"xPAR1", b"A" * 40):
        report = scan_one(post(start + b"and nothing of the kind"))
        assert report.clean, start
    for start in (b"\x93NUMPY", b"PAR1", b"ARROW1\0\0", b"\x04\x22\x4d\x18"):
        assert scan_one(post(start + b"and nothing of the kind")).bodies_undecodable == 1, start


def test_an_event_in_a_header_or_outside_of_http_is_found() -> None:
    assert scan_one(post(b"x", f"X-Note: {EVENT}")).leaks_total > 0
    assert scan_one(b"\x00\x01PRI " + EVENT.encode()).leaks_total > 0
