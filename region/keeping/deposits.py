"""Where bytes of an erased subject may lie beside the place that was emptied, and what they are good for there.

A row that was deleted is not yet a byte that is gone: engines write commit logs, hints, snapshots and segments, and let
go of them in their own time. So a receipt says of every such deposit what became of it, how that is known, and until
when the bytes lie there: what `openly` cannot be said to be gone is named.
"""

import enum
from datetime import UTC, datetime

from infra.contracts.residency import Global, RegionalMessage


class Fate(enum.StrEnum):
    """What can still be made of the bytes of a deposit."""

    GONE = "gone"
    """There are none."""
    SHREDDED = "shredded"
    """Ciphertext whose key was destroyed: nobody can open it any more, whatever copy of it and whoever they are."""
    WRAPPED = "wrapped"
    """A key under the region's rest key: nobody without that opens it, and with it what lies under the key."""
    NAMED = "named"
    """The pseudonym, moments and lengths: not what was done."""
    READABLE = "readable"
    """As it was written."""
    UNKNOWN = "unknown"
    """Whoever keeps them did not say."""


SETTLED = frozenset({Fate.GONE, Fate.SHREDDED, Fate.NAMED})
"""What opens for nobody any more. That there was somebody, under a pseudonym, may still be read where it is NAMED: no
more than the mark says that the region has to keep."""


class Deposit(RegionalMessage, frozen=True, kw_only=True):
    """One deposit."""

    where: Global[str]
    fate: Global[Fate]
    proof: Global[str]
    """How that is known: what was read, counted or written over, or what an engine said of its own settings."""
    until: Global[str] = ""
    """When the bytes go, a day or what has to happen; "" where there are none."""


COPIES_OF_THE_LOG = Deposit(
    where="copies of the log", fate=Fate.SHREDDED, proof="the subject's key was destroyed: none of its records opens",
    until="as long as whoever made them keeps them",
)  # fmt: skip


def in_memory(what: str = "memory of this process") -> tuple[Deposit, ...]:
    """The deposits of a place that is on no disk."""
    return (Deposit(where=what, fate=Fate.GONE, proof="taken out, and counted anew; freed memory is written over"),)


def in_file(what: str, *, remains: str = "") -> tuple[Deposit, ...]:
    """The deposits of a SQLite file, by what `region.store.database.scrub` said remains."""
    if remains:
        return (
            Deposit(where=what, fate=Fate.READABLE, proof="deleted and written over where it lay", until=remains),
        )  # fmt: skip
    done = "deleted, written over, the file built anew and its write-ahead log cut; counted anew by another read"
    return (Deposit(where=what, fate=Fate.GONE, proof=done),)


def in_lines(what: str) -> tuple[Deposit, ...]:
    """The deposits of a file of lines."""
    return (Deposit(where=what, fate=Fate.GONE, proof="the file was written anew without them; counted anew"),)


def day_of(at_ms: int) -> str:
    """A day as receipts say it, in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC).date().isoformat()
