"""A file of events, checked line by line as the intake would: what is wrong, where, and what would be taken.

NDJSON (one event a line), JSON batches a line (`{"events": [...]}`), or CSV with a header of field names.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import msgspec

from infra.contracts.event_weights import EventType
from infra.contracts.events import EVENTS_PER_BATCH_MAX, Event, EventBatch
from infra.plumbing.errors import InvalidInputError
from region.events.intake import reason_against

LINE_BYTES_MAX = 1 << 20
PROBLEMS_MAX = 100
"""Problems that are told one by one; the rest are counted."""
_NUMBERS = {"at_ms": int, "value": float}
_FIELDS = tuple(Event.__struct_fields__)


class LineProblem(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong in a line; `event` is its place in the batch of that line."""

    line: int
    event: int
    what: str


class FileReport(msgspec.Struct, frozen=True, kw_only=True):
    """A checked file."""

    lines: int
    events: int
    good: int
    problems: tuple[LineProblem, ...]
    problems_more: int
    """Problems beyond the first PROBLEMS_MAX."""
    unknown_fields: dict[str, int]
    """Fields that the schema does not know, with how many events name them: left out, and no problem."""
    types: dict[str, int]
    """Good events by type."""


class _Checker:
    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms
        self._seen: dict[str, int] = {}
        self.lines = self.events = self.good = self.more = 0
        self.problems: list[LineProblem] = []
        self.unknown: dict[str, int] = {}
        self.types: dict[str, int] = {}

    def problem(self, line: int, what: str, event: int = 0) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(LineProblem(line=line, event=event, what=what))
        else:
            self.more += 1

    def check(self, line: int, place: int, sent: Any) -> None:
        self.events += 1
        for name in sent if isinstance(sent, dict) else ():
            if name not in _FIELDS:
                self.unknown[name] = self.unknown.get(name, 0) + 1
        try:
            event = msgspec.convert(sent, Event)
        except msgspec.ValidationError as error:
            self.problem(line, _told(str(error)), place)
            return
        reason = reason_against(event, self._now_ms)
        first = self._seen.setdefault(event.event_id, line)
        if reason is None and first != line:
            reason = f"event_id stands in line {first} already: of one subject it would count once"
        if reason is not None:
            self.problem(line, reason, place)
            return
        self.good += 1
        self.types[event.type.value] = self.types.get(event.type.value, 0) + 1

    def report(self) -> FileReport:
        return FileReport(
            lines=self.lines, events=self.events, good=self.good, problems=tuple(self.problems),
            problems_more=self.more, unknown_fields=self.unknown, types=dict(sorted(self.types.items())),
        )  # fmt: skip


def validate_file(path: Path, *, now_ms: int) -> FileReport:
    """Check a file. CSV by its suffix `.csv`, else NDJSON.

    Raises:
        InvalidInputError: the file cannot be read, or a CSV has no usable header.
    """
    checker = _Checker(now_ms)
    try:
        for line, place, sent in _csv_events(path, checker) if path.suffix == ".csv" else _json_events(path, checker):
            checker.check(line, place, sent)
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror}.") from error
    return checker.report()


def _json_events(path: Path, checker: _Checker) -> Iterator[tuple[int, int, Any]]:
    with path.open("rb") as file:
        yield from _json_lines(file, checker)


def _json_lines(file: io.BufferedReader, checker: _Checker) -> Iterator[tuple[int, int, Any]]:
    while line := file.readline(LINE_BYTES_MAX + 1):
        checker.lines += 1
        if len(line) > LINE_BYTES_MAX:
            checker.problem(checker.lines, f"the line is longer than {LINE_BYTES_MAX} bytes; the rest is not read")
            return
        if not line.strip():
            continue
        try:
            sent = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            checker.problem(checker.lines, f"not JSON: {error}")
            continue
        yield from _events_of(checker, sent)


def _events_of(checker: _Checker, sent: Any) -> Iterator[tuple[int, int, Any]]:
    if not isinstance(sent, dict) or "events" not in sent:
        yield checker.lines, 0, sent
        return
    events = sent["events"]
    if not isinstance(events, list) or not 1 <= len(events) <= EVENTS_PER_BATCH_MAX:
        checker.problem(checker.lines, f"events must be a list of 1 to {EVENTS_PER_BATCH_MAX}")
        return
    for name in sent:
        if name not in EventBatch.__struct_fields__:
            checker.unknown[name] = checker.unknown.get(name, 0) + 1
    for place, event in enumerate(events):
        yield checker.lines, place, event


def _csv_events(path: Path, checker: _Checker) -> Iterator[tuple[int, int, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from _csv_rows(file, checker)


def _csv_rows(file: TextIO, checker: _Checker) -> Iterator[tuple[int, int, Any]]:
    reader = csv.reader(file)
    header = next(reader, [])
    missing = [name for name in ("event_id", "type", "at_ms") if name not in header]
    if missing:
        raise InvalidInputError(
            f"the first line names no {', '.join(missing)}.",
            fix=f"It must name fields of an event: {', '.join(_FIELDS)}.",
        )
    checker.lines = 1
    try:
        for cells in reader:
            checker.lines = reader.line_num
            if len(cells) != len(header):
                checker.problem(reader.line_num, f"{len(cells)} cells stand under {len(header)} names")
                continue
            yield reader.line_num, 0, _typed(dict(zip(header, cells, strict=True)))
    except (csv.Error, UnicodeDecodeError) as error:
        checker.problem(checker.lines + 1, f"not CSV in UTF-8: {error}; the rest is not read")


def _typed(row: dict[str, str]) -> dict[str, Any]:
    """An empty cell is a field that is not there; numbers are numbers where they can be."""
    typed: dict[str, Any] = {}
    for name, cell in row.items():
        if cell:
            try:
                typed[name] = _NUMBERS[name](cell) if name in _NUMBERS else cell
            except ValueError:
                typed[name] = cell
    return typed


def _told(message: str) -> str:
    if "enum" in message.lower():
        return f"type is not known; it is one of {', '.join(kind.value for kind in EventType)}"
    return message.replace("`", "").replace("$.", "").replace("$", "the event")
