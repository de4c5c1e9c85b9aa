"""Group commit: one thread that turns many concurrent appends into one transaction and one sync of the disk.

The interleaving that matters: a caller's records are queued; the thread takes everything queued at that moment,
writes it, commits (the disk is synced here), and only then tells each caller. While the disk syncs, the next group
gathers. A kill before the commit loses records nobody was told of; a kill after it loses none.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from infra.plumbing.errors import OverloadedError
from region.events.port import LogUnavailableError
from region.store.database import transaction
from region.store.driver import sqlite3
from region.store.lane import settle

Row = tuple[int, str, str, bytes]
"""(received_ms, subject, event_id, body)."""


@dataclass(frozen=True, slots=True)
class _Pending:
    rows: Sequence[Row]
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[int]"
    renews: bool = False


class GroupCommitter:
    """Queue of appends and the thread that commits them.

    Args:
        connect: opens the connection, on the thread.
        insert: the statement that takes one `Row` and skips one that is there already.
        rows_max: rows that may wait; more are refused with `OverloadedError`.
        group_rows_max: rows in one transaction, give or take the last append.
        observe: told the rows of every committed group.
    """

    def __init__(
        self, *, connect: Callable[[], sqlite3.Connection], insert: str, rows_max: int, group_rows_max: int,
        observe: Callable[[int], None],
    ) -> None:  # fmt: skip
        self._connect = connect
        self._insert = insert
        self._rows_max = rows_max
        self._group_rows_max = group_rows_max
        self._observe = observe
        self._queue: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="log-commits", daemon=True)
        self._thread.start()

    async def append(self, rows: Sequence[Row], *, timeout_s: float) -> int:
        """Commit `rows`; returns how many were new.

        Raises:
            OverloadedError: too many rows wait already; nothing was taken.
            LogUnavailableError: the commit failed or took too long; nothing is acknowledged.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        self._admit(len(rows))
        self._queue.put(_Pending(rows, loop, future))
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError as error:
            raise LogUnavailableError(f"the log did not commit within {timeout_s:g} s.") from error
        except sqlite3.Error as error:
            raise LogUnavailableError(
                f"the log could not commit: {error}.", fix="Check the space on the disk of the state directory."
            ) from error

    async def renew(self) -> None:
        """Close the connection behind what is queued; the next group opens one. What it held in memory is freed."""
        with self._lock:
            if self._closed:
                return
        loop = asyncio.get_running_loop()
        renewed: asyncio.Future[int] = loop.create_future()
        self._queue.put(_Pending((), loop, renewed, renews=True))
        await renewed

    async def close(self) -> None:
        """Commit what is queued, then end the thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _admit(self, count: int) -> None:
        with self._lock:
            if self._closed:
                raise LogUnavailableError("the log is closed.")
            if self._waiting + count > self._rows_max:
                raise OverloadedError("too many events wait to be written.", fix="Send them again in a moment.")
            self._waiting += count

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        ended = False
        while not ended:
            group, ended = self._gather()
            connection = self._serve(connection, group)
            # A thread that waits must not hold whom the last group was about.
            del group
        if connection is not None:
            connection.close()

    def _serve(self, connection: sqlite3.Connection | None, group: list[_Pending]) -> sqlite3.Connection | None:
        """Commit a group; returns the connection that the next one finds."""
        try:
            if connection is None:
                connection = self._connect()
            self._commit(connection, group)
        except Exception as error:  # it belongs to the callers of this group
            for pending in group:
                settle(pending.loop, pending.future, error=error)
        with self._lock:
            self._waiting -= sum(len(pending.rows) for pending in group)
        if connection is not None and any(pending.renews for pending in group):
            connection.close()
            return None
        return connection

    def _gather(self) -> tuple[list[_Pending], bool]:
        """Wait for one append, then take along whatever else is queued; True when the queue was closed."""
        group: list[_Pending] = []
        count = 0
        while count < self._group_rows_max:
            try:
                pending = self._queue.get(block=not group)
            except queue.Empty:
                break
            if pending is None:
                return group, True
            group.append(pending)
            count += len(pending.rows)
        return group, False

    def _commit(self, connection: sqlite3.Connection, group: list[_Pending]) -> None:
        with transaction(connection):
            accepted = [connection.executemany(self._insert, pending.rows).rowcount for pending in group]
        self._observe(sum(accepted))
        for pending, count in zip(group, accepted, strict=True):
            settle(pending.loop, pending.future, result=count)
