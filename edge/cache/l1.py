"""The in-process cache: bounded by bytes, scan resistant, and a hit costs one addition.

What goes when room is needed is what is worth least per byte among SAMPLE entries, taken in turn, and the NEWEST ones.
Worth is how often an entry was asked for, by a count that fades (an exponentially decayed frequency, as in Lee et al.,
"LRFU", IEEE ToC 50(12), 2001; per byte as in GreedyDual-Size-Frequency, Cherkasova 1998; a sample in place of an
order, as Redis does). What left is remembered with its count for a while, so that it need not earn it anew::

    new key, count 1 ------> ring --in a sample, worth least per byte--> ghosts (key and count)
    key of a ghost, +1 ----> ring                                          | asked for again: back, with its count
                                                                           | oldest when there are too many: forgotten

Time is counted in keys that were asked for a second time, so neither an idle edge nor a scan forgets anything; a count
halves while HALF_LIFE times as many of them come as there are entries. The keys of a scan are worth least, and in
every sample there are some of them: they push out each other.

A value may carry something that it can do without (`Sized.spare_bytes`: the list of the release before, behind that of
now). All of it together takes SPARE_SHARE of the cache at most; what comes when that is full comes without. After a
release switch the lists that are asked for most are made anew first, so theirs are the ones that stay.

Nothing is moved when a key is asked for, only `hits` of its value grows, which is taken in when a sample comes by. So
whoever serves a value past `get` (the hot path) counts in the same way, without knowing the cache.

Tried on the trace of `./atoll bench cache-policy` (hit points behind the clairvoyant one): S3-FIFO by bytes 7.3;
GreedyDual-Size-Frequency 6.6, with faded counts 6.4; TinyLFU's admission against a sample by count per byte 5.7; fading
by every new key 5.1 to 5.4, and a scan emptied the cache; this 4.7 to 5.0.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

SAMPLE = 48
NEWEST = 8
"""How many of the newest entries are in every sample, so that a scan's keys find each other."""
HALF_LIFE = 2.0
COUNT_MAX = 500.0
"""What was asked for more often than this goes no later for it: what was popular yesterday does not stay for ever."""
SPARE_SHARE = 0.25
"""Of the cache, for what values can do without: lists of now come before those that a roll-back might want."""
GHOSTS_PER_ENTRY = 4
GHOSTS_MAX = 200_000


class Sized(Protocol):
    """What the cache can hold. `hits` is how often it was served lately: added to by whoever serves it."""

    hits: int

    def size_bytes(self) -> int:
        """How many bytes it counts for, what it can do without included."""
        ...

    def spare_bytes(self) -> int:
        """How many of them are for what it can do without."""
        ...

    def give_up_spare(self) -> None:
        """Do without it."""
        ...


V = TypeVar("V", bound=Sized)


@dataclass(slots=True, eq=False)
class _Held(Generic[V]):
    """One entry.

    count: how often it was asked for, as of `tick`.
    place: where in the ring it stands.
    proven: whether it was seen to be asked for again.
    """

    key: Hashable
    value: V
    size: int
    spare: int
    count: float
    tick: int
    place: int
    proven: bool = False


@dataclass(slots=True)
class L1Counts:
    """What happened since the start."""

    evicted: int = 0
    not_admitted: int = 0
    spares_given_up: int = 0


