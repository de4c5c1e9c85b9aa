"""A lane: one thread with one SQLite connection, called from asyncio. SQLite blocks; the event loop must not.

A lane's queue is bounded. Work whose caller has given up is not begun. A call that has been begun runs to its end
even if nobody waits any more, so a write whose caller timed out may still have happened: writes are idempotent.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter

from infra.plumbing.errors import UnavailableError
from region.store.driver import sqlite3

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
_Call = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Work[Any] | None]
"""Without work: the connection is to be closed."""


class LaneMetrics:
    """Counts of calls that a lane could not serve, by lane and cause."""

    def __init__(self, registry: CollectorRegistry, prefix: str) -> None:
        self.unavailable = Counter(
            f"{prefix}_unavailable", "Calls that were not served, by lane and cause.", ("lane", "cause"),
            registry=registry,
        )  # fmt: skip


class Lane:
    """See the module."""

    def __init__(
        self, *, name: str, connect: Callable[[], sqlite3.Connection], queue_max: int,
        error_type: type[UnavailableError], metrics: LaneMetrics,
    ) -> None:  # fmt: skip
        self._name = name
        self._connect = connect
        self._queue_max = queue_max
        self._error_type = error_type
        self._metrics = metrics
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._closed = False
        # A daemon: a process that dies of an error must not hang on a thread that waits for work.
        self._thread = threading.Thread(target=self._run, name=f"lane-{name}", daemon=True)
        self._thread.start()

    async def call(self, work: Work[T], *, timeout_s: float) -> T:
        """Run `work` on the lane's thread.

        Raises:
            UnavailableError: of the lane's own type: its queue is full, time ran out, SQLite failed, or it is closed.
        """
        if self._closed:
            raise self._error("closed", "is closed")
        if self._calls.qsize() >= self._queue_max:
            raise self._error("queue", "has too many calls waiting")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._calls.put((loop, future, work))
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError as error:
            raise self._error("timeout", f"did not answer within {timeout_s:g} s") from error
        except sqlite3.Error as error:
            raise self._error("error", f"failed: {error}") from error

    async def renew(self) -> None:
        """Close the connection behind what is queued and open another. What it held in memory is freed.

        Raises:
            UnavailableError: of the lane's own type: it cannot be opened now; the next call tries again.
        """
        if not self._closed:
            renewed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._calls.put((asyncio.get_running_loop(), renewed, None))
            try:
                await renewed
            except sqlite3.Error as error:
                raise self._error("error", f"failed: {error}") from error

    async def close(self) -> None:
        """Finish what was begun and queued, then let go of the connection."""
        if not self._closed:
            self._closed = True
            self._calls.put(None)
            await asyncio.to_thread(self._thread.join)

    def _error(self, cause: str, what: str) -> UnavailableError:
        self._metrics.unavailable.labels(self._name, cause).inc()
        return self._error_type(f"{self._name} {what}.")

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        while (call := self._calls.get()) is not None:
            connection = self._serve(connection, *call)
            # A lane that waits must not hold whom the last call was about.
            del call
        if connection is not None:
            connection.close()

    def _serve(
        self, connection: sqlite3.Connection | None, loop: asyncio.AbstractEventLoop, future: "asyncio.Future[Any]",
        work: Work[Any] | None,
    ) -> sqlite3.Connection | None:  # fmt: skip
        """Do one call; returns the connection that the next one finds."""
        if work is None:
            if connection is not None:
                connection.close()
            connection = None
        if future.cancelled():
            return connection
        try:
            if connection is None:
                connection = self._connect()
            settle(loop, future, result=work(connection) if work is not None else None)
        except Exception as error:  # whatever it is, it belongs to the caller
            settle(loop, future, error=error)
        return connection


def settle(
    loop: asyncio.AbstractEventLoop, future: "asyncio.Future[T]", *, result: T | None = None,
    error: Exception | None = None,
) -> None:  # fmt: skip
    """Give a future of `loop` its outcome from another thread; nothing happens when nobody waits any more."""

    def set_outcome() -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # None only where T is None

    try:
        loop.call_soon_threadsafe(set_outcome)
    except RuntimeError:
        return  # the loop is closed: nobody waits
