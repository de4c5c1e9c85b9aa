"""A file of events, checked line by line as the intake would: what is wrong, where, and what would be taken.

NDJSON (one event a line), JSON batches a line (`{"events": [...]}`), or CSV with a header of field names; in UTF-8. The
file may be as large as it likes: no more than a line of it is held, and of what is counted a bounded part.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from infra.contracts.event_schema import parse_version
from infra.contracts.event_weights import EventType
from infra.contracts.events import EVENTS_PER_BATCH_MAX, SCHEMA_VERSION, Event, EventBatch
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.http.bodies import NOT_JSON
from region.events.intake import reason_against

LINE_BYTES_MAX = 1 << 20
PROBLEMS_MAX = 100
"""Problems that are told one by one; the rest are counted."""
IDS_MAX = 1_000_000
"""Event ids that repeats are looked for among: the first ones, at about 150 bytes each."""
UNKNOWN_MAX = 100
"""Unknown fields that are counted by name."""
OTHERS = "(others)"
_NAME_MAX = 64
_NUMBERS = {"at_ms": int, "value": float}
_FIELDS = tuple(Event.__struct_fields__)
_BOM = b"\xef\xbb\xbf"
_LOOKED_AT = 4096
_NO_TEXT = {
    b"\x1f\x8b": "compressed by gzip", b"BZh": "compressed by bzip2", b"\xfd7zXZ": "compressed by xz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd", b"PK\x03\x04": "a ZIP archive", b"PAR1": "Parquet",
    b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16",
}  # fmt: skip
"""What a file is that begins like this."""


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
    repeats_not_looked_for: int = 0
    """Events whose id was compared with the first IDS_MAX only, and is not known to later ones."""


class _Checker:
    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms
        self._seen: dict[str, int] = {}
        self.lines = self.events = self.good = self.more = self.unseen = 0
        self.problems: list[LineProblem] = []
        self.unknown: dict[str, int] = {}
        self.types: dict[str, int] = {}

    def problem(self, line: int, what: str, event: int = 0) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(LineProblem(line=line, event=event, what=what))
        else:
            self.more += 1

    def not_known(self, name: str) -> None:
        shown = "".join(sign if sign.isprintable() else "?" for sign in name[:_NAME_MAX])
        if shown not in self.unknown and len(self.unknown) >= UNKNOWN_MAX:
            shown = OTHERS
        self.unknown[shown] = self.unknown.get(shown, 0) + 1

    def check(self, line: int, place: int, sent: Any) -> None:
        self.events += 1
        for name in sent if isinstance(sent, dict) else ():
            if name not in _FIELDS:
                self.not_known(name)
        try:
            event = msgspec.convert(sent, Event)
        except msgspec.ValidationError as error:
            self.problem(line, _told(str(error)), place)
            return
        reason = reason_against(event, self._now_ms) or self._repeat(event.event_id, line)
        if reason is not None:
            self.problem(line, reason, place)
            return
        self.good += 1
        self.types[event.type.value] = self.types.get(event.type.value, 0) + 1

    def _repeat(self, event_id: str, line: int) -> str | None:
        """Why an id may not stand here again."""
        first = self._seen.get(event_id)
        if first is not None:
            return f"event_id stands in line {first} already: of one subject it would count once"
        if len(self._seen) < IDS_MAX:
            self._seen[event_id] = line
        else:
            self.unseen += 1
        return None

    def report(self) -> FileReport:
        return FileReport(
            lines=self.lines, events=self.events, good=self.good, problems=tuple(self.problems),
            problems_more=self.more, unknown_fields=self.unknown, types=dict(sorted(self.types.items())),
            repeats_not_looked_for=self.unseen,
        )  # fmt: skip


def validate_file(path: Path, *, now_ms: int) -> FileReport:
    """Check a file. CSV by its suffix `.csv`, else NDJSON.

    Raises:
        InvalidInputError: the file cannot be read, is no text in UTF-8 at all, or a CSV has no usable header.
    """
    checker = _Checker(now_ms)
    read = _csv_rows if path.suffix.lower() == ".csv" else _json_events
    try:
        with path.open("rb") as file:
            _refuse_no_text(path, file)
            for line, place, sent in read(_lines(file, checker), checker):
                checker.check(line, place, sent)
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror}.", fix="Name a file of events.") from error
    return checker.report()


def _refuse_no_text(path: Path, file: io.BufferedReader) -> None:
    """Look at the beginning, and stand behind the mark that some editors put there. The file may be a pipe.

    Raises:
        InvalidInputError: the file is not text in UTF-8, from its first bytes on.
    """
    began = file.peek(_LOOKED_AT)[:_LOOKED_AT]
    kind = next((kind for mark, kind in _NO_TEXT.items() if began.startswith(mark)), "")
    if kind or b"\0" in began:
        raise InvalidInputError(
            f"{path} is {kind or 'no text'}.", fix="Unpack or write it as NDJSON or CSV in UTF-8 first."
        )
    if began.startswith(_BOM):
        file.read(len(_BOM))


def _lines(file: io.BufferedReader, checker: _Checker) -> Iterator[bytes]:
    """Line by line; what is longer than LINE_BYTES_MAX is passed over and said, and never held."""
    while line := file.readline(LINE_BYTES_MAX + 1):
        checker.lines += 1
        if len(line) <= LINE_BYTES_MAX:
            yield line
            continue
        checker.problem(checker.lines, f"the line is longer than {LINE_BYTES_MAX} bytes")
        while line and not line.endswith(b"\n"):
            line = file.readline(LINE_BYTES_MAX)


def _json_events(lines: Iterator[bytes], checker: _Checker) -> Iterator[tuple[int, int, Any]]:
    for line in lines:
        if not line.strip():
            continue
        try:
            sent = msgspec.json.decode(line)
        except NOT_JSON as error:
            checker.problem(checker.lines, _not_json(line, error, first=checker.lines == 1))
            continue
        yield from _events_of(checker, sent)


def _not_json(line: bytes, error: Exception, *, first: bool) -> str:
    if first and line.strip() == b"[":
        return "a list over several lines is not NDJSON: `jq -c '.[]' FILE` makes a line of each event"
    return "nested too deeply" if isinstance(error, RecursionError) else f"not JSON: {error}"


def _events_of(checker: _Checker, sent: Any) -> Iterator[tuple[int, int, Any]]:
    if not isinstance(sent, dict) or "events" not in sent:
        yield checker.lines, 0, sent
        return
    events = sent["events"]
    if not isinstance(events, list) or not 1 <= len(events) <= EVENTS_PER_BATCH_MAX:
        checker.problem(checker.lines, f"events must be a list of 1 to {EVENTS_PER_BATCH_MAX}")
        return
    if not _is_known(sent.get("schema_version", SCHEMA_VERSION)):
        checker.events += len(events)
        checker.problem(
            checker.lines, f"schema_version is not known: send {SCHEMA_VERSION} or another of its major"
        )  # fmt: skip
        return
    for name in sent:
        if name not in EventBatch.__struct_fields__:
            checker.not_known(name)
    for place, event in enumerate(events):
        yield checker.lines, place, event


def _is_known(version: Any) -> bool:
    """Whether a batch of this version is read at all."""
    try:
        return parse_version(version)[0] == parse_version(SCHEMA_VERSION)[0]
    except (ValueError, AttributeError):
        return False


def _texts(lines: Iterator[bytes], checker: _Checker) -> Iterator[str]:
    """Lines as text; one that is not UTF-8 is said and passed over.

    Raises:
        InvalidInputError: it is the first one, which names the fields.
    """
    for line in lines:
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            if checker.lines == 1:
                raise InvalidInputError(
                    "the first line is not UTF-8.", fix="Write the file in UTF-8: `iconv -t UTF-8` does it."
                ) from None
            checker.problem(checker.lines, f"not UTF-8: {error.reason} at byte {error.start + 1}")


def _csv_rows(lines: Iterator[bytes], checker: _Checker) -> Iterator[tuple[int, int, Any]]:
    reader = csv.reader(_texts(lines, checker))
    header = _header(reader)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            checker.problem(checker.lines, f"not CSV: {error}")
            continue
        if not cells:
            continue
        if len(cells) != len(header):
            checker.problem(checker.lines, f"{len(cells)} cells stand under {len(header)} names")
            continue
        yield checker.lines, 0, _typed(dict(zip(header, cells, strict=True)))


def _header(reader: Iterator[list[str]]) -> list[str]:
    """The names in the first line.

    Raises:
        InvalidInputError: it is none of a file of events.
    """
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise InvalidInputError(f"the first line is not CSV: {error}.", fix="Name fields of an event there.") from None
    missing = [name for name in ("event_id", "type", "at_ms") if name not in header]
    if missing or len(set(header)) < len(header):
        what = f"names no {', '.join(missing)}" if missing else "names a field twice"
        raise InvalidInputError(
            f"the first line {what}.", fix=f"It must name fields of an event: {', '.join(_FIELDS)}."
        )
    return header


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
