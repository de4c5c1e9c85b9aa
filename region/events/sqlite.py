"""The log on one machine: SQLite in write-ahead mode with a sync at every commit, appended to in groups."""

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Histogram

from infra.contracts.events import LoggedEvent
from infra.plumbing.errors import SettingsError
from region.events.group_commit import GroupCommitter
from region.events.port import AppendResult, LogForgotten, LogUnavailableError
from region.events.records import decode_record
from region.keeping.deposits import COPIES_OF_THE_LOG, Deposit, in_file
from region.keeping.files import FileKeys
from region.keeping.sealing import Placed, SealedRecord, Seals, plain
from region.store.database import BUSY_TIMEOUT_S, Database, scrub, transaction
from region.store.driver import sqlite3
from region.store.lane import Lane, LaneMetrics
from region.store.port import OffsetEvent, Position

LOG_DATABASE = Database(name="log", application_id=0x41544C4C, sql=Path(__file__).parent / "sql", synchronous="FULL")
_TIMEOUT_S = BUSY_TIMEOUT_S + 5.0
_EXPIRE_CHUNK = 5000
"""Records deleted in one transaction: a long one would hold up the acknowledgements."""
SEAL_TRIES_MAX = 3
"""So often records are written when their subject's key is erased in between."""
_GROUP_ROWS_MAX = 2000
_GROUP_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


