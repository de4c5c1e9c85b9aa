"""The log on one machine: SQLite in write-ahead mode with a sync at every commit, appended to in groups."""

import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Histogram

from infra.contracts.events import LoggedEvent
from region.events.group_commit import GroupCommitter
from region.events.port import AppendResult, LogForgotten, LogUnavailableError
from region.events.records import decode_record, encode_record
from region.store.database import BUSY_TIMEOUT_S, Database, scrub, transaction
from region.store.lane import Lane, LaneMetrics
from region.store.port import OffsetEvent, Position

LOG_DATABASE = Database(name="log", application_id=0x41544C4C, sql=Path(__file__).parent / "sql", synchronous="FULL")
_TIMEOUT_S = BUSY_TIMEOUT_S + 5.0
_EXPIRE_CHUNK = 5000
"""Records deleted in one transaction: a long one would hold up the acknowledgements."""
_GROUP_ROWS_MAX = 2000
_GROUP_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


class SqliteLog:
    """`region.events.port.Log` over one file.

    Args:
        path: the file; made when it is not there.
        queue_max: events that may wait for the disk.
        registry: where groups and failures are counted.

    Raises:
        SettingsError: the file cannot be used; says what to do.
    """

    def __init__(self, path: Path, *, queue_max: int, registry: CollectorRegistry | None = None) -> None:
        registry = registry if registry is not None else CollectorRegistry()
        LOG_DATABASE.prepare(path)
        self._queries = LOG_DATABASE.queries()
        groups = Histogram(
            "atoll_log_group_events", "Events written by one commit.", buckets=_GROUP_BUCKETS, registry=registry
        )
        self._commits = GroupCommitter(
            connect=partial(LOG_DATABASE.connect, path, read_only=False), insert=self._queries["append_record"],
            rows_max=queue_max, group_rows_max=_GROUP_ROWS_MAX, observe=groups.observe,
        )  # fmt: skip
        metrics = LaneMetrics(registry, "atoll_log")
        self._reads, self._deletes = (
            Lane(
                name=f"log-{name}", connect=partial(LOG_DATABASE.connect, path, read_only=name == "reads"),
                queue_max=100, error_type=LogUnavailableError, metrics=metrics,
            )
            for name in ("reads", "deletes")
        )  # fmt: skip

    async def connect(self) -> None:
        """Nothing is to be connected: the file was opened at the start."""

    async def append(self, records: Sequence[LoggedEvent]) -> AppendResult:
        """Returns when the records are on the disk."""
        rows = [
            (record.received_ms, record.subject, record.event.event_id, encode_record(record)) for record in records
        ]
        accepted = await self._commits.append(rows, timeout_s=_TIMEOUT_S)
        return AppendResult(accepted=accepted, duplicates=len(rows) - accepted)

    async def read(self, *, after: Position, limit: int) -> list[OffsetEvent]:
        """Records behind `after`; there is one partition, 0."""
        if 0 not in after:
            return []

        def work(connection: sqlite3.Connection) -> list[OffsetEvent]:
            found = connection.execute(self._queries["read_records"], (after[0], limit))
            return [decode_record(position, body) for position, body in found]

        return await self._reads.call(work, timeout_s=_TIMEOUT_S)

    async def last_offsets(self) -> dict[int, int]:
        """The highest offset ever given."""

        def work(connection: sqlite3.Connection) -> dict[int, int]:
            found = connection.execute(self._queries["last_position"]).fetchone()
            return {0: int(found[0]) if found is not None else 0}

        return await self._reads.call(work, timeout_s=_TIMEOUT_S)

    async def of_subject(self, subject: str, *, after: Position, limit: int) -> list[OffsetEvent]:
        """Records of one subject behind `after`."""

        def work(connection: sqlite3.Connection) -> list[OffsetEvent]:
            found = connection.execute(self._queries["read_subject"], (subject, after.get(0, 0), limit))
            return [decode_record(position, body) for position, body in found]

        return await self._reads.call(work, timeout_s=_TIMEOUT_S)

    async def count_of(self, subject: str) -> int:
        """How many records there are of a subject."""

        def work(connection: sqlite3.Connection) -> int:
            return int(connection.execute(self._queries["count_subject"], (subject,)).fetchone()[0])

        return await self._reads.call(work, timeout_s=_TIMEOUT_S)

    async def forget(self, subject: str) -> LogForgotten:
        """Erase every record of a subject, in one transaction."""

        def work(connection: sqlite3.Connection) -> LogForgotten:
            with transaction(connection):
                records = connection.execute(self._queries["forget_subject"], (subject,)).rowcount
                last = connection.execute(self._queries["last_position"]).fetchone()
            return LogForgotten(records=records, through={0: int(last[0]) if last is not None else 0})

        return await self._deletes.call(work, timeout_s=_TIMEOUT_S)

    async def scrub(self) -> str:
        """See `region.store.database.scrub`."""
        return await self._deletes.call(scrub, timeout_s=_TIMEOUT_S)

    async def expire(self, *, before_ms: int) -> int:
        """Forget the oldest records, up to the first one received at `before_ms` or later."""

        def find(connection: sqlite3.Connection) -> int:
            return int(connection.execute(self._queries["first_kept"], (before_ms,)).fetchone()[0])

        def delete(connection: sqlite3.Connection) -> int:
            return connection.execute(self._queries["expire_records"], (first_kept, _EXPIRE_CHUNK)).rowcount

        first_kept = await self._deletes.call(find, timeout_s=_TIMEOUT_S)
        total = 0
        while deleted := await self._deletes.call(delete, timeout_s=_TIMEOUT_S):
            total += deleted
        return total

    async def close(self) -> None:
        """Commit what is queued and let go of the file."""
        await self._commits.close()
        await self._reads.close()
        await self._deletes.close()
