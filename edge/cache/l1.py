"""The in-process cache: bounded by bytes, scan resistant, and a hit costs one addition.

S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023, doi:10.1145/3600006.3613147), its
bounds in bytes instead of entries, and a large entry must earn its place more often than a small one::

    new key ------> small (SMALL_SHARE of the bytes) --asked for again?--> main --asked for since?--> to its end again
                      | no: its key is remembered                           | no: gone
                      v
                    ghosts --------- asked for soon after --------------> main

Admission is the walk through `small`: a scan of keys that nobody asks for twice fills that queue and leaves by it.
Nothing is moved when a key is asked for, only `hits` of its value grows, which is looked at when room is needed. So
whoever serves a value past `get` (the hot path) counts in the same way, without knowing the cache.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

SMALL_SHARE = 0.05
GHOSTS_MAX = 200_000
HITS_MAX = 7
"""More hits than this give no longer life: what was popular yesterday does not stay for ever."""


class Sized(Protocol):
    """What the cache can hold. `hits` is how often it was served lately: added to by whoever serves it."""

    hits: int

    def size_bytes(self) -> int:
        """How many bytes it counts for."""
        ...


V = TypeVar("V", bound=Sized)


@dataclass(slots=True, eq=False)
class _Held(Generic[V]):
    """One entry's place in a queue. `gone`: it was discarded, and is skipped when the queue comes to it."""

    key: Hashable
    value: V
    size: int
    in_small: bool
    gone: bool = False


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
        self._small_max = int(bytes_max * SMALL_SHARE)
        self._left = left
        self._held: dict[Hashable, _Held[V]] = {}
        self._small: deque[_Held[V]] = deque()
        self._main: deque[_Held[V]] = deque()
        self._small_bytes = 0
        self._main_bytes = 0
        self._ghosts: OrderedDict[Hashable, int] = OrderedDict()
        self._ghost_bytes = 0
        self.counts = L1Counts()

    def __len__(self) -> int:
        return len(self._held)

    def __repr__(self) -> str:
        return (
            f"L1Cache({len(self._held)} entries, {self._small_bytes} + {self._main_bytes} of {self._bytes_max} bytes, "
            f"{len(self._ghosts)} ghosts)"
        )

    @property
    def size_bytes(self) -> int:
        """Bytes of all entries; never more than `bytes_max`."""
        return self._small_bytes + self._main_bytes

    def get(self, key: Hashable) -> V | None:
        """The value of `key`; counts as one request for it."""
        held = self._held.get(key)
        if held is None:
            return None
        held.value.hits += 1
        return held.value

    def peek(self, key: Hashable) -> V | None:
        """The value of `key`, without a request for it."""
        held = self._held.get(key)
        return None if held is None else held.value

    def items(self) -> list[tuple[Hashable, V]]:
        """Every key and value, in no order that means anything."""
        return [(key, held.value) for key, held in self._held.items()]

    def put(self, key: Hashable, value: V) -> bool:
        """Keep `value`; returns False when it is larger than the cache. A key that is held keeps its place."""
        size = value.size_bytes()
        known = self.discard(key) if size > self._bytes_max else self._replace(key, value, size)
        if size > self._bytes_max:
            self.counts.not_admitted += 1
            return False
        if not known:
            self._insert(key, value, size)
        return True

    def discard(self, key: Hashable) -> bool:
        """Forget `key`; returns whether it was there."""
        held = self._held.get(key)
        if held is None:
            return False
        held.gone = True
        self._drop(held)
        return True

    def discard_where(self, matches: Callable[[Hashable], bool]) -> list[Hashable]:
        """Forget every key that matches, what is remembered of evicted ones too; returns those that were held."""
        found = [key for key in self._held if matches(key)]
        for key in found:
            self.discard(key)
        for key in [key for key in self._ghosts if matches(key)]:
            self._ghost_bytes -= self._ghosts.pop(key)
        return found

    def _replace(self, key: Hashable, value: V, size: int) -> bool:
        held = self._held.get(key)
        if held is None:
            return False
        if size - held.size > self._bytes_max - self.size_bytes:
            # It would need room, and making room might take the very entry: it leaves and comes anew.
            self.discard(key)
            return False
        self._count(held, -held.size)
        value.hits = held.value.hits
        old, held.value, held.size = held.value, value, size
        self._count(held, size)
        if old is not value:
            self._left(old)
        return True

    def _insert(self, key: Hashable, value: V, size: int) -> None:
        while self.size_bytes + size > self._bytes_max:
            self._evict()
        ghost = self._ghosts.pop(key, None)
        if ghost is not None:
            self._ghost_bytes -= ghost
        value.hits = 0
        held = self._held[key] = _Held(key, value, size, in_small=ghost is None)
        (self._small if held.in_small else self._main).append(held)
        self._count(held, size)

    def _evict(self) -> None:
        """Take one step towards more room."""
        if self._small_bytes > self._small_max or not self._main_bytes:
            self._leave_small()
        else:
            self._leave_main()

    def _leave_small(self) -> None:
        held = self._small.popleft()
        if held.gone:
            return
        if held.value.hits:
            self._count(held, -held.size)
            held.in_small = False
            held.value.hits = 0
            self._count(held, held.size)
            self._main.append(held)
            return
        self._drop(held)
        self.counts.evicted += 1
        self._ghosts[held.key] = held.size
        self._ghost_bytes += held.size
        while self._ghost_bytes > self._bytes_max or len(self._ghosts) > GHOSTS_MAX:
            self._ghost_bytes -= self._ghosts.popitem(last=False)[1]

    def _leave_main(self) -> None:
        held = self._main.popleft()
        if held.gone:
            return
        # Bytes are what is scarce: a list of twice the mean size takes the place of two, so it must be asked for twice
        # as often to stay another round.
        needed = max(1.0, held.size * len(self._held) / self.size_bytes)
        hits = min(held.value.hits, HITS_MAX)
        if hits >= needed:
            held.value.hits = int(hits - needed)
            self._main.append(held)
            return
        self._drop(held)
        self.counts.evicted += 1

    def _drop(self, held: _Held[V]) -> None:
        del self._held[held.key]
        self._count(held, -held.size)
        self._left(held.value)

    def _count(self, held: _Held[V], size: int) -> None:
        if held.in_small:
            self._small_bytes += size
        else:
            self._main_bytes += size