class SqliteLog:
    """`region.events.port.Log` over one file.

    Args:
        path: the file; made when it is not there.
        queue_max: events that may wait for the disk.
        registry: where groups and failures are counted.
        seals: put every record under its subject's key; closed with the log. None: records lie as they are.
        keys: encrypts the file; None: it lies in the clear.

    Raises:
        SettingsError: the file cannot be used; says what to do.
    """

    def __init__(
        self, path: Path, *, queue_max: int, registry: CollectorRegistry | None = None, seals: Seals | None = None,
        keys: FileKeys | None = None,
    ) -> None:  # fmt: skip
        registry = registry if registry is not None else CollectorRegistry()
        LOG_DATABASE.prepare(path, keys)
        self._seals = seals
        self._remains = ""
        self._queries = LOG_DATABASE.queries()
        groups = Histogram(
            "atoll_log_group_events", "Events written by one commit.", buckets=_GROUP_BUCKETS, registry=registry
        )
        self._commits = GroupCommitter(
            connect=partial(LOG_DATABASE.connect, path, read_only=False, keys=keys),
            insert=self._queries["append_record"], rows_max=queue_max, group_rows_max=_GROUP_ROWS_MAX,
            observe=groups.observe,
        )  # fmt: skip
        metrics = LaneMetrics(registry, "atoll_log")
        self._reads, self._deletes = (
            Lane(
                name=f"log-{name}", connect=partial(LOG_DATABASE.connect, path, read_only=name == "reads", keys=keys),
                queue_max=100, error_type=LogUnavailableError, metrics=metrics,
            )
            for name in ("reads", "deletes")
        )  # fmt: skip

    async def connect(self) -> None:
        """Nothing is to be connected: the file was opened at the start."""

    async def append(self, records: Sequence[LoggedEvent]) -> AppendResult:
        """Returns when the records are on the disk."""
        if self._seals is None:
            accepted = await self._commit(plain(records))
            return AppendResult(accepted=accepted, duplicates=len(records) - accepted)
        accepted, left = 0, records
        for _ in range(SEAL_TRIES_MAX):
            sealing = await self._seals.seal(left)
            # What is written again was counted when it was written first.
            taken = await self._commit(sealing.records)
            accepted = accepted or taken
            left = await self._seals.lost(sealing)
            if not left:
                return AppendResult(accepted=accepted, duplicates=len(records) - accepted)
        raise LogUnavailableError("a subject is erased again and again.", fix="Send its events later.")

    async def _commit(self, rows: Sequence[SealedRecord]) -> int:
        return await self._commits.append(
            [(one.received_ms, one.handle, one.mark, one.body) for one in rows], timeout_s=_TIMEOUT_S
        )

    async def read(self, *, after: Position, limit: int) -> list[OffsetEvent]:
        """Records behind `after`; there is one partition, 0."""
        if 0 not in after:
            return []
        return await self._open(self._queries["read_records"], after[0], limit)

    async def last_offsets(self) -> dict[int, int]:
        """The highest offset ever given."""

        def work(connection: sqlite3.Connection) -> dict[int, int]:
            found = connection.execute(self._queries["last_position"]).fetchone()
            return {0: int(found[0]) if found is not None else 0}

        return await self._reads.call(work, timeout_s=_TIMEOUT_S)

    async def of_subject(self, subject: str, *, after: Position, limit: int) -> list[OffsetEvent]:
        """Records of one subject behind `after`."""
        return await self._open(
            self._queries["read_subject"], subject, await self._handle(subject), after.get(0, 0), limit
        )  # fmt: skip

    async def count_of(self, subject: str) -> int:
        """How many records there are of a subject."""
        handle = await self._handle(subject)

        def work(connection: sqlite3.Connection) -> int:
            return int(connection.execute(self._queries["count_subject"], (subject, handle)).fetchone()[0])

        return await self._reads.call(work, timeout_s=_TIMEOUT_S)

    async def count_keys(self, subject: str) -> int:
        """Whether the subject has a key."""
        return 0 if self._seals is None else int(await self._seals.keys.of_subject(subject) is not None)

    async def forget(self, subject: str) -> LogForgotten:
        """Erase the subject's key, then every record, in one transaction."""
        handle = await self._handle(subject)
        keys = 0 if self._seals is None else await self._seals.forget(subject)

        def work(connection: sqlite3.Connection) -> LogForgotten:
            with transaction(connection):
                records = connection.execute(self._queries["forget_subject"], (subject, handle)).rowcount
                last = connection.execute(self._queries["last_position"]).fetchone()
            through = {0: int(last[0]) if last is not None else 0}
            return LogForgotten(records=records, keys=keys, through=through)

        return await self._deletes.call(work, timeout_s=_TIMEOUT_S)

    async def scrub(self) -> str:
        """See `region.store.database.scrub`."""
        if self._seals is None:
            self._remains = await self._deletes.call(scrub, timeout_s=_TIMEOUT_S)
            return self._remains
        self._remains, keys = await asyncio.gather(
            self._deletes.call(scrub, timeout_s=_TIMEOUT_S), self._seals.keys.scrub()
        )  # fmt: skip
        return keys or self._remains

    async def deposits(self, subject: str, *, erased_ms: int) -> tuple[Deposit, ...]:  # noqa: ARG002
        """The file, as the last scrub left it."""
        own = in_file("the log's file and its write-ahead log", remains=self._remains)
        return own if self._seals is None else (*own, COPIES_OF_THE_LOG)

    async def key_deposits(self, *, erased_ms: int) -> tuple[Deposit, ...]:
        """Of where keys are kept."""
        return () if self._seals is None else await self._seals.keys.deposits(erased_ms=erased_ms)

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
        if self._seals is not None:
            await self._seals.expire(before_ms=before_ms)
        return total

    async def erasures(self) -> object:
        """Another value after every erasure, whichever process of the region did it; compared for equality only."""
        return None if self._seals is None else await self._seals.keys.epoch()

    async def renew(self) -> None:
        """Open connections anew: what they held in memory is freed."""
        await self._commits.renew()
        await self._reads.renew()
        await self._deletes.renew()
        if self._seals is not None:
            await self._seals.renew()

    async def close(self) -> None:
        """Commit what is queued and let go of the file."""
        await self._commits.close()
        await self._reads.close()
        await self._deletes.close()
        if self._seals is not None:
            await self._seals.keys.close()

    async def _handle(self, subject: str) -> str:
        """By what records call the subject; its own name, as in records of before there were keys, when it has none."""
        handle = None if self._seals is None else await self._seals.handle_of_subject(subject)
        return subject if handle is None else handle

    async def _open(self, query: str, *wanted: str | int) -> list[OffsetEvent]:
        def work(connection: sqlite3.Connection) -> list[tuple[int, bytes]]:
            return connection.execute(query, wanted).fetchall()

        found = await self._reads.call(work, timeout_s=_TIMEOUT_S)
        if self._seals is None:
            return [decode_record(position, body) for position, body in found]
        return await self._seals.open([Placed(0, position, body) for position, body in found])


def require_no_sealed_records(path: Path, keys: FileKeys) -> None:
    """Refuse to go on with fresh keys beside a log whose records lie under others: all of them would be lost quietly.

    Raises:
        SettingsError: there are such records.
    """
    if not path.exists():
        return
    LOG_DATABASE.prepare(path, keys)
    connection = LOG_DATABASE.connect(path, read_only=True, keys=keys)
    try:
        if connection.execute(LOG_DATABASE.queries()["sealed_record"]).fetchone() is not None:
            raise SettingsError(
                f"{path} holds records under their subjects' keys, and the keys are not there.",
                fix="Restore subject-keys.sqlite (with its .key) beside it, or start from an empty state directory.",
            )
    finally:
        connection.close()
