"""The parts that a catalogue is made of: texts by number, numbers by text, rows by what they have in common.

Texts lie in slots of SLOT_BYTES, each from a slot of its own on and filled up with zeros: a text that stands somewhere
else in the next release is the same rows of the file there, and a delta does not carry it again. Numbers are found by
a sorted table of 64-bit hashes (BLAKE2b); what is found there is held against the text itself.
"""

import hashlib
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

SLOT_BYTES: Final = 16
_FILL: Final = b"\0"
IntArray = npt.NDArray[np.int32]
Array = npt.NDArray[Any]


def text_hash(raw: bytes) -> int:
    """What a text is found by, 64 bits."""
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


class Texts:
    """Texts by number.

    Args:
        slots: `[slots, SLOT_BYTES] uint8`.
        starts: `[texts + 1] uint32`: the first slot of each text, and the end.
    """

    __slots__ = ("_bytes", "_starts")

    def __init__(self, slots: Array, starts: Array) -> None:
        # A memory view gives plain integers and bytes at a fraction of what indexing an array costs.
        self._bytes = slots.reshape(-1).data
        self._starts = starts.data

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: int) -> str:
        first, end = self._starts[number], self._starts[number + 1]
        return str(self._bytes[first * SLOT_BYTES : end * SLOT_BYTES], "utf-8").rstrip("\0")

    def raw(self, number: int) -> bytes:
        """The text's UTF-8."""
        first, end = self._starts[number], self._starts[number + 1]
        return bytes(self._bytes[first * SLOT_BYTES : end * SLOT_BYTES]).rstrip(_FILL)


class Names:
    """Different texts, each of which has a number, and is found by what it says.

    Args:
        texts: by number.
        hashes: `[texts] uint64`, ascending.
        places: `[texts] int32`: whose hash stands there.
    """

    __slots__ = ("_hashes", "_places", "_spread", "texts")

    def __init__(self, texts: Texts, hashes: Array, places: Array) -> None:
        self.texts = texts
        self._hashes = hashes.data
        self._places = places.data
        self._spread = 2 * math.isqrt(len(hashes)) + 1

    def __len__(self) -> int:
        return len(self.texts)

    def find(self, text: str) -> int:
        """The number of `text`; -1 when it is none of these."""
        try:
            raw = text.encode()
        except UnicodeEncodeError:  # half a surrogate pair: no file holds such a name
            return -1
        wanted = text_hash(raw)
        at = bisect_left(self._hashes, wanted, *self._around(wanted))
        while at < len(self._hashes) and self._hashes[at] == wanted:
            number: int = self._places[at]
            if self.texts.raw(number) == raw:
                return number
            at += 1
        return -1

    def _around(self, wanted: int) -> tuple[int, int]:
        """Between which places `wanted` stands or would stand.

        Hashes are spread evenly, so the one of rank r of n is near r/n of the whole, to within a few square roots of n
        (Kolmogorov). A search that begins there reads a few pages that lie together, in the place of one at each step.
        """
        count = len(self._hashes)
        guess = wanted * count >> 64
        low, high = max(0, guess - self._spread), min(count, guess + self._spread)
        return (
            low if low == 0 or self._hashes[low - 1] < wanted else 0,
            high if high == count or self._hashes[high] >= wanted else count,
        )


class Groups(Mapping[str, IntArray]):
    """Rows by the name of what they have in common, most popular first; read when they are asked for.

    Args:
        names: of the groups.
        rows: `[entries] int32`, group behind group.
        starts: `[groups + 1] int64`.
    """

    __slots__ = ("_rows", "_starts", "names")

    def __init__(self, names: Names, rows: IntArray, starts: Array) -> None:
        self.names = names
        self._rows = rows
        self._starts = starts.data

    def __getitem__(self, name: str) -> IntArray:
        number = self.names.find(name)
        if number < 0:
            raise KeyError(name)
        return self.of(number)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.names.find(name) >= 0

    def __iter__(self) -> Iterator[str]:
        return (self.names.texts[number] for number in range(len(self)))

    def __len__(self) -> int:
        return len(self.names)

    def of(self, number: int) -> IntArray:
        """The rows of a group by its number."""
        return self._rows[self._starts[number] : self._starts[number + 1]]


def value_key(name: str, value: str) -> str:
    """Under which name the items stand whose attribute `name` has `value`; no two pairs share one."""
    return f"{len(name)}:{name}{value}"


def spans(starts: Array, rows: Sequence[int] | IntArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Places of the entries of `rows` in a table whose row r has entries `starts[r]` to `starts[r + 1]`.

    Returns:
        the places, and for each the index into `rows` that it belongs to.
    """
    wanted = np.asarray(rows, dtype=np.int64)
    firsts = starts[wanted].astype(np.int64)
    counts = starts[wanted + 1].astype(np.int64) - firsts
    owners = np.repeat(np.arange(wanted.size), counts)
    places = np.arange(owners.size) + np.repeat(firsts - (np.cumsum(counts) - counts), counts)
    return places, owners


def first_twin(slots: Array, starts: Array, hashes: Array, places: Array) -> str:
    """A text that stands twice, or "". Equal texts have equal hashes, which stand beside each other."""
    texts = Texts(slots, starts)
    for at in np.flatnonzero(hashes[1:] == hashes[:-1]).tolist():
        last = at + 1
        while last < len(hashes) and hashes[last] == hashes[at]:
            if texts.raw(int(places[at])) == texts.raw(int(places[last])):
                return texts[int(places[at])]
            last += 1
    return ""