class L1Cache(Generic[V]):
    """Byte-bounded map. Not for several threads: the event loop's only.

    Args:
        bytes_max: what all entries together may count for.
        left: told every value that is no longer held, whyever.
    """

    def __init__(self, *, bytes_max: int, left: Callable[[V], None] = lambda _value: None) -> None:
        self._bytes_max = bytes_max
        self._left = left
        self._held: dict[Hashable, _Held[V]] = {}
        self._ring: list[_Held[V]] = []
        self._hand = 0
        self._tick = 0
        self._size_bytes = 0
        self._spare_bytes = 0
        self._ghosts: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()
        """By key: its count, and as of which tick."""
        self.counts = L1Counts()

    def __len__(self) -> int:
        return len(self._held)

    def __repr__(self) -> str:
        return (
            f"L1Cache({len(self._held)} entries, {self._size_bytes} of {self._bytes_max} bytes, "
            f"{len(self._ghosts)} ghosts)"
        )

    @property
    def size_bytes(self) -> int:
        """Bytes of all entries; never more than `bytes_max`."""
        return self._size_bytes

    @property
    def spare_bytes(self) -> int:
        """Bytes of what values can do without; never more than SPARE_SHARE of `bytes_max`."""
        return self._spare_bytes

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

    def demand(self) -> list[tuple[float, Hashable, V]]:
        """How often each key was asked for lately (a count that fades), the key and its value; in no order."""
        return [(self._demand(held), key, held.value) for key, held in self._held.items()]

    def put(self, key: Hashable, value: V) -> bool:
        """Keep `value`; returns False when it is larger than the cache. A key that is held keeps its place."""
        held = self._held.get(key)
        spare = self._spare_of(value, beside=self._spare_bytes - (held.spare if held is not None else 0))
        size = value.size_bytes()
        if size > self._bytes_max:
            self.discard(key)
            self.counts.not_admitted += 1
            return False
        if held is None:
            self._insert(key, value, size, spare)
        else:
            self._replace(held, value, size, spare)
        return True

    def _spare_of(self, value: V, *, beside: int) -> int:
        """Bytes of what `value` keeps that it can do without; none where others' take all the room for such."""
        spare = value.spare_bytes()
        if spare and beside + spare > SPARE_SHARE * self._bytes_max:
            value.give_up_spare()
            self.counts.spares_given_up += 1
            return 0
        return spare

    def discard(self, key: Hashable) -> bool:
        """Forget `key`; returns whether it was there."""
        held = self._held.get(key)
        if held is None:
            return False
        self._drop(held)
        return True

    def discard_where(self, matches: Callable[[Hashable], bool]) -> list[Hashable]:
        """Forget every key that matches, what is remembered of evicted ones too; returns those that were held."""
        found = [key for key in self._held if matches(key)]
        for key in found:
            self.discard(key)
        for key in [key for key in self._ghosts if matches(key)]:
            del self._ghosts[key]
        return found

    def _replace(self, held: _Held[V], value: V, size: int, spare: int) -> None:
        old, held.value = held.value, value
        value.hits = old.hits
        self._size_bytes += size - held.size
        self._spare_bytes += spare - held.spare
        held.size, held.spare = size, spare
        if old is not value:
            self._left(old)
        while self._size_bytes > self._bytes_max:
            self._evict(but=held)

    def _insert(self, key: Hashable, value: V, size: int, spare: int) -> None:
        while self._size_bytes + size > self._bytes_max:
            self._evict()
        ghost = self._ghosts.pop(key, None)
        self._tick += ghost is not None
        count, tick = ghost if ghost is not None else (0.0, self._tick)
        value.hits = 0
        held = _Held(key, value, size, spare, 1.0 + self._faded(count, tick), self._tick, len(self._ring))
        self._held[key] = held
        self._ring.append(held)
        self._size_bytes += size
        self._spare_bytes += spare

    def _evict(self, *, but: _Held[V] | None = None) -> None:
        """Give up what is worth least per byte of the next SAMPLE entries; never `but`."""
        ring = self._ring
        worst, least = None, float("inf")
        self._hand %= len(ring)
        for held in (*ring[self._hand : self._hand + SAMPLE], *ring[-NEWEST:]):
            worth = self._worth(held) / max(1, held.size)
            if worth < least and held is not but:
                worst, least = held, worth
        self._hand += SAMPLE
        if worst is None:
            return
        self._drop(worst)
        self.counts.evicted += 1
        self._ghosts[worst.key] = (worst.count, worst.tick)
        while len(self._ghosts) > min(GHOSTS_MAX, GHOSTS_PER_ENTRY * (len(ring) + 1)):
            self._ghosts.popitem(last=False)

    def _worth(self, held: _Held[V]) -> float:
        """How often it will be asked for, as far as how often it was says.

        Of keys that came n times a share of about 1 / (n + 1) is chance: much of what came once, nearly nothing of what
        came often. (Good and Turing's estimate for Zipf's law is n (n + 1) / (n + 2); scans make it a little less.)
        """
        count = held.count = self._demand(held)
        if held.value.hits and not held.proven:
            held.proven = True
            self._tick += 1
        held.tick, held.value.hits = self._tick, 0
        return count * count / (count + 1.0)

    def _demand(self, held: _Held[V]) -> float:
        return min(COUNT_MAX, self._faded(held.count, held.tick) + held.value.hits)

    def _faded(self, count: float, tick: int) -> float:
        return count * math.exp2((tick - self._tick) / (HALF_LIFE * (len(self._ring) + 1)))

    def _drop(self, held: _Held[V]) -> None:
        del self._held[held.key]
        last = self._ring.pop()
        if last is not held:
            self._ring[held.place] = last
            last.place = held.place
        self._size_bytes -= held.size
        self._spare_bytes -= held.spare
        self._left(held.value)
