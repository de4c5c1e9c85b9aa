"""Looking for people where they must not stand: in every file of a folder, in processes' memory and open files.

A person is looked for by a name and by the ids of its events, 32 hex digits each, as they are; and by the name in every
form of `infra.local.residency.forms` (upper case, raw bytes, base64 at any alignment, UTF-16, hashed, ...).
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from infra.bench.opened_files import opened
from infra.local.residency.forms import forms_of
from infra.local.residency.needles import NeedleSet
from region.keeping.files import FileKeys

_CHUNK = 4 << 20
_NAME_BYTES = 32
_OVERLAP = 256
"""Longer than any form."""
_RUN = re.compile(rb"[0-9a-f]{32,}")
_NOISE = bytes(range(1, 32))


class Wanted:
    """Whom to look for.

    Args:
        people: the ids of each one's events by its name.
    """

    def __init__(self, people: Mapping[str, Collection[str]]) -> None:
        self._whose = {name.encode(): name for name in people}
        self._whose |= {event.encode(): name for name, events in people.items() for event in events}
        self._forms = NeedleSet({name: [name] for name in people})

    def plain_in(self, content: bytes) -> set[str]:
        """Names of those who stand in `content` as they are, or an event of theirs does."""
        return {self._whose[one] for one in _names_in(content) if one in self._whose}

    def any_in(self, content: bytes) -> set[str]:
        """The same in every form."""
        return self.plain_in(content) | {needle.kind for _, needle in self._forms.find(content)}


def found_in_files(place: Path, wanted: Wanted, keys: FileKeys | None) -> dict[str, set[str]]:
    """Who stands in a file under `place`, releases left out, byte by byte; by the file's name.

    With `keys` files are searched as they lie and decrypted.
    """
    found: dict[str, set[str]] = {}
    for path in sorted(place.rglob("*")):
        if path.is_file() and "releases" not in path.relative_to(place).parts:
            for content in (path.read_bytes(), opened(path, keys)):
                if people := wanted.any_in(content):
                    found.setdefault(path.name, set()).update(people)
    return found


def found_in_open_files(pids: Sequence[int], wanted: Wanted) -> set[str]:
    """Who stands in files that were removed and that a process still holds open (Linux)."""
    found: set[str] = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if str(descriptor.readlink()).endswith(" (deleted)") and descriptor.is_file():
                    found |= wanted.any_in(descriptor.read_bytes())
            except OSError:
                continue  # closed meanwhile
    return found


def found_in_memory(pids: Sequence[int], wanted: Wanted, *, forms: bool) -> tuple[set[str], int]:
    """Who stands in the writable memory of the processes, freed or not (Linux), and how many bytes could not be read.

    `forms`: in every form; takes several times as long.
    """
    found: set[str] = set()
    unread = 0
    search = wanted.any_in if forms else wanted.plain_in
    for pid in pids:
        for content in _memory_of(pid):
            if content is None:
                unread += 1
            else:
                found |= search(content)
    return found, unread * _PAGE


def missed_plants(name: str) -> list[str]:
    """Forms of `name` that the search does not find among other bytes, at any alignment; empty when it works."""
    wanted = Wanted({name: ()})
    return [
        f"{form}+{shift}"
        for form, content in forms_of(name)
        for shift in range(8)
        if wanted.any_in(_NOISE[shift:] + content + _NOISE) != {name}
    ]


_PAGE = 4096


def _memory_of(pid: int) -> Iterator[bytes | None]:
    """Writable memory piece by piece, each with the end of the one before; None for a page that cannot be read."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights = line.split()[:2]
            at, last = (int(one, 16) for one in span.split("-"))
            tail = b""
            while rights.startswith("rw") and at < last:
                try:
                    memory.seek(at)
                    piece = memory.read(min(last - at, _CHUNK))
                except (OSError, ValueError, OverflowError):
                    piece = b""
                if piece:
                    yield tail + piece
                    tail = piece[-_OVERLAP:]
                    at += len(piece)
                else:
                    yield None
                    tail = b""
                    at += _PAGE


def _names_in(content: bytes) -> Iterator[bytes]:
    """Every 32 hex digits in a row, those that overlap too."""
    for match in _RUN.finditer(content):
        run = match[0]
        yield from (run[start : start + _NAME_BYTES] for start in range(len(run) - _NAME_BYTES + 1))
