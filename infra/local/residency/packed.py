"""MessagePack inside other bytes: found by the shape of what it says, whether or not anybody in it is known.

A document that a whole body holds is decoded as such (`structure`). In the middle of a stream nothing says where one
begins. So this looks for what events and features cannot do without, as MessagePack writes it: names of resident fields
and words of event types, each behind its length. Around such a hit it looks back for the array or map that it stands
in, and reads that. The format: github.com/msgpack/msgpack/blob/master/spec.md.
"""

import functools
import re
import struct
from collections.abc import Iterator
from typing import Any

from infra.contracts.event_weights import EventType

BACK_BYTES_MAX = 512
"""How far before a hit its array or map may begin."""
HITS_MAX = 2_000
VALUES_MAX = 20_000
"""Values read at one place."""
_DEPTH_MAX = 32
_NUMBERS = {
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i",
    0xD3: ">q",
}  # fmt: skip
_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4, 0xC7: 1, 0xC8: 2}
_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
EVENT_WORDS = frozenset(kind.value for kind in EventType)
_MOMENT_MS = range(1_000_000_000_000, 4_102_444_800_000)
"""2001 to 2100."""
_FIELDS_OF_AN_EVENT_MAX = 16


class _NoValueError(ValueError):
    """No MessagePack value begins here."""


def embedded_packed(data: bytes, names: frozenset[str]) -> Iterator[Any]:
    """Arrays and maps anywhere in `data` that hold one of `names` as a string, or a word of an event type."""
    seen: set[int] = set()
    for number, hit in enumerate(_pattern(names).finditer(data)):
        if number == HITS_MAX:
            return
        for start in range(hit.start() - 1, max(-1, hit.start() - 1 - BACK_BYTES_MAX), -1):
            if start not in seen and _begins_container(data[start]):
                try:
                    value, end = _Reader(data).read(start, _DEPTH_MAX)
                except _NoValueError:
                    continue
                if end >= hit.end():
                    seen.add(start)
                    yield value


def is_event(value: Any) -> bool:
    """Whether an array or map has an event's shape: a word of a type, a moment in milliseconds, a name of something.

    With field names or without: what is recognised is what stands in it.
    """
    held = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(held, list) or not 3 <= len(held) <= _FIELDS_OF_AN_EVENT_MAX:
        return False
    words = [one for one in held if isinstance(one, str)]
    moments = [one for one in held if isinstance(one, int) and one in _MOMENT_MS]
    return bool(moments) and len(words) >= 2 and any(one in EVENT_WORDS for one in words)


@functools.lru_cache(maxsize=4)
def _pattern(names: frozenset[str]) -> "re.Pattern[bytes]":
    return re.compile(b"|".join(re.escape(_packed(name)) for name in sorted(names | EVENT_WORDS)))


def _packed(name: str) -> bytes:
    raw = name.encode()
    return (bytes([0xA0 | len(raw)]) if len(raw) < 32 else bytes([0xD9, len(raw)])) + raw


def _begins_container(byte: int) -> bool:
    return 0x81 <= byte <= 0x8F or 0x91 <= byte <= 0x9F or 0xDC <= byte <= 0xDF


class _Reader:
    """Reads one value out of the middle of bytes, which a decoder of whole messages does not."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = VALUES_MAX

    def read(self, at: int, depth: int) -> tuple[Any, int]:
        """The value at a place, and the place behind it.

        Raises:
            _NoValueError: there is none, or too large a one.
        """
        self._left -= 1
        if depth == 0 or self._left < 0 or at >= len(self._data):
            raise _NoValueError
        byte = self._data[at]
        if byte < 0x80 or byte >= 0xE0:
            return (byte if byte < 0x80 else byte - 256), at + 1
        if byte < 0xC0:
            return self._short(byte, at + 1, depth)
        if byte in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[byte], at + 1
        if byte in _NUMBERS:
            size = struct.calcsize(_NUMBERS[byte])
            return struct.unpack(_NUMBERS[byte], self._bytes(at + 1, size))[0], at + 1 + size
        return self._long(byte, at + 1, depth)

    def _short(self, byte: int, at: int, depth: int) -> tuple[Any, int]:
        if byte < 0x90:
            return self._map(byte & 0x0F, at, depth)
        if byte < 0xA0:
            return self._array(byte & 0x0F, at, depth)
        return self._text(at, byte & 0x1F)

    def _long(self, byte: int, at: int, depth: int) -> tuple[Any, int]:
        if byte in _EXTENSIONS:
            return self._bytes(at + 1, _EXTENSIONS[byte]), at + 1 + _EXTENSIONS[byte]
        if byte not in _SIZED:
            raise _NoValueError
        size = int.from_bytes(self._bytes(at, _SIZED[byte]))
        at += _SIZED[byte]
        if byte in (0xDC, 0xDD):
            return self._array(size, at, depth)
        if byte in (0xDE, 0xDF):
            return self._map(size, at, depth)
        if byte in (0xD9, 0xDA, 0xDB):
            return self._text(at, size)
        extra = byte in (0xC7, 0xC8)  # an extension has its type in front
        return self._bytes(at + extra, size), at + extra + size

    def _array(self, count: int, at: int, depth: int) -> tuple[list[Any], int]:
        found = []
        for _ in range(min(count, self._left + 1)):
            value, at = self.read(at, depth - 1)
            found.append(value)
        return found, at

    def _map(self, count: int, at: int, depth: int) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        for _ in range(min(count, self._left + 1)):
            key, at = self.read(at, depth - 1)
            value, at = self.read(at, depth - 1)
            found[str(key)] = value
        return found, at

    def _text(self, at: int, size: int) -> tuple[str, int]:
        try:
            return self._bytes(at, size).decode(), at + size
        except UnicodeDecodeError:
            raise _NoValueError from None

    def _bytes(self, at: int, size: int) -> bytes:
        if at + size > len(self._data):
            raise _NoValueError
        return self._data[at : at + size]
