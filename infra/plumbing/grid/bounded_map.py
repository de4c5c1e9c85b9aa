"""A map bounded in bytes, with a time to live per entry least-recently-used eviction, no I/O and no clock."""

import heapq
from collections import OrderedDict
from dataclasses import dataclass

ENTRY_OVERHEAD_BYTES = 256
"""What an entry costs beside its key and value: the dictionary's slot, the objects' heads, the expiry."""
_SWEEP_PER_CALL = 8
"""Expired entries removed by one call, so that no call pays for all of them."""


@dataclass(slots=True)
class MapCounts:
    """What happened to a map since it was made."""

    hits: int = 0
    misses: int = 0
    puts: int = 0
    evictions: int = 0
    expirations: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    value: bytes
    expires_s: float
    cost: int


class BoundedMap:
    """Values by key; `now_s` is the caller's monotonic time in seconds.

    Args:
        bytes_max: keys, values and overheads together never exceed it; the entries least recently used leave first.
    """

    def __init__(self, *, bytes_max: int) -> None:
        self.counts = MapCounts()
        self.bytes_used = 0
        self._bytes_max = bytes_max
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._expiries: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str, *, now_s: float) -> bytes | None:
        """The value, or None when it is not there or has run out."""
        self.sweep(now_s=now_s)
        entry = self._entries.get(key)
        if entry is None or entry.expires_s <= now_s:
            self.counts.misses += 1
            return None
        self._entries.move_to_end(key)
        self.counts.hits += 1
        return entry.value

    def put(self, key: str, value: bytes, *, ttl_s: float, now_s: float) -> None:
        """Keep `value` for `ttl_s`; nothing is kept when that is not positive or the entry alone exceeds the bound."""
        self.sweep(now_s=now_s)
        self.delete(key)
        cost = len(key.encode()) + len(value) + ENTRY_OVERHEAD_BYTES
        self.counts.puts += 1
        # Written so that a NaN is not kept for ever.
        if not ttl_s > 0 or cost > self._bytes_max:
            return
        self._entries[key] = _Entry(value, now_s + ttl_s, cost)
        self.bytes_used += cost
        heapq.heappush(self._expiries, (now_s + ttl_s, key))
        while self.bytes_used > self._bytes_max:
            self._remove(next(iter(self._entries)))
            self.counts.evictions += 1
        self._tidy_expiries()

    def delete(self, key: str) -> None:
        """Forget `key`."""
        if key in self._entries:
            self._remove(key)

    def sweep(self, *, now_s: float, limit: int = _SWEEP_PER_CALL) -> None:
        """Remove up to `limit` entries that have run out."""
        for _ in range(limit):
            if not self._expiries or self._expiries[0][0] > now_s:
                return
            _, key = heapq.heappop(self._expiries)
            entry = self._entries.get(key)
            # The key may have been put again since, with a later expiry of its own in the heap.
            if entry is not None and entry.expires_s <= now_s:
                self._remove(key)
                self.counts.expirations += 1

    def _remove(self, key: str) -> None:
        self.bytes_used -= self._entries.pop(key).cost

    def _tidy_expiries(self) -> None:
        """Keys put again or deleted leave their old expiries behind; rebuild when those are the most."""
        if len(self._expiries) > 2 * len(self._entries) + 64:
            self._expiries = [(entry.expires_s, key) for key, entry in self._entries.items()]
            heapq.heapify(self._expiries)
