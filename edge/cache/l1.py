"""The in-process cache: bounded by bytes, segmented LRU, with admission by how often a key was asked for.

A new key waits in *probation*; asked for again it moves to *protected* (at most PROTECTED_SHARE of the bytes), whose
overflow falls back to probation. When there is no room, the newcomer competes with the oldest of probation by
estimated frequency and loses ties: a scan of keys that nobody asks for twice cannot push out what is asked for.
Frequencies are kept in a count-min sketch that is halved now and then (TinyLFU, Einziger et al. 2017,
doi:10.1145/3149371), so that what was popular yesterday does not stay for ever.
"""

from array import array
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

PROTECTED_SHARE = 0.8
_SKETCH_ROWS = 4
_SKETCH_WIDTH = 1 << 14
_COUNT_MAX = 15
_HALVE_AFTER = 10 * _SKETCH_WIDTH
# Odd multipliers of 64 bits: one per row, so that two keys that share a cell in one row differ in the others.
_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
_MASK = (1 << 64) - 1


class Sized(Protocol):
    """What the cache can hold."""

    def size_bytes(self) -> int:
        """How many bytes it counts for."""
        ...


V = TypeVar("V", bound=Sized)


class FrequencySketch:
    """About how often each key was asked for lately: never less than it was, at most _COUNT_MAX. Fixed size."""

    def __init__(self) -> None:
        self._rows = [array("B", bytes(_SKETCH_WIDTH)) for _ in range(_SKETCH_ROWS)]
        self._counted = 0

    def add(self, key: Hashable) -> None:
        """Count one request for `key`."""
        for row, cell in self._cells(key):
            if row[cell] < _COUNT_MAX:
                row[cell] += 1
        self._counted += 1
        if self._counted >= _HALVE_AFTER:
            self._halve()

    def estimate(self, key: Hashable) -> int:
        """How often `key` was counted since about the last two halvings."""
        return min(row[cell] for row, cell in self._cells(key))

    def _cells(self, key: Hashable) -> "Iterator[tuple[array[int], int]]":
        mixed = hash(key) & _MASK
        for row, multiplier in zip(self._rows, _MULTIPLIERS, strict=True):
            yield row, ((mixed * multiplier & _MASK) >> 40) % _SKETCH_WIDTH

    def _halve(self) -> None:
        self._rows = [array("B", bytes(count >> 1 for count in row)) for row in self._rows]
        self._counted //= 2


@dataclass(slots=True)
class L1Counts:
    """What happened since the start."""

    evicted: int = 0
    not_admitted: int = 0


class L1Cache(Generic[V]):
    """Byte-bounded map. Not for several threads: the event loop's only.

    Args:
        bytes_max: what all entries together may count for.
        left: told every value that is no longer held, whyever.
    """

    def __init__(self, *, bytes_max: int, left: Callable[[V], None] = lambda _value: None) -> None:
        self._bytes_max = bytes_max
        self._left = left
        self._protected_max = int(bytes_max * PROTECTED_SHARE)
        self._probation: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._protected: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._probation_bytes = 0
        self._protected_bytes = 0
        self._sketch = FrequencySketch()
        self.counts = L1Counts()

    def __len__(self) -> int:
        return len(self._probation) + len(self._protected)

    def __repr__(self) -> str:
        return (
            f"L1Cache({len(self._probation)} in probation, {len(self._protected)} protected, "
            f"{self.size_bytes} of {self._bytes_max} bytes)"
        )

    @property
    def size_bytes(self) -> int:
        """Bytes of all entries; never more than `bytes_max`."""
        return self._probation_bytes + self._protected_bytes

    def get(self, key: Hashable) -> V | None:
        """The value of `key`; counts as one request for it."""
        self._sketch.add(key)
        held = self._protected.get(key)
        if held is not None:
            self._protected.move_to_end(key)
            return held[0]
        held = self._probation.get(key)
        if held is None:
            return None
        self._promote(key)
        return held[0]

    def put(self, key: Hashable, value: V) -> bool:
        """Keep `value`; returns False when it was not admitted. A key that is already held is always replaced."""
        held = self.discard(key)
        size = value.size_bytes()
        if size > self._bytes_max or not self._make_room(key, size, certain=held):
            self.counts.not_admitted += 1
            return False
        self._probation[key] = (value, size)
        self._probation_bytes += size
        return True

    def discard(self, key: Hashable) -> bool:
        """Forget `key`; returns whether it was there."""
        if key in self._protected:
            value, size = self._protected.pop(key)
            self._protected_bytes -= size
        elif key in self._probation:
            value, size = self._probation.pop(key)
            self._probation_bytes -= size
        else:
            return False
        self._left(value)
        return True

    def _promote(self, key: Hashable) -> None:
        value, size = self._probation.pop(key)
        self._probation_bytes -= size
        self._protected[key] = (value, size)
        self._protected_bytes += size
        while self._protected_bytes > self._protected_max and self._protected:
            fallen, (old, old_size) = self._protected.popitem(last=False)
            self._protected_bytes -= old_size
            self._probation[fallen] = (old, old_size)
            self._probation_bytes += old_size

    def _make_room(self, key: Hashable, size: int, *, certain: bool) -> bool:
        wins = certain
        while self.size_bytes + size > self._bytes_max:
            segment = self._probation or self._protected
            victim = next(iter(segment))
            # One duel is enough: who beats the oldest has shown that it is asked for.
            wins = wins or self._sketch.estimate(key) > self._sketch.estimate(victim)
            if not wins:
                return False
            self.discard(victim)
            self.counts.evicted += 1
        return True
