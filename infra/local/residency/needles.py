"""Finding any of many thousands of byte strings in tens of megabytes, at any position.

Each needle is known by its first eight bytes. Every eight-byte window of the data is hashed by NumPy into a table of
2^24 flags; the few windows that hit are looked up exactly. So the cost hardly depends on how many needles there are.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from infra.local.residency.forms import NEEDLE_BYTES_MIN, forms_of

_TABLE_BITS = 24
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: Knuth's multiplicative hashing
_BLOCK_BYTES = 8 << 20
_WINDOW = NEEDLE_BYTES_MIN


@dataclass(frozen=True, slots=True)
class Needle:
    """One form of one secret."""

    content: bytes
    kind: str
    form: str


class NeedleSet:
    """Secrets in all their forms, indexed.

    Args:
        secrets: by kind (`pseudonym`, `user_id`, `event_id`, ...).
    """

    def __init__(self, secrets: Mapping[str, Iterable[str | bytes]]) -> None:
        self._by_window: dict[int, list[Needle]] = {}
        self.count = 0
        for kind, values in secrets.items():
            for value in values:
                for form, content in forms_of(value):
                    self._add(Needle(content, kind, form))
        self._table = np.zeros(1 << _TABLE_BITS, dtype=np.bool_)
        windows = np.fromiter(self._by_window, dtype=np.uint64, count=len(self._by_window))
        self._table[_hashes(windows)] = True

    def _add(self, needle: Needle) -> None:
        window = int.from_bytes(needle.content[:_WINDOW], "little")
        known = self._by_window.setdefault(window, [])
        if all(other.content != needle.content or other.kind != needle.kind for other in known):
            known.append(needle)
            self.count += 1

    def find(self, data: bytes) -> Iterator[tuple[int, Needle]]:
        """Every (position, needle) in `data`."""
        if not self._by_window:
            return
        for start in range(0, max(len(data) - _WINDOW + 1, 0), _BLOCK_BYTES):
            end = min(start + _BLOCK_BYTES + _WINDOW - 1, len(data))
            for position in self._candidates(data, start, end):
                window = int.from_bytes(data[position : position + _WINDOW], "little")
                for needle in self._by_window.get(window, ()):
                    if data.startswith(needle.content, position):
                        yield position, needle

    def _candidates(self, data: bytes, start: int, end: int) -> list[int]:
        found: list[npt.NDArray[np.int64]] = []
        for shift in range(_WINDOW):
            count = (end - start - shift) // _WINDOW
            if count > 0:
                windows = np.frombuffer(data, dtype="<u8", count=count, offset=start + shift)
                found.append(np.flatnonzero(self._table[_hashes(windows)]) * _WINDOW + start + shift)
        return sorted(np.concatenate(found).tolist()) if found else []


def _hashes(windows: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    hashed: npt.NDArray[np.uint64] = (windows * _MULTIPLIER) >> np.uint64(64 - _TABLE_BITS)
    return hashed
