"""Files of a region's state directory as bytes, their encryption taken off page by page: free pages and gaps included.

For searches that must not be blinded by encryption at rest. The format is SQLCipher 4's (its design document): AES-256
in CBC mode over each page but for the last 80 bytes, which hold the initialisation vector and an HMAC; the first 16
bytes of the file are its salt. Frames of a write-ahead log hold pages alike.
"""

from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from region.keeping.files import SUFFIX, FileKeys, SealedLines

PAGE_BYTES = 4096
_RESERVED_BYTES = 80
_IV_BYTES = 16
_SALT_BYTES = 16
_WAL_HEAD_BYTES = 32
_FRAME_HEAD_BYTES = 24
_WAL = "-wal"


def opened(path: Path, keys: FileKeys | None) -> bytes:
    """What a file says: decrypted when it lies under a key of its own, else as it is."""
    content = path.read_bytes()
    base = path.with_name(path.name.removesuffix(_WAL).removesuffix(".1"))
    if keys is None or not base.with_name(base.name + SUFFIX).exists():
        return content
    key = keys.of(base)
    if base.suffix != ".sqlite":
        return b"\n".join(SealedLines(key).open(content.splitlines()))
    pages = _frames(content) if path.name.endswith(_WAL) else _pages(content)
    return b"".join(_decrypted(key, page, first=first) for page, first in pages)


def _pages(content: bytes) -> Iterator[tuple[bytes, bool]]:
    for start in range(0, len(content) - PAGE_BYTES + 1, PAGE_BYTES):
        yield content[start : start + PAGE_BYTES], start == 0


def _frames(content: bytes) -> Iterator[tuple[bytes, bool]]:
    step = _FRAME_HEAD_BYTES + PAGE_BYTES
    for start in range(_WAL_HEAD_BYTES, len(content) - step + 1, step):
        number = int.from_bytes(content[start : start + 4], "big")
        yield content[start + _FRAME_HEAD_BYTES : start + step], number == 1


def _decrypted(key: bytes, page: bytes, *, first: bool) -> bytes:
    end = PAGE_BYTES - _RESERVED_BYTES
    box = Cipher(algorithms.AES256(key), modes.CBC(page[end : end + _IV_BYTES])).decryptor()
    return box.update(page[_SALT_BYTES if first else 0 : end])
