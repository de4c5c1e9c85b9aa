import json
from pathlib import Path

import pytest

from infra.cli.__main__ import main
from infra.contracts.events import EventType
from infra.plumbing.errors import InvalidInputError
from region.events.validating import PROBLEMS_MAX, validate_file
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
    assert main(["events", "schema"]) == 0
