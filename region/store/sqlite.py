"""The store on one machine: SQLite in write-ahead mode, so that readers read while the worker writes.

Three lanes: single-row reads never wait behind a scan or a write of the same process. Commits are `NORMAL`: after a
power loss the last batches may be gone together with their offset, and the worker applies them again from the log.
An opt-out is nowhere else, so its commit is synced.
"""

import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
from prometheus_client import CollectorRegistry

from infra.plumbing.clock import Clock
from region.store.applying import BUCKET_MS, SubjectState, apply_events, replace_state, state_of
from region.store.database import BUSY_TIMEOUT_S, Database, transaction
from region.store.lane import Lane, LaneMetrics, Work
from region.store.port import AppliedChange, HistoryEntry, ItemCount, OffsetEvent, StoreUnavailableError, UserRow
from region.store.subjects import is_session

T = TypeVar("T")
STORE_DATABASE = Database(
    name="store", application_id=0x41544C53, sql=Path(__file__).parent / "sql", synchronous="NORMAL"
)
_WRITE_TIMEOUT_S = BUSY_TIMEOUT_S + 5.0
_EXPIRE_CHUNK = 2000
"""Rows deleted in one transaction: a long one would hold up the worker."""


class _Columns(msgspec.Struct, array_like=True, frozen=True):
    """A history as it is stored: msgpack, by column, oldest first."""

    items: list[str]
    strengths: list[int]
    times_ms: list[int]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Columns)


