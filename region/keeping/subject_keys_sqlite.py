"""Subjects' keys on one machine: a SQLite file of their own beside the log, so that a backup can leave them out.

`subject-keys.epoch` beside it is written anew by every erasure: looking at a file's times costs a microsecond, which
is what an append can afford.
"""

import os
import secrets
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

from infra.plumbing.errors import UnavailableError
from infra.plumbing.files import write_atomically
from region.events.group_commit import GroupCommitter
from region.keeping.deposits import Deposit, in_file
from region.keeping.files import FileKeys
from region.keeping.subject_keys import (
    USED_STEP_DAYS,
    SubjectKey,
    at_ease,
    new_handle,
    new_key,
    unwrap_key,
    wrap_key,
)
from region.keeping.wrapping import KeysUnavailableError, Wrapping
from region.store.database import BUSY_TIMEOUT_S, Database, scrub, transaction
from region.store.driver import sqlite3
from region.store.lane import Lane, LaneMetrics

FILE = "subject-keys.sqlite"
SUBJECT_KEYS = Database(
    name="file of subjects' keys", application_id=0x41544C4B, sql=Path(__file__).parent / "sql", synchronous="FULL"
)  # fmt: skip
_TIMEOUT_S = BUSY_TIMEOUT_S + 5.0
_WAITING_MAX = 10_000
_GROUP_MAX = 2_000
_PAGE = 1_000


