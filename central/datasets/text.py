"""Text files of datasets, opened from a folder or a zip, read line by line with errors that name the line."""

import csv
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final

from infra.plumbing.errors import InvalidInputError

LINE_BYTES_MAX: Final = 1_000_000
"""No row of a dataset is longer; a longer one is a file of another kind."""


class DatasetError(InvalidInputError):
    """A dataset cannot be used as it is: the message says where and what, the fix says what to do."""

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message if message.endswith(".") else message + ".", fix=fix)


class Archive:
    """Files of one folder or zip, found by their last name component. Use as a context manager."""

    def __init__(self, *, path: Path) -> None:
        self.path = path
        self._stack = ExitStack()
        self._zip = self._stack.enter_context(_open_zip(path)) if path.is_file() else None
        if self._zip is None and not path.is_dir():
            raise DatasetError(f"{path} does not exist", fix="Give the path of a folder, a .zip or a .whl file.")

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def find(self, name: str) -> str | None:
        """Full member name of the file called `name` (or ending in `/name`), or None."""
        if self._zip is not None:
            found = [member for member in self._zip.namelist() if member == name or member.endswith("/" + name)]
            return min(found, key=len) if found else None
        return name if (self.path / name).is_file() else None

    def names(self) -> list[str]:
        """Names of all files: members of the zip, or what lies in the folder itself."""
        if self._zip is not None:
            return self._zip.namelist()
        return [entry.name for entry in self.path.iterdir() if entry.is_file()]

    def lines(self, name: str, *, encoding: str = "utf-8") -> Iterator[str]:
        """Decoded lines of the file called `name`, with their line ends.

        Raises:
            DatasetError: no such file, bytes that are not `encoding`, or a line without an end.
        """
        member = self.find(name)
        if member is None:
            raise DatasetError(f"{self.path} holds no file {name}", fix=f"Add {name}, or give the right folder.")
        with self._open(member) as stream:
            yield from decode_lines(stream, name=name, encoding=encoding)

    def _open(self, member: str) -> IO[bytes]:
        if self._zip is not None:
            return self._zip.open(member)
        return (self.path / member).open("rb")


def decode_lines(stream: IO[bytes], *, name: str, encoding: str) -> Iterator[str]:
    """Lines of `stream` as text; errors name the line. A byte order mark in front is dropped."""
    number = 0
    while raw := stream.readline(LINE_BYTES_MAX):
        number += 1
        if len(raw) >= LINE_BYTES_MAX:
            raise DatasetError(f"{name}, line {number}: longer than {LINE_BYTES_MAX} bytes", fix="Is it a text file?")
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError as error:
            raise DatasetError(
                f"{name}, line {number}: byte 0x{raw[error.start]:02x} at column {error.start + 1} is not {encoding}",
                fix="Save the file as UTF-8, for example: iconv -f latin1 -t utf-8 FILE > FILE.utf8",
            ) from None
        if "\0" in text:
            raise DatasetError(f"{name}, line {number}: holds a zero byte", fix="Is it a text file? Save it as UTF-8.")
        yield text.removeprefix("\ufeff") if number == 1 else text


def read_csv(lines: Iterable[str], *, name: str, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV file with a header, as (line number, column -> value); empty lines are skipped.

    Raises:
        DatasetError: no header, a required column missing, or a row with more or fewer fields than the header.
    """
    reader = csv.reader(lines, strict=True)
    header: list[str] | None = None
    try:
        for row in reader:
            if header is None:
                header = _check_header([column.strip() for column in row], name, required)
            elif row:
                if len(row) != len(header):
                    raise DatasetError(
                        f"{name}, line {reader.line_num}: {len(row)} fields, but the header has {len(header)}",
                        fix="Quote fields that hold a comma.",
                    )
                yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise DatasetError(f"{name}, line {reader.line_num}: {error}", fix="Quote fields as in RFC 4180.") from None
    if header is None:
        raise DatasetError(f"{name} is empty", fix=f"Its first line must name the columns: {','.join(required)},...")


def read_separated(
    lines: Iterable[str], *, name: str, separator: str, fields: int
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Rows of a file without a header whose fields stand between `separator`, as (line number, fields)."""
    for number, line in enumerate(lines, start=1):
        text = line.rstrip("\r\n")
        if not text:
            continue
        parts = tuple(text.split(separator))
        if len(parts) != fields:
            raise DatasetError(
                f"{name}, line {number}: {len(parts)} fields between {separator!r}, expected {fields}",
                fix="Is it the original MovieLens file?",
            )
        yield number, parts


def _check_header(header: list[str], name: str, required: tuple[str, ...]) -> list[str]:
    missing = [column for column in required if column not in header]
    if missing:
        raise DatasetError(
            f"{name}, line 1: column {', '.join(missing)} is missing; found {', '.join(header) or 'nothing'}",
            fix=_header_fix(header, required),
        )
    if len(set(header)) != len(header):
        raise DatasetError(f"{name}, line 1: a column is named twice", fix="Give every column its own name.")
    return header


def _header_fix(header: list[str], required: tuple[str, ...]) -> str:
    for separator, called in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if separator in "".join(header):
            return f"Its fields stand between {called}: put commas there, and quote fields that hold one."
    if {column.lower() for column in header}.issuperset(required):
        return "Write the names of the columns in small letters."
    return f"The first line must name the columns, at least {','.join(required)}."


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise DatasetError(
            f"{path} is neither a folder nor a zip file", fix="Give a dataset folder, a .zip or a .whl file."
        ) from None
