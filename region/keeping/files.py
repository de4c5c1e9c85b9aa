"""Keys of files: each file of the state directory that knows people has one, wrapped, in `<name>.key` beside it.

So the region's key is changed without touching a file's pages: the small file beside it is written anew. Who removes
`<name>.key` from a copy has a copy that nobody opens.
"""

import base64
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from infra.plumbing.files import write_atomically
from region.keeping.wrapping import KEY_BYTES, Wrapping

SUFFIX = ".key"
_NONCE_BYTES = 12


class FileKeys:
    """The keys of files. Making one and changing its wrap are for one process at a time; the callers lock."""

    def __init__(self, wrapping: Wrapping) -> None:
        self._wrapping = wrapping

    def of(self, path: Path) -> bytes:
        """The key of the file at `path`, made when there is none.

        Raises:
            KeysUnavailableError: there is one that the region's key does not open.
            OSError: it cannot be read or written.
        """
        beside = _beside(path)
        if beside.exists():
            return self._wrapping.unwrap(beside.read_bytes(), about=_about(path))
        key = secrets.token_bytes(KEY_BYTES)
        write_atomically(beside, self._wrapping.wrap(key, about=_about(path)), mode=0o600)
        return key

    def rewrap(self, directory: Path) -> int:
        """Wrap every file key of a directory by the newest root key; returns how many were changed."""
        changed = 0
        for beside in sorted(directory.glob(f"*{SUFFIX}")):
            wrapped, about = beside.read_bytes(), _about(beside.with_suffix(""))
            if not self._wrapping.is_current(wrapped):
                key = self._wrapping.unwrap(wrapped, about=about)
                write_atomically(beside, self._wrapping.wrap(key, about=about), mode=0o600)
                changed += 1
        return changed


class SealedLines:
    """Lines of a file, each encrypted by itself and in base64: what is appended to and read line by line."""

    def __init__(self, key: bytes) -> None:
        self._box = AESGCM(key)

    def seal(self, line: bytes) -> bytes:
        """A line as it may lie on the disk."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return base64.b64encode(nonce + self._box.encrypt(nonce, line, None))

    def open(self, lines: Sequence[bytes] | Iterator[bytes]) -> Iterator[bytes]:
        """The lines that open; those that were cut short by a kill, or are of before there was a key, do not."""
        for line in lines:
            try:
                raw = base64.b64decode(line)
                yield self._box.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], None)
            except (InvalidTag, ValueError):
                continue


def _beside(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def _about(path: Path) -> bytes:
    """By name, not by place: a state directory may be moved."""
    return b"atoll file " + path.name.encode()
