"""The accesses of a node on its disk: appended durably, chained, bounded, with a signed head beside them.

`accesses.jsonl` is written; older files lie beside it as `.1` (the youngest) and so on, and the oldest goes when there
are too many: the head says where what is kept begins. The head is a file of its own (`accesses.head`), written after
the entry: a kill in between leaves one entry that the head does not know, which the next start takes in: it follows.
Several processes of a node (its API, an operator's command) append: a lock on the head's neighbour orders them.

Disk: FILES_MAX files of FILE_BYTES_MAX, about 100,000 entries. Entries go by that bound, not by a subject's wish
(`region.privacy.accesses` says why).
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from infra.plumbing.clock import Clock
from infra.plumbing.errors import UnavailableError
from infra.plumbing.files import write_atomically
from infra.plumbing.keys import RegionKeys
from region.privacy.accesses import GENESIS, Access, AccessHead, hash_of, sign_head

FILE_BYTES_MAX = 8 << 20
FILES_MAX = 4
_TAIL_BYTES = 64 << 10
"""Longer than any entry."""


class AccessLogError(UnavailableError):
    """An access cannot be written down: then it may not happen."""


class AccessLog:
    """See the module. Blocks: call it on a thread.

    Args:
        directory: the node's state directory.
        region, node: whose chain it is.
        keys: sign its heads.
        clock: the time of entries.
    """

    def __init__(
        self, directory: Path, *, region: str, node: str, keys: RegionKeys, clock: Clock,
        file_bytes_max: int = FILE_BYTES_MAX, files_max: int = FILES_MAX,
    ) -> None:  # fmt: skip
        self._path = directory / "accesses.jsonl"
        self._region = region
        self._node = node
        self._keys = keys
        self._clock = clock
        self._file_bytes_max = file_bytes_max
        self._files_max = files_max

    def append(self, *, who: str, action: str, outcome: str, mark: str = "", detail: str = "") -> AccessHead:
        """Write an access; it is on the disk, and the head signed, when this returns.

        Raises:
            AccessLogError: the disk does not take it.
        """
        try:
            with self._locked():
                head = self._with_room(self._head())
                entry = Access(
                    number=head.last + 1, at_ms=self._clock.now_ms(), who=who, action=action, mark=mark,
                    outcome=outcome, detail=detail, before=head.hash,
                )  # fmt: skip
                self._write(entry)
                return self._sign(head.first, head.first_before, entry)
        except OSError as error:
            raise AccessLogError(
                f"the access cannot be written down ({error.strerror}), so it does not happen.",
                fix="Make room on the disk of the state directory.",
            ) from error

    def head(self) -> AccessHead:
        """Where the chain stands.

        Raises:
            AccessLogError: the files cannot be read.
        """
        try:
            with self._locked():
                return self._head()
        except OSError as error:
            raise AccessLogError(f"the accesses cannot be read: {error.strerror}.") from error

    def entries(self, *, after: int = 0, limit: int | None = None) -> list[Access]:
        """Kept entries behind a number, oldest first; what a kill kept from going with its file counts as gone."""
        found: list[Access] = []
        after = max(after, self.head().first - 1)
        for path in reversed(self._files()):
            for entry in _read(path):
                if entry.number > after and (limit is None or len(found) < limit):
                    found.append(entry)
        return found

    def of_mark(self, mark: str) -> list[Access]:
        """Kept entries about one subject, oldest first. Raises as `head` does."""
        return [entry for entry in self.entries() if entry.mark == mark]

    def _write(self, entry: Access) -> None:
        line = msgspec.json.encode(entry) + b"\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _sign(self, first: int, first_before: str, last: Access) -> AccessHead:
        head = AccessHead(
            region=self._region, node=self._node, first=first, first_before=first_before, last=last.number,
            hash=hash_of(last), at_ms=last.at_ms,
        )  # fmt: skip
        head = sign_head(head, self._keys)
        write_atomically(self._head_path, msgspec.json.encode(head), mode=0o640)
        return head

    def _with_room(self, head: AccessHead) -> AccessHead:
        """Put a full file aside. The head first says where what is kept begins: a kill then leaves a file too many."""
        if not self._path.exists() or self._path.stat().st_size <= self._file_bytes_max:
            return head
        kept, oldest = self._files()[:-1], self._files()[-1]
        if oldest.exists():
            first = next(entries[0] for path in reversed(kept) if path.exists() and (entries := _read(path)))
            head = msgspec.structs.replace(head, first=first.number, first_before=first.before)
            head = sign_head(head, self._keys)
            write_atomically(self._head_path, msgspec.json.encode(head), mode=0o640)
        for number in range(self._files_max - 1, 0, -1):
            source = self._aside(number - 1) if number > 1 else self._path
            if source.exists():
                os.replace(source, self._aside(number))
        return head

    def _head(self) -> AccessHead:
        """The head as it was signed, or one that takes in the entry that a kill kept out of it."""
        try:
            head = msgspec.json.decode(self._head_path.read_bytes(), type=AccessHead)
        except FileNotFoundError:
            head = AccessHead(
                region=self._region, node=self._node, first=1, first_before=GENESIS, last=0, hash=GENESIS, at_ms=0
            )
            head = sign_head(head, self._keys)
        except msgspec.DecodeError as error:
            raise AccessLogError(
                "the head of the accesses is not what it was.", fix="Run `./atoll privacy audit --verify`."
            ) from error
        owed = self._last_entry()
        if owed is not None and owed.number == head.last + 1 and owed.before == head.hash:
            return self._sign(head.first, head.first_before, owed)
        return head

    def _last_entry(self) -> Access | None:
        """The last entry of the file that is written; a line that a kill left half-written is cut off first."""
        try:
            with self._path.open("r+b") as file:
                size = file.seek(0, os.SEEK_END)
                start = file.seek(max(0, size - _TAIL_BYTES))
                tail = file.read()
                whole = tail.rfind(b"\n") + 1
                if whole < len(tail):  # it was never acknowledged
                    file.truncate(start + whole)
        except FileNotFoundError:
            return None
        lines = tail[:whole].splitlines()
        try:
            return msgspec.json.decode(lines[-1], type=Access) if lines else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None  # somebody was here: the verification says so

    @property
    def _head_path(self) -> Path:
        return self._path.with_name("accesses.head")

    def _files(self) -> list[Path]:
        """The youngest first."""
        return [self._path, *(self._aside(number) for number in range(1, self._files_max))]

    def _aside(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_name(".accesses.lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _read(path: Path) -> list[Access]:
    """The entries of a file; lines that are none are left to the verification, which misses them."""
    entries: list[Access] = []
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            entries.append(msgspec.json.decode(line, type=Access))
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return entries
