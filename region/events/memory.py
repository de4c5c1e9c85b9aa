"""The log in memory: what tests and other packages use in place of a file. Same rules, nothing durable."""

from bisect import bisect_right
from collections.abc import Sequence

from infra.contracts.events import LoggedEvent
from infra.plumbing.errors import OverloadedError
from region.events.port import AppendResult, LogForgotten, LogUnavailableError
from region.keeping.deposits import Deposit, in_memory
from region.store.port import OffsetEvent, Position


class MemoryLog:
    """`region.events.port.Log` over a list. Set `available` to False to see how callers bear its loss."""

    def __init__(self, *, records_max: int = 1_000_000) -> None:
        self.available = True
        self._records_max = records_max
        self._records: list[OffsetEvent] = []
        self._ids: set[tuple[str, str]] = set()
        self._last_offset = 0
        self._erasures = 0

    async def connect(self) -> None:
        """Nothing is to be connected."""
        self._require()

    async def append(self, records: Sequence[LoggedEvent]) -> AppendResult:
        """Take the records whose ids are new."""
        self._require()
        if len(self._records) + len(records) > self._records_max:
            raise OverloadedError("the log in memory is full.")
        accepted = 0
        for record in records:
            identity = (record.subject, record.event.event_id)
            if identity in self._ids:
                continue
            accepted += 1
            self._last_offset += 1
            self._ids.add(identity)
            self._records.append(OffsetEvent(offset=self._last_offset, logged=record))
        return AppendResult(accepted=accepted, duplicates=len(records) - accepted)

    async def read(self, *, after: Position, limit: int) -> list[OffsetEvent]:
        """Records behind `after`; there is one partition, 0."""
        self._require()
        if 0 not in after:
            return []
        start = bisect_right(self._records, after[0], key=lambda record: record.offset)
        return self._records[start : start + limit]

    async def last_offsets(self) -> dict[int, int]:
        """The highest offset ever given."""
        self._require()
        return {0: self._last_offset}

    async def of_subject(self, subject: str, *, after: Position, limit: int) -> list[OffsetEvent]:
        """Records of one subject behind `after`."""
        self._require()
        start = after.get(0, 0)
        return [one for one in self._records if one.offset > start and one.logged.subject == subject][:limit]

    async def count_of(self, subject: str) -> int:
        """How many records there are of a subject."""
        self._require()
        return sum(one.logged.subject == subject for one in self._records)

    async def count_keys(self, subject: str) -> int:  # noqa: ARG002 - nothing lies under a key
        """None: memory is no copy."""
        return 0

    async def forget(self, subject: str) -> LogForgotten:
        """Erase every record of a subject."""
        self._require()
        self._erasures += 1
        kept = [one for one in self._records if one.logged.subject != subject]
        gone, self._records = len(self._records) - len(kept), kept
        self._ids = {identity for identity in self._ids if identity[0] != subject}
        return LogForgotten(records=gone, through={0: self._last_offset})

    async def scrub(self) -> str:
        """Nothing is on a disk."""
        return ""

    async def deposits(self, subject: str, *, erased_ms: int) -> tuple[Deposit, ...]:  # noqa: ARG002
        """Nothing is on a disk."""
        return in_memory()

    async def key_deposits(self, *, erased_ms: int) -> tuple[Deposit, ...]:  # noqa: ARG002
        """There are no keys."""
        return ()

    async def expire(self, *, before_ms: int) -> int:
        """Forget the oldest records, up to the first one received at `before_ms` or later."""
        self._require()
        count = 0
        while count < len(self._records) and self._records[count].logged.received_ms < before_ms:
            logged = self._records[count].logged
            self._ids.discard((logged.subject, logged.event.event_id))
            count += 1
        del self._records[:count]
        return count

    async def erasures(self) -> object:
        """Another value after every erasure, whichever process of the region did it; compared for equality only."""
        return self._erasures

    async def renew(self) -> None:
        """Nothing is held that could be let go of from here."""

    async def close(self) -> None:
        """Nothing to let go of."""

    def _require(self) -> None:
        if not self.available:
            raise LogUnavailableError("the log does not answer.")
