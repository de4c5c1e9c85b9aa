"""Messages about subjects, kept on the node's own disk for a while: bounded, and a subject can be taken out again.

NDJSON in two files of `bytes_max / 2` each; the older one goes when the younger is full. With `keys` every line is
encrypted by itself.

Whom it knows is remembered by short digests, so that an erasure of somebody whom it does not know reads nothing: a full
journal takes a good part of a second to read, and most who are erased were never sampled.
"""

import asyncio
import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec

from infra.plumbing.clock import Clock
from region.keeping.files import FileKeys, SealedLines


class About(Protocol):
    """What can be kept: it says whom it is about, and of when it is."""

    @property
    def subject(self) -> str:
        """A pseudonym of the region."""
        ...

    @property
    def written_ms(self) -> int:
        """The moment that its life counts from."""
        ...


R = TypeVar("R", bound=About)


class Journal(Generic[R]):
    """Takes records beside the requests, and writes them when told to. `note` never waits for the disk.

    Args:
        path: the younger file; the older one has `.1` behind its name.
        kind: the message type of a record.
        pending_max: records that may wait for the next `write`; the oldest go first.
        bytes_max: of both files together.
        life_ms: how long a record is kept.
        keys: encrypt the lines; None: they lie in the clear.
    """

    def __init__(
        self, path: Path, kind: type[R], *, pending_max: int, bytes_max: int, life_ms: int, keys: FileKeys | None = None
    ) -> None:
        self._path = path
        self._lines = _lines_of(path, keys)
        self._kind = kind
        self._pending_max = pending_max
        self._bytes_max = bytes_max
        self._life_ms = life_ms
        self._pending: deque[R] = deque(maxlen=pending_max)
        self._lock = threading.Lock()
        self._known: set[bytes] | None = None
        """Digests of the subjects that there may be records of, for one process writes; None: not looked yet."""

    def note(self, record: R) -> None:
        """Keep a record until the next `write`."""
        self._pending.append(record)
        known = self._known
        if known is not None:
            known.add(_digest(record.subject))

    def write(self, *, now_ms: int) -> int:
        """Append what is kept to the file, and let go of what is old. Blocks; returns how many were written.

        Raises:
            OSError: the disk does not take it; what was kept is lost, and nothing else.
        """
        with self._lock:
            self._expire(now_ms)
            lines = []
            while self._pending:
                lines.append(_encode(self._pending.popleft(), self._lines))
            if lines:
                with self._path.open("ab") as file:
                    file.write(b"\n".join(lines) + b"\n")
                if self._path.stat().st_size > self._bytes_max // 2:
                    os.replace(self._path, older(self._path))
                    self._known = None
            return len(lines)

    async def keep(self, clock: Clock) -> None:
        """Write on a thread. Raises as `write` does."""
        await asyncio.to_thread(self.write, now_ms=clock.now_ms())

    def of_subject(self, subject: str) -> list[R]:
        """Every record of a subject, the oldest first. Blocks."""
        with self._lock:
            if not self._may_know(subject):
                return []
            kept = [*self._read(older(self._path)), *self._read(self._path), *self._pending]
        return [one for one in kept if one.subject == subject]

    def subjects(self) -> set[str]:
        """Whom anything is kept of. Blocks."""
        with self._lock:
            kept = [*self._read(older(self._path)), *self._read(self._path), *self._pending]
        return {one.subject for one in kept}

    def forget(self, subject: str) -> int:
        """Drop every record of a subject; returns how many. Blocks."""
        with self._lock:
            if not self._may_know(subject):
                return 0
            if self._known is not None:
                self._known.discard(_digest(subject))  # before: what is noted meanwhile is known again
        return self.drop(lambda one: one.subject == subject)

    def drop(self, goes: Callable[[R], bool]) -> int:
        """Drop the records that `goes` says; returns how many. Blocks."""
        with self._lock:
            pending = list(self._pending)  # at once: the loop's thread notes meanwhile
            self._pending = deque((one for one in pending if not goes(one)), maxlen=self._pending_max)
            gone = len(pending) - len(self._pending)
            for path in (older(self._path), self._path):
                records = self._read(path)
                kept = [one for one in records if not goes(one)]
                if len(kept) < len(records):
                    gone += len(records) - len(kept)
                    _rewrite(path, kept, self._lines)
            return gone

    def _may_know(self, subject: str) -> bool:
        """Whether there may be a record of the subject; reads everything once, and again when files have changed.

        The interleaving: `note` appends, then looks for the digests. Here they are put there, empty, before what is
        pending is read; so a record is seen by the one or adds itself to the other.
        """
        if self._known is None:
            known: set[bytes] = set()
            self._known = known
            for one in [*self._read(older(self._path)), *self._read(self._path), *list(self._pending)]:
                known.add(_digest(one.subject))
        return _digest(subject) in self._known

    def _expire(self, now_ms: int) -> None:
        for path in (older(self._path), self._path):
            first, from_ms = self._read(path, limit=1), now_ms - self._life_ms
            # What does not open (of before there was a key) has no time of its own: it goes at the next look.
            if (first and first[0].written_ms < from_ms) or (not first and _has_content(path)):
                _rewrite(path, [one for one in self._read(path) if one.written_ms >= from_ms], self._lines)
                self._known = None

    def _read(self, path: Path, *, limit: int | None = None) -> list[R]:
        return _read(path, self._kind, self._lines, limit=limit)


def older(path: Path) -> Path:
    """Where the older records of the journal at `path` are."""
    return path.with_name(f"{path.name}.1")


def read_records(path: Path, kind: type[R], keys: FileKeys | None = None) -> list[R]:
    """Every record of the journal at `path`, the oldest first; lines that cannot be read are passed over."""
    lines = _lines_of(path, keys)
    return [*_read(older(path), kind, lines), *_read(path, kind, lines)]


def _lines_of(path: Path, keys: FileKeys | None) -> SealedLines | None:
    return SealedLines(keys.of(path)) if keys is not None else None


def _digest(subject: str) -> bytes:
    return hashlib.blake2b(subject.encode(), digest_size=8, person=b"atoll-journal").digest()


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _encode(record: About, sealed: SealedLines | None) -> bytes:
    line = msgspec.json.encode(record)
    return line if sealed is None else sealed.seal(line)


def _read(path: Path, kind: type[R], sealed: SealedLines | None, *, limit: int | None = None) -> list[R]:
    records: list[R] = []
    try:
        with path.open("rb") as file:
            for line in file if sealed is None else sealed.open(file):
                if limit is not None and len(records) >= limit:
                    break
                try:
                    records.append(msgspec.json.decode(line, type=kind))
                except msgspec.DecodeError:
                    continue  # cut short by a kill
    except FileNotFoundError:
        return []
    return records


def _rewrite(path: Path, records: list[R], sealed: SealedLines | None) -> None:
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(b"".join(_encode(one, sealed) + b"\n" for one in records))
    os.replace(new, path)
