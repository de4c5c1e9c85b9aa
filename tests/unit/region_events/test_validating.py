import gzip
import json
from pathlib import Path

import pytest

from infra.cli.__main__ import main
from infra.contracts.events import EventType
from infra.plumbing.errors import InvalidInputError
from region.events import validating
from region.events.validating import LINE_BYTES_MAX, PROBLEMS_MAX, validate_file
from tests.contract.building import NOW_MS

GOOD = {"event_id": "event-0001", "type": "view", "item": "x", "at_ms": NOW_MS}


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_every_bad_line_is_explained(tmp_path: Path) -> None:
    path = write(
        tmp_path / "e.ndjson", GOOD, "{not json", {**GOOD, "event_id": "x"}, "", {**GOOD, "type": "share"},
        {**GOOD, "event_id": "event-0002", "type": "search", "query": "films", "item": ""}, {**GOOD, "at_ms": "now"},
        GOOD, {"events": [{**GOOD, "event_id": "event-0003", "mood": 1}, {"type": "view"}]}, {"events": []}, 7,
    )  # fmt: skip
    report = validate_file(path, now_ms=NOW_MS)
    told = {(one.line, one.event): one.what for one in report.problems}
    assert "not JSON" in told[2, 0]
    assert "event_id must be 8 to 64" in told[3, 0]
    assert EventType.CART.value in told[5, 0]
    assert "at_ms" in told[7, 0]
    assert "stands in line 1 already" in told[8, 0]
    assert "missing required field event_id" in told[9, 1]
    assert "a list of 1 to" in told[10, 0]
    assert "Expected object" in told[11, 0]
    assert (report.lines, report.good, report.unknown_fields, report.types) == (
        11, 3, {"mood": 1}, {"search": 1, "view": 2},
    )  # fmt: skip


def test_csv_is_checked_under_its_header(tmp_path: Path) -> None:
    path = write(
        tmp_path / "e.csv", "event_id,type,item,at_ms,value", f"event-0001,rating,x,{NOW_MS},4.5",
        f"event-0002,rating,x,{NOW_MS},9", "event-0003,view,x", f"event-0004,view,x,{NOW_MS},",
        "event-0005,view,x,soon,",
    )  # fmt: skip
    report = validate_file(path, now_ms=NOW_MS)
    assert [(one.line, one.what.split(" ")[0]) for one in report.problems] == [(3, "value"), (4, "3"), (6, "Expected")]
    assert report.good == 2
    with pytest.raises(InvalidInputError, match="names no event_id"):
        validate_file(write(tmp_path / "n.csv", "type,at_ms"), now_ms=NOW_MS)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("e.ndjson", gzip.compress(b"{}", mtime=0), "compressed by gzip"),
        ("e.ndjson", json.dumps(GOOD).encode("utf-16"), "UTF-16"),
        ("e.csv", bytes(range(256)), "no text"),
        ("e.csv", "event_id,type,at_ms,größe".encode("latin-1"), "first line is not UTF-8"),
        ("e.csv", b"a" * 200_000, "first line is not CSV"),
        ("e.csv", b"event_id,type,at_ms,at_ms", "a field twice"),
    ],
    ids=["gzip", "UTF-16", "no text", "Latin-1", "no CSV", "twice"],
)
def test_a_file_that_is_none_of_events_is_said_to_be_what_it_is(
    tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInputError, match=told):
        validate_file(tmp_path / name, now_ms=NOW_MS)


def test_what_is_wrong_with_one_line_does_not_keep_others_from_being_checked(tmp_path: Path) -> None:
    good = json.dumps(GOOD).encode()
    path = tmp_path / "e.NDJSON"
    path.write_bytes(
        b"\xef\xbb\xbf" + b"\n".join([good, b"x" * (LINE_BYTES_MAX + 10), b"[" * 100_000, b'"\xff"', good])
    )
    report = validate_file(path, now_ms=NOW_MS)
    assert [one.what.split(" (")[0] for one in report.problems] == [
        f"the line is longer than {LINE_BYTES_MAX} bytes", "nested too deeply",
        report.problems[2].what.split(" (")[0], "event_id stands in line 1 already: of one subject it would count once",
    ]  # fmt: skip
    assert (report.lines, report.good) == (5, 1)
    rows = [b"event_id,type,item,at_ms", b"event-0001,view,\xff," + str(NOW_MS).encode(), b"a" * 200_000 + b",b,c,d"]
    path = tmp_path / "e.CSV"
    path.write_bytes(b"\n".join([*rows, b"event-0002,view,x," + str(NOW_MS).encode()]))
    report = validate_file(path, now_ms=NOW_MS)
    assert [(one.line, one.what[:8]) for one in report.problems] == [(2, "not UTF-"), (3, "not CSV:")]
    assert report.good == 1


def test_a_batch_of_another_major_is_refused_as_the_intake_would(tmp_path: Path) -> None:
    path = write(
        tmp_path / "e.ndjson", {"schema_version": "2.0", "events": [GOOD]}, {"schema_version": 1, "events": [GOOD]},
        {"schema_version": "1.99", "events": [GOOD]},
    )  # fmt: skip
    report = validate_file(path, now_ms=NOW_MS)
    assert [(one.line, one.what.split(":")[0]) for one in report.problems] == [
        (1, "schema_version is not known"), (2, "schema_version is not known")
    ]  # fmt: skip
    assert (report.events, report.good) == (3, 1)


def test_what_is_kept_of_a_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validating, "IDS_MAX", 2)
    monkeypatch.setattr(validating, "UNKNOWN_MAX", 2)
    lines = [{**GOOD, "event_id": f"event-000{number}", f"new\x1b{number}": 1} for number in range(4)]
    report = validate_file(write(tmp_path / "e.ndjson", *lines), now_ms=NOW_MS)
    assert (report.good, report.repeats_not_looked_for) == (4, 2)
    assert report.unknown_fields == {"new?0": 1, "new?1": 1, "(others)": 2}, "nothing that a terminal would obey"


def test_problems_are_told_up_to_a_bound(tmp_path: Path) -> None:
    report = validate_file(write(tmp_path / "e.ndjson", *["x"] * (PROBLEMS_MAX + 5)), now_ms=NOW_MS)
    assert (len(report.problems), report.problems_more) == (PROBLEMS_MAX, 5)


def test_the_command_tells_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "e.ndjson", {**GOOD, "at_ms": 1}, {**GOOD, "event_id": "event-0009"})
    assert main(["events", "validate", str(path)]) == 2
    said = capsys.readouterr()
    assert "line 1: at_ms is more than 2 years ago" in said.out
    assert "problems in" in said.err
    assert main(["events", "validate", str(tmp_path / "nowhere")]) == 2
    assert main(["events", "validate", str(tmp_path)]) == 2
    (tmp_path / "empty.ndjson").touch()
    assert main(["events", "validate", str(tmp_path / "empty.ndjson")]) == 2
    assert "there is no event in" in capsys.readouterr().err
    assert main(["events", "schema"]) == 0
