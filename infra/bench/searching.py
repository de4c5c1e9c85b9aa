"""Looking for names (32 hex digits each) where they must not stand: in every file of a folder, in processes' memory."""

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from infra.bench.opened_files import opened
from region.keeping.files import FileKeys

_CHUNK = 4 << 20
_NAME_BYTES = 32
_RUN = re.compile(rb"[0-9a-f]{32,}")


def found_names(place: Path, names: frozenset[str], keys: FileKeys | None) -> set[str]:
    """Those of `names` that stand in a file under `place`, releases left out, byte by byte.

    With `keys` files are searched as they lie and decrypted.
    """
    wanted = {name.encode() for name in names}
    found: set[bytes] = set()
    for path in sorted(place.rglob("*")):
        if path.is_file() and "releases" not in path.relative_to(place).parts:
            for content in (path.read_bytes(), opened(path, keys)):
                found.update(wanted.intersection(_names_in(content)))
    return {name.decode() for name in found}


def names_in_memory(pids: Sequence[int], names: frozenset[str]) -> set[str]:
    """Those of `names` that stand in the writable memory of the processes, freed or not (Linux)."""
    wanted = {name.encode() for name in names}
    found: set[bytes] = set()
    for pid in pids:
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
        with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
            for line in maps:
                span, rights = line.split()[:2]
                first, last = (int(one, 16) for one in span.split("-"))
                if rights.startswith("rw"):
                    found.update(wanted.intersection(_names_between(memory, first, last)))
    return {name.decode() for name in found}


def _names_in(content: bytes) -> Iterator[bytes]:
    """Every 32 hex digits in a row, those that overlap too."""
    for match in _RUN.finditer(content):
        run = match[0]
        yield from (run[start : start + _NAME_BYTES] for start in range(len(run) - _NAME_BYTES + 1))


def _names_between(memory: "io.FileIO", first: int, last: int) -> Iterator[bytes]:
    """Every run of 32 hex digits between two addresses; what cannot be read is passed over."""
    for start in range(first, last, _CHUNK):
        with contextlib.suppress(OSError, ValueError, OverflowError):
            memory.seek(start)
            content = memory.read(min(last - start, _CHUNK + _NAME_BYTES - 1))
            yield from _names_in(content)