class SqliteSubjectKeys:
    """`region.keeping.subject_keys.SubjectKeys` over `subject-keys.sqlite` in a directory.

    Raises:
        SettingsError: the file cannot be used; says what to do.
    """

    def __init__(
        self, directory: Path, *, wrapping: Wrapping, registry: CollectorRegistry | None = None
    ) -> None:  # fmt: skip
        path, files = directory / FILE, FileKeys(wrapping)
        self.is_new = not path.exists()
        SUBJECT_KEYS.prepare(path, files)
        self._wrapping = wrapping
        self._epoch = directory / "subject-keys.epoch"
        self._remains = ""
        self._queries = SUBJECT_KEYS.queries()
        metrics = LaneMetrics(registry if registry is not None else CollectorRegistry(), "atoll_keys")
        self._reads, self._writes = (
            Lane(
                name=f"keys-{name}", queue_max=1_000, error_type=KeysUnavailableError, metrics=metrics,
                connect=partial(SUBJECT_KEYS.connect, path, read_only=name == "reads", keys=files),
            )
            for name in ("reads", "writes")
        )  # fmt: skip
        self._commits = GroupCommitter(
            connect=partial(SUBJECT_KEYS.connect, path, read_only=False, keys=files),
            insert=self._queries["add_key"], rows_max=_WAITING_MAX, group_rows_max=_GROUP_MAX, observe=lambda _: None,
        )  # fmt: skip

    async def for_writing(self, subjects: Collection[str], *, today: int) -> dict[str, SubjectKey]:
        """The keys of subjects, made where there is none."""
        found = await self._by_subjects(subjects)
        missing = [one for one in subjects if one not in found]
        if missing:
            await self._make(missing, today)
            found |= await self._by_subjects(missing)
        stale = [key.subject for key in found.values() if key.used_day <= today - USED_STEP_DAYS]
        if stale:
            await self._write("note_use", today, msgspec.json.encode(stale).decode())
            found |= {one: replace(found[one], used_day=today) for one in stale}
        if len(found) < len(set(subjects)):
            raise KeysUnavailableError("a subject's key was erased while it was made.", fix="Send it again.")
        return found

    async def of_subject(self, subject: str) -> SubjectKey | None:
        """A subject's key."""
        return (await self._by_subjects([subject])).get(subject)

    async def by_handles(self, handles: Collection[str]) -> dict[str, SubjectKey]:
        """The keys of handles."""
        return {key.handle: key for key in await self._read("by_handles", handles)}

    async def epoch(self) -> object:
        """Which file the epoch's is, and since when."""
        try:
            found = os.stat(self._epoch)
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

    async def forget(self, subject: str) -> int:
        """Erase a subject's key; the epoch behind it, so that who sees the old one came before the end of this."""
        gone = await self._write("forget_key", subject)
        write_atomically(self._epoch, secrets.token_hex(8).encode())
        return gone

    async def expire(self, *, before_day: int) -> int:
        """Erase keys of before a day, a chunk a transaction."""
        total = 0
        while gone := await self._write("expire_keys", before_day):
            total += gone
        return total

    async def rewrap(self) -> int:
        """Wrap every key by the newest root key, a page a transaction."""
        changed, after = 0, ""
        while page := await self._reads.call(partial(self._page, after), timeout_s=_TIMEOUT_S):
            stale = [one for one in page if not self._wrapping.is_current(one[2])]
            if stale:
                rows = [(self._rewrapped(*one[:3]), one[1]) for one in stale]
                await self._writes.call(partial(self._save_wraps, rows), timeout_s=_TIMEOUT_S)
                changed += len(rows)
            after = page[-1][1]
        return changed

    async def scrub(self) -> str:
        """See `region.store.database.scrub`."""
        self._remains = await self._writes.call(scrub, timeout_s=_TIMEOUT_S)
        return self._remains

    async def deposits(self, *, erased_ms: int) -> tuple[Deposit, ...]:  # noqa: ARG002
        """The file, as the last scrub left it."""
        return in_file("the keys' file and its write-ahead log", remains=self._remains)

    async def renew(self) -> None:
        """Open connections anew: what they held in memory is freed."""
        await self._commits.renew()
        await self._reads.renew()
        await self._writes.renew()

    async def close(self) -> None:
        """Commit what is queued and let go of the file."""
        await self._commits.close()
        await self._reads.close()
        await self._writes.close()

    async def _make(self, subjects: Collection[str], today: int) -> None:
        def made() -> list[tuple[int, str, str, bytes]]:
            named = [(subject, new_handle()) for subject in subjects]
            return [
                (today, handle, subject, wrap_key(self._wrapping, new_key(), subject=subject, handle=handle))
                for subject, handle in named
            ]

        rows = await at_ease(self._wrapping, None, made)
        try:
            await self._commits.append(rows, timeout_s=_TIMEOUT_S)
        except UnavailableError as error:
            raise KeysUnavailableError(f"new keys could not be kept: {error}") from error

    async def _by_subjects(self, subjects: Collection[str]) -> dict[str, SubjectKey]:
        return {key.subject: key for key in await self._read("by_subjects", subjects)}

    async def _read(self, query: str, names: Collection[str]) -> list[SubjectKey]:
        wanted = msgspec.json.encode(list(names)).decode()

        def work(connection: sqlite3.Connection) -> list[tuple[str, str, bytes, int]]:
            return connection.execute(self._queries[query], (wanted,)).fetchall()

        found = await self._reads.call(work, timeout_s=_TIMEOUT_S)

        def opened() -> list[SubjectKey]:
            return [
                SubjectKey(subject, handle, unwrap_key(self._wrapping, wrapped, subject=subject, handle=handle), day)
                for subject, handle, wrapped, day in found
            ]

        return await at_ease(self._wrapping, [row[2] for row in found], opened)

    async def _write(self, query: str, *values: str | int) -> int:
        def work(connection: sqlite3.Connection) -> int:
            return connection.execute(self._queries[query], values).rowcount

        return await self._writes.call(work, timeout_s=_TIMEOUT_S)

    def _page(self, after: str, connection: sqlite3.Connection) -> list[tuple[str, str, bytes, int]]:
        return connection.execute(self._queries["list_keys"], (after, _PAGE)).fetchall()

    def _save_wraps(self, rows: list[tuple[bytes, str]], connection: sqlite3.Connection) -> None:
        with transaction(connection):
            connection.executemany(self._queries["rewrap_key"], rows)

    def _rewrapped(self, subject: str, handle: str, wrapped: bytes) -> bytes:
        key = unwrap_key(self._wrapping, wrapped, subject=subject, handle=handle)
        return wrap_key(self._wrapping, key, subject=subject, handle=handle)