class SqliteStore:
    """`region.store.port.Store` over one file.

    Args:
        path: the file; made when it is not there.
        clock: for what the store itself notes (opt-outs).
        history_max: entries kept per subject.
        registry: where calls that could not be served are counted.
        read_timeout_s: how long a single-row read may take before `StoreUnavailableError`.
        scan_timeout_s: the same for `trending`.
        queue_max: calls that may wait in each lane.

    Raises:
        SettingsError: the file cannot be used; says what to do.
    """

    def __init__(
        self, path: Path, *, clock: Clock, history_max: int, registry: CollectorRegistry | None = None,
        read_timeout_s: float = 0.1, scan_timeout_s: float = 2.0, queue_max: int = 1000,
    ) -> None:  # fmt: skip
        STORE_DATABASE.prepare(path)
        self._queries = STORE_DATABASE.queries()
        self._clock = clock
        self._history_max = history_max
        self._read_timeout_s = read_timeout_s
        self._scan_timeout_s = scan_timeout_s
        metrics = LaneMetrics(registry if registry is not None else CollectorRegistry(), "atoll_store")
        self._reads, self._scans, self._writes = (
            Lane(
                name=f"store-{name}", connect=partial(STORE_DATABASE.connect, path, read_only=name != "writes"),
                queue_max=queue_max, error_type=StoreUnavailableError, metrics=metrics,
            )
            for name in ("reads", "scans", "writes")
        )  # fmt: skip

    async def read(self, subject: str) -> UserRow | None:
        """The subject's row, or None."""

        def work(connection: sqlite3.Connection) -> UserRow | None:
            found = connection.execute(self._queries["read_subject"], (subject,)).fetchone()
            return _to_row(subject, found) if found is not None else None

        return await self._reads.call(work, timeout_s=self._read_timeout_s)

    async def apply(self, events: Sequence[OffsetEvent]) -> list[AppliedChange]:
        """Apply events behind the applied offset, in one transaction."""

        def work(connection: sqlite3.Connection) -> list[AppliedChange]:
            with transaction(connection):
                outcome = apply_events(
                    events,
                    applied=self._read_offsets(connection),
                    load=partial(self._load, connection),
                    history_max=self._history_max,
                )
                self._save(connection, outcome.states)
                counts = [(bucket_ms, item, count) for (bucket_ms, item), count in outcome.counts.items()]
                connection.executemany(self._queries["add_count"], counts)
                connection.executemany(self._queries["save_offset"], outcome.offsets.items())
            return outcome.changes

        return await self._write(work)

    async def applied_offsets(self) -> dict[int, int]:
        """The offset up to which each partition's events are applied."""
        return await self._reads.call(self._read_offsets, timeout_s=self._read_timeout_s)

    async def set_opt_out(self, subject: str, *, opted_out: bool) -> int:
        """Set the subject's choice, synced to the disk; returns the new version."""

        def work(connection: sqlite3.Connection) -> int:
            connection.execute("PRAGMA synchronous = FULL")
            try:
                with transaction(connection):
                    state = self._load(connection, subject) or SubjectState()
                    state.opted_out = opted_out
                    state.version += 1
                    state.touched_ms = self._clock.now_ms()
                    self._save(connection, {subject: state})
            finally:
                connection.execute(f"PRAGMA synchronous = {STORE_DATABASE.synchronous}")
            return state.version

        return await self._write(work)

    async def write_rows(self, rows: Sequence[UserRow]) -> None:
        """Put whole rows, in one transaction."""

        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                states = {
                    row.subject: replace_state(
                        self._load(connection, row.subject), state_of(row), history_max=self._history_max
                    )
                    for row in rows
                }
                self._save(connection, states)

        await self._write(work)

    async def trending(self, *, since_ms: int, limit: int) -> list[ItemCount]:
        """Items by interactions since a moment (to the bucket), most first."""

        def work(connection: sqlite3.Connection) -> list[ItemCount]:
            found = connection.execute(self._queries["trending"], (since_ms - BUCKET_MS, limit))
            return [ItemCount(item=item, count=float(count)) for item, count in found]

        return await self._scans.call(work, timeout_s=self._scan_timeout_s)

    async def expire(self, *, sessions_before_ms: int, counts_before_ms: int) -> int:
        """Forget old sessions and counts, a chunk a transaction; returns how many."""
        sessions = await self._delete("expire_sessions", sessions_before_ms)
        return sessions + await self._delete("expire_counts", counts_before_ms - BUCKET_MS)

    async def close(self) -> None:
        """Finish what is queued and let go of the file."""
        for lane in (self._reads, self._scans, self._writes):
            await lane.close()

    async def _write(self, work: Work[T]) -> T:
        return await self._writes.call(work, timeout_s=_WRITE_TIMEOUT_S)

    async def _delete(self, query: str, before_ms: int) -> int:
        def work(connection: sqlite3.Connection) -> int:
            return connection.execute(self._queries[query], (before_ms, _EXPIRE_CHUNK)).rowcount

        total = 0
        while deleted := await self._write(work):
            total += deleted
        return total

    def _read_offsets(self, connection: sqlite3.Connection) -> dict[int, int]:
        return dict(connection.execute(self._queries["read_offsets"]).fetchall())

    def _load(self, connection: sqlite3.Connection, subject: str) -> SubjectState | None:
        found = connection.execute(self._queries["load_state"], (subject,)).fetchone()
        if found is None:
            return None
        version, impressions, opted_out, last_event_ms, touched_ms, history, event_ids = found
        columns = _DECODER.decode(history)
        return SubjectState(
            version=version, items=columns.items, strengths=columns.strengths, times_ms=columns.times_ms,
            impressions=impressions, opted_out=bool(opted_out), last_event_ms=last_event_ms, touched_ms=touched_ms,
            event_ids=event_ids,
        )  # fmt: skip

    def _save(self, connection: sqlite3.Connection, states: dict[str, SubjectState]) -> None:
        rows = [
            {
                "subject": subject, "session": is_session(subject), "version": state.version,
                "impressions": state.impressions, "opted_out": state.opted_out,
                "last_event_ms": state.last_event_ms, "touched_ms": state.touched_ms,
                "history": _ENCODER.encode(_Columns(state.items, state.strengths, state.times_ms)),
                "event_ids": state.event_ids,
            }
            for subject, state in states.items()
        ]  # fmt: skip
        connection.executemany(self._queries["save_state"], rows)


def _to_row(subject: str, found: tuple[int, int, int, int, bytes]) -> UserRow:
    version, impressions, opted_out, last_event_ms, history = found
    columns = _DECODER.decode(history)
    entries = zip(columns.items, columns.strengths, columns.times_ms, strict=True)
    return UserRow(
        subject=subject,
        version=version,
        history=tuple(HistoryEntry(item=item, strength=strength, at_ms=at_ms) for item, strength, at_ms in entries),
        impressions=impressions,
        opted_out=bool(opted_out),
        last_event_ms=last_event_ms,
    )
