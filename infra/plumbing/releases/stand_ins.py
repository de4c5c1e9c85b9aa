"""What phones' towers read in place of items that central's training had no event of: a file of a derived release.

Only a phone reads it: no region sees an event of such an item. A release without the file reads none of them.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from infra.contracts.release import STAND_INS
from infra.plumbing.errors import AtollError

IntArray = npt.NDArray[np.int32]
NOT_READ: Final = -1
_DAMAGED: Final = (ValueError, EOFError, OverflowError, TokenError)
"""What NumPy raises at a header that is none, by where it gives up."""


class StandInsError(AtollError):
    """What is said to be read in place of items does not hold."""


@dataclass(frozen=True, slots=True)
class StandIns:
    """Items and what is read in their place, in catalogue rows: `rows [n]` ascending, `reads [n]`, int32 each."""

    rows: IntArray
    reads: IntArray

    @classmethod
    def none(cls) -> Self:
        """No item has one."""
        return cls(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32))

    @classmethod
    def of(cls, rows: npt.NDArray[np.integer], reads: npt.NDArray[np.integer]) -> Self:
        """Those of `rows`, each once, in whose place another item is read; `reads` NOT_READ: nothing is."""
        kept = np.flatnonzero((reads != NOT_READ) & (reads != rows))
        order = kept[np.argsort(rows[kept])]
        return cls(rows[order].astype(np.int32), reads[order].astype(np.int32))

    def __len__(self) -> int:
        return len(self.rows)

    def but_of(self, rows: npt.NDArray[np.integer]) -> Self:
        """The same without those of the items at `rows`."""
        kept = ~np.isin(self.rows, rows)
        return type(self)(self.rows[kept], self.reads[kept])

    def joined(self, other: "StandIns") -> Self:
        """These and `other`, which are of other items."""
        return self.of(np.concatenate([self.rows, other.rows]), np.concatenate([self.reads, other.reads]))

    def reading(self, heard: npt.NDArray[np.integer]) -> IntArray:
        """What is read in place of every item, `[num_items] int32`: itself, its stand-in, or NOT_READ.

        `heard [num_items]`: how many events central's training had of each.
        """
        found = np.where(heard > 0, np.arange(len(heard)), NOT_READ).astype(np.int32)
        found[self.rows] = self.reads
        return found

    def check(self, heard: npt.NDArray[np.integer]) -> None:
        """Refuse what does not fit a catalogue; `heard` as for `reading`.

        Raises:
            StandInsError: a row is not of the catalogue or twice here, an item is one that central knows, or what is
                read in its place is one that central does not know.
        """
        rows, reads, items = self.rows, self.reads, len(heard)
        if rows.shape != reads.shape or rows.ndim != 1:
            raise StandInsError(f"there are {rows.shape} items and {reads.shape} that are read in their place.")
        if len(rows) and (min(rows.min(), reads.min()) < 0 or max(rows.max(), reads.max()) >= items):
            raise StandInsError(f"stand-ins name rows that the catalogue of {items} items does not have.")
        if (np.diff(rows) <= 0).any():
            raise StandInsError("stand-ins do not name each item once, in the catalogue's order.")
        if heard[rows].any() or not heard[reads].all():
            raise StandInsError("a stand-in is an item that central knows, for one that it does not know.")

    def encoded(self) -> bytes:
        """The file's content: `[2, n] int32`, rows and reads."""
        buffer = io.BytesIO()
        np.save(buffer, np.stack([self.rows, self.reads]).astype("<i4"), allow_pickle=False)
        return buffer.getvalue()


def read_stand_ins(bundle: Path, *, heard: npt.NDArray[np.integer]) -> StandIns:
    """The stand-ins of a bundle; none where it has no such file. `heard` as for `StandIns.reading`.

    Raises:
        StandInsError: the file is damaged, or does not fit the catalogue.
    """
    path = bundle / STAND_INS
    if not path.exists():
        return StandIns.none()
    try:
        found = StandIns(*_content(path))
        found.check(heard)
    except (OSError, StandInsError) as error:
        raise StandInsError(
            f"{STAND_INS} of the release in {bundle} cannot be used ({str(error).rstrip('.')}).",
            fix="Fetch the release again.",
        ) from None
    return found


def _content(path: Path) -> tuple[IntArray, IntArray]:
    try:
        # Mapped: a header that promises more than the file has is refused before any memory is taken.
        held = np.load(path, mmap_mode="r", allow_pickle=False)
    except _DAMAGED:
        # NumPy's own words would send the reader to less careful ways of opening it.
        raise StandInsError("it is no array, or not all of one") from None
    if held.dtype != np.dtype("<i4") or held.ndim != 2 or len(held) != 2:
        raise StandInsError(f"it holds {held.dtype} {held.shape}, and not [2, n] int32")
    return np.array(held[0], dtype=np.int32), np.array(held[1], dtype=np.int32)
