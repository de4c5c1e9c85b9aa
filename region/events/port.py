"""The log's port: acknowledged means durable. SQLite fills it on one machine, Kafka in production."""

from collections.abc import Sequence
from typing import Protocol

from infra.contracts.events import LoggedEvent
from infra.contracts.residency import Global, RegionalMessage
from infra.plumbing.errors import UnavailableError
from region.keeping.deposits import Deposit
from region.store.port import OffsetEvent, Position


class LogUnavailableError(UnavailableError):
    """The log cannot take or give records now; nothing was acknowledged."""


class AppendResult(RegionalMessage, frozen=True, kw_only=True):
    """How many records were new, and how many were recognised as there already under the same event id."""

    accepted: Global[int]
    duplicates: Global[int]


class LogForgotten(RegionalMessage, frozen=True, kw_only=True):
    """What a log had of a subject that it forgot."""

    records: Global[int]
    through: Global[dict[int, int]]
    """Where each partition ended at that moment: what is logged behind came later."""
    keys: Global[int] = 0
    """Keys of the subject's records that went first: what copies of the log hold is opened by nobody any more."""
    kept_ms: Global[int] = 0
    """How long records that cannot be taken out are kept from now on at most."""


class Log(Protocol):
    """A durable record of events in one or more partitions, each of them ordered; a subject's events are in one.

    A record that was appended before (same subject, same event id) is left out where the log recognises it: SQLite as
    long as it keeps the record, Kafka as long as this process remembers it. What a log does not recognise the store
    does, when it is applied (`region.store.applying`, rule 3).
    """

    async def connect(self) -> None:
        """Have ready what appending needs, so that the first events do not wait for it; again is cheap.

        Raises:
            LogUnavailableError: what is needed does not answer.
        """
        ...

    async def append(self, records: Sequence[LoggedEvent]) -> AppendResult:
        """Returns only after the records survive kill -9 and power loss."""
        ...

    async def read(self, *, after: Position, limit: int) -> list[OffsetEvent]:
        """Records of the partitions that `after` names, behind their offsets, at most `limit` in all.

        Each partition's come in order and without a gap but for what was forgotten; how partitions are mixed is not
        said.
        """
        ...

    async def last_offsets(self) -> dict[int, int]:
        """Every partition with the highest offset ever given in it, 0 when none was.

        An offset never goes back, not even when records expire; the set of partitions never changes.
        """
        ...

    async def of_subject(self, subject: str, *, after: Position, limit: int) -> list[OffsetEvent]:
        """Records of one subject behind `after` (a partition that it does not name: from its start), in order."""
        ...

    async def count_of(self, subject: str) -> int:
        """How many records there are of a subject."""
        ...

    async def count_keys(self, subject: str) -> int:
        """How many keys there are under which the subject's records lie; 0 in a log without keys."""
        ...

    async def forget(self, subject: str) -> LogForgotten:
        """Erase every record of a subject, where the log can; returns when that is durable."""
        ...

    async def scrub(self) -> str:
        """Have the bytes of what was forgotten leave the log's files too; returns what cannot, "" if all did."""
        ...

    async def deposits(self, subject: str, *, erased_ms: int) -> tuple[Deposit, ...]:
        """Where bytes of records of a subject that was erased at a moment may still lie, and what they are good for."""
        ...

    async def key_deposits(self, *, erased_ms: int) -> tuple[Deposit, ...]:
        """The same of the subject's key; () in a log without keys."""
        ...

    async def erasures(self) -> object:
        """Another value after every erasure, whichever process of the region did it; compared for equality only."""
        ...

    async def renew(self) -> None:
        """Let go of what connections hold in memory of before; the next calls open them anew."""
        ...

    async def expire(self, *, before_ms: int) -> int:
        """Forget records received before a moment; returns how many."""
        ...

    async def close(self) -> None:
        """Let go of files."""
        ...
