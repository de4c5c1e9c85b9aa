"""The store on one machine: SQLite in write-ahead mode, so that readers read while the worker writes.

Three lanes: single-row reads never wait behind a scan or a write of the same process. Commits are `NORMAL`: after a
power loss the last batches may be gone together with their offset, and the worker applies them again from the log.
An opt-out is nowhere else, so its commit is synced.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from prometheus_client import CollectorRegistry

from infra.contracts.features import ITEM_BUCKET_MS, TREND_BUCKET_MS
from infra.plumbing.clock import Clock
from region.keeping.deposits import Deposit, in_file
from region.keeping.files import FileKeys
from region.store.aggregates import EVERYTHING, ITEM, TREND, AggregateKey, counted_anew, merge_trends, sum_counters
from region.store.applying import ApplyRules, apply_events, bare_state, choose, replace_state
from region.store.database import BUSY_TIMEOUT_S, Database, durable, scrub, transaction
from region.store.driver import sqlite3
from region.store.lane import Lane, LaneMetrics, Work
from region.store.port import (
    AppliedChange,
    Erasure,
    Forgotten,
    ItemCount,
    ItemCounters,
    OffsetEvent,
    StoreUnavailableError,
    UserRow,
    Walk,
    walked,
)
from region.store.state import (
    SubjectState,
    begin_state,
    decode_erasure,
    decode_state,
    encode_content,
    encode_erasure,
    encode_notes,
    row_of,
    to_row,
    upgrade_content,
    upgrade_notes,
)
from region.store.subjects import erasure_mark, is_session

T = TypeVar("T")
STORE_DATABASE = Database(
    name="store", application_id=0x41544C53, sql=Path(__file__).parent / "sql", synchronous="NORMAL",
    functions={"upgrade_content": upgrade_content, "upgrade_notes": upgrade_notes},
)  # fmt: skip
_WRITE_TIMEOUT_S = BUSY_TIMEOUT_S + 5.0
_EXPIRE_CHUNK = 2000
"""Rows deleted in one transaction: a long one would hold up the worker."""


class SqliteStore:
    """`region.store.port.Store` over one file.

    Args:
        path: the file; made when it is not there.
        clock: for what the store itself notes (opt-outs).
        history_max: entries kept per subject, unless `rules` say more.
        rules: how events are applied.
        registry: where calls that could not be served are counted.
        read_timeout_s: how long a single-row read may take before `StoreUnavailableError`.
        scan_timeout_s: the same for `trending` and `item_counters`.
        queue_max: calls that may wait in each lane.
        keys: encrypts the file; None: it lies in the clear.

    Raises:
        SettingsError: the file cannot be used; says what to do.
    """

    def __init__(
        self, path: Path, *, clock: Clock, history_max: int = 200, rules: ApplyRules | None = None,
        registry: CollectorRegistry | None = None, read_timeout_s: float = 0.1, scan_timeout_s: float = 2.0,
        queue_max: int = 1000, keys: FileKeys | None = None,
    ) -> None:  # fmt: skip
        STORE_DATABASE.prepare(path, keys)
        self._remains = ""
        self._queries = STORE_DATABASE.queries()
        self._clock = clock
        self._rules = rules if rules is not None else ApplyRules(history_max=history_max)
        self._read_timeout_s = read_timeout_s
        self._scan_timeout_s = scan_timeout_s
        metrics = LaneMetrics(registry if registry is not None else CollectorRegistry(), "atoll_store")
        self._reads, self._scans, self._writes = (
            Lane(
                name=f"store-{name}", queue_max=queue_max,
                connect=partial(STORE_DATABASE.connect, path, read_only=name != "writes", keys=keys),
                error_type=StoreUnavailableError, metrics=metrics,
            )
            for name in ("reads", "scans", "writes")
        )  # fmt: skip

    async def read(self, subject: str) -> UserRow | None:
        """The subject's row, or None."""

        def work(connection: sqlite3.Connection) -> UserRow | None:
            found = connection.execute(self._queries["read_subject"], (subject,)).fetchone()
            if found is not None:
                return row_of(subject, found[0])
            erasure = self._load_erasure(connection, subject)
            return to_row(subject, begin_state(erasure).row) if erasure is not None else None

        return await self._reads.call(work, timeout_s=self._read_timeout_s)

    async def apply(self, events: Sequence[OffsetEvent]) -> list[AppliedChange]:
        """Apply events behind the applied offset, in one transaction."""

        def work(connection: sqlite3.Connection) -> list[AppliedChange]:
            with transaction(connection):
                outcome = apply_events(
                    events,
                    applied=self._read_offsets(connection),
                    load=partial(self._load, connection),
                    load_aggregate=partial(self._load_aggregate, connection),
                    load_erasure=partial(self._load_erasure, connection),
                    rules=self._rules,
                )
                self._save_aggregates(connection, outcome.aggregates)
                self._save(connection, outcome.states)
                connection.executemany(self._queries["save_offset"], outcome.offsets.items())
            return outcome.changes

        return await self._write(work)

    async def applied_offsets(self) -> dict[int, int]:
        """The offset up to which each partition's events are applied."""
        return await self._reads.call(self._read_offsets, timeout_s=self._read_timeout_s)

    async def set_opt_out(self, subject: str, *, opted_out: bool) -> int:
        """Set the subject's choice, synced to the disk; returns the new version."""

        def work(connection: sqlite3.Connection) -> int:
            with durable(connection, STORE_DATABASE), transaction(connection):
                state = self._load(connection, subject) or begin_state(self._load_erasure(connection, subject))
                version = choose(state, opted_out=opted_out, now_ms=self._clock.now_ms())
                self._save(connection, {subject: state})
            return version

        return await self._write(work)

    async def write_rows(self, rows: Sequence[UserRow]) -> None:
        """Put whole rows, in one transaction."""

        def work(connection: sqlite3.Connection) -> None:
            now_ms = self._clock.now_ms()
            with transaction(connection):
                states = {
                    row.subject: replace_state(
                        self._load(connection, row.subject), row, now_ms=now_ms, rules=self._rules
                    )
                    for row in rows
                    if self._load_erasure(connection, row.subject) is None
                }
                self._save(connection, states)

        await self._write(work)

    async def walk(self, *, after: str, limit: int) -> Walk:
        """Users' rows behind `after`, by subject."""

        def work(connection: sqlite3.Connection) -> Walk:
            found = connection.execute(self._queries["walk_users"], (after, limit)).fetchall()
            return walked([row_of(subject, content) for subject, content in found], limit=limit)

        return await self._scans.call(work, timeout_s=self._scan_timeout_s)

    async def write_counts(self, events: Sequence[OffsetEvent]) -> None:
        """Count imported events over items, in one transaction."""

        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                load = partial(self._load_aggregate, connection)
                self._save_aggregates(connection, counted_anew(events, load, weights=self._rules.weights))

        await self._write(work)

    async def trending(self, *, since_ms: int, limit: int, category: str | None = None) -> list[ItemCount]:
        """Items by points since a moment (to the bucket), most first."""
        wanted = (TREND, EVERYTHING if category is None else category, since_ms - TREND_BUCKET_MS)

        def work(connection: sqlite3.Connection) -> list[ItemCount]:
            found = connection.execute(self._queries["trending"], wanted)
            return merge_trends((content for (content,) in found), limit=limit)

        return await self._scans.call(work, timeout_s=self._scan_timeout_s)

    async def item_counters(self, *, since_ms: int, limit: int) -> list[ItemCounters]:
        """Counters of the items most shown or interacted with since a moment (to the day)."""

        def work(connection: sqlite3.Connection) -> list[ItemCounters]:
            return sum_counters(
                connection.execute(self._queries["item_counters"], (ITEM, since_ms - ITEM_BUCKET_MS)), limit=limit
            )

        return await self._scans.call(work, timeout_s=self._scan_timeout_s)

    async def forget(self, subject: str, erasure: Erasure) -> Forgotten:
        """Erase the subject's row and keep the erasure, synced to the disk."""

        def work(connection: sqlite3.Connection) -> Forgotten:
            with durable(connection, STORE_DATABASE), transaction(connection):
                state = self._load(connection, subject)
                version = state.row.version if state is not None else 0
                kept = erasure.after(self._load_erasure(connection, subject), version=version)
                rows = connection.execute(self._queries["forget_subject"], (subject,)).rowcount
                mark = (erasure_mark(subject), kept.erased_ms, encode_erasure(kept))
                connection.execute(self._queries["save_erasure"], mark)
            return Forgotten(rows=rows, erasure=kept)

        return await self._write(work)

    async def erasure(self, subject: str) -> Erasure | None:
        """The erasure kept of a subject."""
        return await self._reads.call(
            lambda connection: self._load_erasure(connection, subject), timeout_s=self._read_timeout_s
        )

    async def holds(self, subject: str) -> int:
        """Rows kept of a subject."""

        def work(connection: sqlite3.Connection) -> int:
            return int(connection.execute(self._queries["count_subject"], (subject,)).fetchone()[0])

        return await self._reads.call(work, timeout_s=self._read_timeout_s)

    async def scrub(self) -> str:
        """See `region.store.database.scrub`."""
        self._remains = await self._write(scrub)
        return self._remains

    async def deposits(self, *, erased_ms: int) -> tuple[Deposit, ...]:  # noqa: ARG002
        """The file, as the last scrub left it."""
        return in_file("the store's file and its write-ahead log", remains=self._remains)

    async def expire(
        self, *, sessions_before_ms: int, counts_before_ms: int, users_before_ms: int = 0, erasures_before_ms: int = 0
    ) -> int:  # fmt: skip
        """Forget old sessions, counts and rows, a chunk a transaction; returns how many."""
        gone = await self._delete("expire_sessions", sessions_before_ms)
        gone += await self._delete("expire_users", users_before_ms)
        gone += await self._bare_choices(users_before_ms)
        gone += await self._delete("expire_erasures", erasures_before_ms)
        gone += await self._delete("expire_aggregates", TREND, counts_before_ms - TREND_BUCKET_MS)
        return gone + await self._delete("expire_aggregates", ITEM, counts_before_ms - ITEM_BUCKET_MS)

    async def renew(self) -> None:
        """Open connections anew: what they held in memory is freed."""
        for lane in (self._reads, self._scans, self._writes):
            await lane.renew()

    async def close(self) -> None:
        """Finish what is queued and let go of the file."""
        for lane in (self._reads, self._scans, self._writes):
            await lane.close()

    async def _write(self, work: Work[T]) -> T:
        return await self._writes.call(work, timeout_s=_WRITE_TIMEOUT_S)

    async def _delete(self, query: str, *wanted: str | int) -> int:
        def work(connection: sqlite3.Connection) -> int:
            return connection.execute(self._queries[query], (*wanted, _EXPIRE_CHUNK)).rowcount

        total = 0
        while deleted := await self._write(work):
            total += deleted
        return total

    async def _bare_choices(self, before_ms: int) -> int:
        """Leave nothing but the choice in rows of users who opted out and were not heard of since."""

        def work(connection: sqlite3.Connection) -> int:
            now_ms = self._clock.now_ms()
            with transaction(connection):
                found = connection.execute(self._queries["old_choices"], (before_ms, _EXPIRE_CHUNK)).fetchall()
                self._save(
                    connection,
                    {
                        subject: bare_state(decode_state(content, notes), now_ms=max(now_ms, before_ms))
                        for subject, content, notes in found
                    },
                )
            return len(found)

        total = 0
        while bared := await self._write(work):
            total += bared
        return total

    def _read_offsets(self, connection: sqlite3.Connection) -> dict[int, int]:
        return dict(connection.execute(self._queries["read_offsets"]).fetchall())

    def _load(self, connection: sqlite3.Connection, subject: str) -> SubjectState | None:
        found = connection.execute(self._queries["load_state"], (subject,)).fetchone()
        return decode_state(*found) if found is not None else None

    def _load_erasure(self, connection: sqlite3.Connection, subject: str) -> Erasure | None:
        found = connection.execute(self._queries["load_erasure"], (erasure_mark(subject),)).fetchone()
        return decode_erasure(found[0]) if found is not None else None

    def _load_aggregate(self, connection: sqlite3.Connection, key: AggregateKey) -> bytes | None:
        found = connection.execute(self._queries["load_aggregate"], key).fetchone()
        return found[0] if found is not None else None

    def _save_aggregates(self, connection: sqlite3.Connection, changed: dict[AggregateKey, bytes]) -> None:
        connection.executemany(
            self._queries["save_aggregate"], [(*key, content) for key, content in changed.items()]
        )  # fmt: skip

    def _save(self, connection: sqlite3.Connection, states: dict[str, SubjectState]) -> None:
        rows = [
            {
                "subject": subject, "session": is_session(subject), "opted_out": state.row.opted_out,
                "touched_ms": state.row.touched_ms, "content": encode_content(state), "notes": encode_notes(state),
            }
            for subject, state in states.items()
        ]  # fmt: skip
        connection.executemany(self._queries["save_state"], rows)
