"""The store's port: what the region needs from whatever keeps its users' data (MISSION C1).

SQLite fills it on one machine, Cassandra in production; one contract suite holds both to it.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from infra.contracts.events import LoggedEvent
from infra.contracts.residency import Regional, RegionalMessage
from infra.plumbing.errors import UnavailableError


class StoreUnavailableError(UnavailableError):
    """The store did not answer in time; the funnel goes on without the user's row and says so."""


class HistoryEntry(RegionalMessage, frozen=True, kw_only=True):
    """One interaction: which item, how strong (`infra.contracts.events.event_strength`), when."""

    item: Regional[str]
    strength: Regional[int]
    at_ms: Regional[int]


class UserRow(RegionalMessage, frozen=True, kw_only=True):
    """Everything a request needs to know of a subject, in one partition read.

    `history` is oldest first and bounded. `version` goes up by one whenever the subject's lists must change.
    """

    subject: Regional[str]
    version: Regional[int] = 0
    history: Regional[tuple[HistoryEntry, ...]] = ()
    impressions: Regional[int] = 0
    opted_out: Regional[bool] = False
    last_event_ms: Regional[int] = 0


class OffsetEvent(RegionalMessage, frozen=True, kw_only=True):
    """A logged event with its place in the log."""

    offset: Regional[int]
    """From 1 upwards inside its partition."""
    logged: Regional[LoggedEvent]
    partition: Regional[int] = 0
    """The log's partition; all events of a subject are in the same one."""


class AppliedChange(RegionalMessage, frozen=True, kw_only=True):
    """What applying a batch changed for one subject."""

    subject: Regional[str]
    version: Regional[int]
    consumed: Regional[tuple[str, ...]]
    """Items that entered the subject's history."""


class ItemCount(RegionalMessage, frozen=True, kw_only=True):
    """How often an item was interacted with inside a window of time, in this region."""

    item: Regional[str]
    count: Regional[float]


Position = Mapping[int, int]
"""A place in the log: partition -> offset of the last event in front of it; 0 stands before a partition's first."""


class Store(Protocol):
    """One writer (the worker) applies events; many readers. Every call may raise `StoreUnavailableError`."""

    async def read(self, subject: str) -> UserRow | None:
        """The subject's row; one partition read. None for a subject never heard of."""
        ...

    async def apply(self, events: Sequence[OffsetEvent]) -> list[AppliedChange]:
        """Apply events, each partition's in log order, and remember the last offset of each: exactly once in effect.

        An event that was applied before has no effect, so a worker killed in between may simply repeat, from any
        offset that it had reached and in batches of any size.
        """
        ...

    async def applied_offsets(self) -> dict[int, int]:
        """The offset up to which each partition's events are applied; partitions of which none is are left out."""
        ...

    async def set_opt_out(self, subject: str, *, opted_out: bool) -> int:
        """Set the subject's choice; returns the new version."""
        ...

    async def write_rows(self, rows: Sequence[UserRow]) -> None:
        """Put whole rows (import of an existing history); replaces what is there."""
        ...

    async def trending(self, *, since_ms: int, limit: int) -> list[ItemCount]:
        """Items by number of interactions since a moment, most first."""
        ...

    async def expire(self, *, sessions_before_ms: int, counts_before_ms: int) -> int:
        """Forget session rows and item counts that are past their life; returns how many rows went.

        A store whose rows carry a time to live forgets by itself and has nothing left to do here.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
