"""The audit: appended durably, bounded, and readable after a kill in mid-line."""

from pathlib import Path

from region.releases.audit import AuditLog
from region.releases.messages import AuditEntry


def entry(number: int) -> AuditEntry:
    return AuditEntry(at_ms=number, operator="ada", action="promote", from_release=None, to_release="x", outcome="done")


def test_latest_entries_oldest_first(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    assert log.latest(5) == ()
    for number in range(10):
        log.append(entry(number))
    assert [found.at_ms for found in log.latest(3)] == [7, 8, 9]
    assert log.latest(0) == ()
    assert [found.at_ms for found in AuditLog(tmp_path / "audit.jsonl").latest(100)] == list(range(10))


def test_files_are_bounded_and_read_across(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl", file_bytes_max=400, files_max=3)
    for number in range(60):
        log.append(entry(number))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert set(names) <= {"audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"}
    found = [item.at_ms for item in log.latest(100)]
    assert found == list(range(60 - len(found), 60))
    assert len(found) >= 4


def test_one_file_only(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl", file_bytes_max=300, files_max=1)
    for number in range(9):
        log.append(entry(number))
    assert [path.name for path in tmp_path.iterdir()] in ([], ["audit.jsonl"])


def test_a_line_cut_off_by_a_kill_does_not_swallow_the_next(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.append(entry(1))
    with (tmp_path / "audit.jsonl").open("ab") as file:
        file.write(b'{"at_ms": 2, "oper')
    log.append(entry(3))
    assert [found.at_ms for found in log.latest(10)] == [1, 3]
