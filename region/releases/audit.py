"""The append-only account of what was done to a region's releases, one JSON line each."""

import os
import threading
from pathlib import Path

import msgspec

from infra.contracts.residency import encode_regional
from region.releases.messages import AUDIT_ENTRIES_MAX, AuditEntry


class AuditLog:
    """Appends durably; keeps `files_max` files of at most about `file_bytes_max` each. Safe between threads.

    Args:
        path: the file that is written; older ones lie beside it as `<name>.1` (the youngest) and so on.
        file_bytes_max: a file this long is put aside.
        files_max: how many files there may be, the current one included.
    """

    def __init__(self, path: Path, *, file_bytes_max: int = 8 << 20, files_max: int = 4) -> None:
        self._path = path
        self._file_bytes_max = file_bytes_max
        self._files_max = files_max
        self._mutex = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)

    def append(self, entry: AuditEntry) -> None:
        """Write one entry; it is on disk when this returns.

        Raises:
            OSError: the disk is full or gone.
        """
        line = encode_regional(entry) + b"\n"
        with self._mutex:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                size = os.fstat(descriptor).st_size
                # A line that was cut off by a kill must not swallow this one.
                os.write(descriptor, line if not size or self._ends_with_newline(size) else b"\n" + line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if size + len(line) > self._file_bytes_max:
                self._rotate()

    def latest(self, count: int) -> tuple[AuditEntry, ...]:
        """The last `count` entries (at most AUDIT_ENTRIES_MAX), oldest first. Lines cut off by a kill are skipped."""
        wanted = min(count, AUDIT_ENTRIES_MAX)
        entries: list[AuditEntry] = []
        with self._mutex:
            for path in [self._path, *(self._aside(number) for number in range(1, self._files_max))]:
                if len(entries) < wanted and path.exists():
                    entries = _decode(path.read_bytes()) + entries
        return tuple(entries[-wanted:]) if wanted > 0 else ()

    def _ends_with_newline(self, size: int) -> bool:
        with self._path.open("rb") as file:
            file.seek(size - 1)
            return file.read(1) == b"\n"

    def _rotate(self) -> None:
        for number in range(self._files_max - 1, 0, -1):
            source = self._aside(number - 1) if number > 1 else self._path
            if source.exists():
                os.replace(source, self._aside(number))
        if self._files_max == 1:
            self._path.unlink()

    def _aside(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


def _decode(content: bytes) -> list[AuditEntry]:
    entries = []
    for line in content.splitlines():
        try:
            entries.append(msgspec.json.decode(line, type=AuditEntry))
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return entries
