"""Caches under one byte bound, each asked the same: the edge's own, packaged ones, and one that knows the future.

Packaged caches count entries: theirs are told to give up entries, by their own choice, while they hold too many bytes.
theine offers no such call; it gets as many entries as lists of mean size fit into the bytes.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cachebox
import cachetools
import theine

from edge.cache.l1 import L1Cache
from infra.bench.serving.traces import Trace


class Policy(Protocol):
    """One cache in the measurement."""

    def ask(self, key: int) -> bool:
        """Look `key` up, and put its list in if it was not there; whether it was there."""
        ...


@dataclass(slots=True)
class _Blob:
    size: int
    hits: int = 0

    def size_bytes(self) -> int:
        return self.size

    def spare_bytes(self) -> int:
        return 0

    def give_up_spare(self) -> None:
        """There is nothing that it can do without."""


class Own:
    """`edge.cache.l1.L1Cache`."""

    def __init__(self, trace: Trace, bytes_max: int) -> None:
        self._sizes = trace.sizes
        self._cache: L1Cache[_Blob] = L1Cache(bytes_max=bytes_max)

    def ask(self, key: int) -> bool:
        """See `Policy`."""
        if self._cache.get(key) is not None:
            return True
        self._cache.put(key, _Blob(self._sizes[key]))
        return False


class Mapped:
    """A packaged cache with the interface of a dict; its own `popitem` says who goes."""

    def __init__(self, trace: Trace, bytes_max: int, make: Callable[[int], Any]) -> None:
        self._sizes, self._bytes_max = trace.sizes, bytes_max
        self._cache = make(len(trace.sizes))
        self._bytes = 0

    def ask(self, key: int) -> bool:
        """See `Policy`."""
        if self._cache.get(key) is not None:
            return True
        size = self._sizes[key]
        while self._bytes + size > self._bytes_max:
            self._bytes -= self._sizes[self._cache.popitem()[0]]
        self._cache[key] = True
        self._bytes += size
        return False


class Theine:
    """`theine.Cache` (W-TinyLFU)."""

    def __init__(self, trace: Trace, bytes_max: int) -> None:
        mean = sum(trace.sizes) / len(trace.sizes)
        self._cache: Any = theine.Cache(max(1, int(bytes_max / mean)))

    def ask(self, key: int) -> bool:
        """See `Policy`."""
        if self._cache.get(key)[1]:
            return True
        self._cache.set(key, key)
        return False

    def close(self) -> None:
        """End its threads."""
        self._cache.close()


class Clairvoyant:
    """Knows when each key is asked for next: whoever waits longest goes first (Belady 1966), until the bytes fit.

    With lists of different sizes this is no longer the best that there is, but what the word stands for.
    """

    def __init__(self, trace: Trace, bytes_max: int) -> None:
        self._sizes, self._bytes_max = trace.sizes, bytes_max
        self._next_use = next_uses(trace.keys)
        self._step = 0
        self._bytes = 0
        self._held: dict[int, int] = {}
        self._queue: list[tuple[int, int]] = []

    def ask(self, key: int) -> bool:
        """See `Policy`."""
        found = key in self._held
        if not found:
            self._bytes += self._sizes[key]
        self._held[key] = self._next_use[self._step]
        heapq.heappush(self._queue, (-self._held[key], key))
        self._step += 1
        while self._bytes > self._bytes_max:
            at, victim = heapq.heappop(self._queue)
            if self._held.get(victim) == -at:
                del self._held[victim]
                self._bytes -= self._sizes[victim]
        return found


def next_uses(keys: Sequence[int]) -> list[int]:
    """For each step, the step at which its key is asked for again; beyond the end if it is not."""
    after = [0] * len(keys)
    seen: dict[int, int] = {}
    for step in range(len(keys) - 1, -1, -1):
        after[step] = seen.get(keys[step], len(keys) + step)
        seen[keys[step]] = step
    return after


RIVALS: dict[str, Callable[[Trace, int], Policy]] = {
    "cachebox-lru": lambda trace, size: Mapped(trace, size, cachebox.LRUCache),
    "cachebox-lfu": lambda trace, size: Mapped(trace, size, cachebox.LFUCache),
    "cachetools-lru": lambda trace, size: Mapped(trace, size, cachetools.LRUCache),
    "cachetools-lfu": lambda trace, size: Mapped(trace, size, cachetools.LFUCache),
    "theine": Theine,
}
