"""The threads: bounds, time-outs and failures, with the thread held by an event where the order matters."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import OverloadedError
from region.events.group_commit import GroupCommitter
from region.events.port import LogUnavailableError
from region.events.sqlite import LOG_DATABASE, SqliteLog
from region.store.driver import sqlite3
from region.store.lane import Lane, LaneMetrics, settle
from region.store.port import StoreUnavailableError
from region.store.sqlite import SqliteStore
from tests.contract.building import ALICE, logged


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def connect() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None)


@pytest.fixture
async def lane(registry: CollectorRegistry) -> AsyncIterator[Lane]:
    opened = Lane(
        name="test", connect=connect, queue_max=2, error_type=StoreUnavailableError,
        metrics=LaneMetrics(registry, "lane"),
    )  # fmt: skip
    yield opened
    await opened.close()


class Gate:
    """Holds a lane's thread until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self, connection: sqlite3.Connection) -> str:
        self.entered.set()
        self.open.wait(20)
        return "through"


def refused(registry: CollectorRegistry, cause: str) -> float:
    return registry.get_sample_value("lane_unavailable_total", {"lane": "test", "cause": cause}) or 0.0


async def test_work_runs_on_one_other_thread(lane: Lane) -> None:
    async def thread() -> int:
        return await lane.call(lambda _: threading.get_ident(), timeout_s=5)

    assert await thread() == await thread() != threading.get_ident()


async def test_a_full_queue_refuses_at_once(lane: Lane, registry: CollectorRegistry) -> None:
    gate = Gate()
    held = asyncio.create_task(lane.call(gate, timeout_s=20))
    await asyncio.to_thread(gate.entered.wait, 20)
    waiting = [asyncio.create_task(lane.call(lambda _: 1, timeout_s=20)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailableError, match="too many"):
        await lane.call(lambda _: 1, timeout_s=20)
    gate.open.set()
    assert await held == "through"
    assert await asyncio.gather(*waiting) == [1, 1]
    assert refused(registry, "queue") == 1


async def test_work_whose_caller_gave_up_is_not_begun(lane: Lane, registry: CollectorRegistry) -> None:
    gate, begun = Gate(), list[int]()
    held = asyncio.create_task(lane.call(gate, timeout_s=20))
    await asyncio.to_thread(gate.entered.wait, 20)
    with pytest.raises(StoreUnavailableError, match=r"did not answer within 0\.01 s"):
        await lane.call(lambda _: begun.append(1), timeout_s=0.01)
    gate.open.set()
    await held
    await lane.call(lambda _: None, timeout_s=5)
    assert begun == []
    assert refused(registry, "timeout") == 1


async def test_an_outcome_nobody_waits_for_is_dropped(lane: Lane) -> None:
    gate = Gate()
    with pytest.raises(StoreUnavailableError):
        await lane.call(gate, timeout_s=0.05)
    gate.open.set()
    assert await lane.call(lambda _: 2, timeout_s=5) == 2


async def test_an_error_of_sqlite_is_unavailability_and_any_other_stays_what_it_is(
    lane: Lane, registry: CollectorRegistry
) -> None:
    with pytest.raises(StoreUnavailableError, match="no such table"):
        await lane.call(lambda connection: connection.execute("SELECT * FROM nowhere"), timeout_s=5)
    with pytest.raises(ZeroDivisionError):
        await lane.call(lambda _: 1 // 0, timeout_s=5)
    assert refused(registry, "error") == 1


async def test_a_closed_lane_refuses_and_closes_once(lane: Lane, registry: CollectorRegistry) -> None:
    await lane.close()
    await lane.close()
    with pytest.raises(StoreUnavailableError, match="is closed"):
        await lane.call(lambda _: 1, timeout_s=5)
    assert refused(registry, "closed") == 1


async def test_a_connection_that_cannot_be_made_is_tried_again(registry: CollectorRegistry) -> None:
    attempts = list[int]()

    def connect_later() -> sqlite3.Connection:
        attempts.append(1)
        if len(attempts) == 1:
            raise sqlite3.OperationalError("unable to open database file")
        return connect()

    lane = Lane(
        name="test", connect=connect_later, queue_max=2, error_type=StoreUnavailableError,
        metrics=LaneMetrics(registry, "lane"),
    )  # fmt: skip
    with pytest.raises(StoreUnavailableError, match="unable to open"):
        await lane.call(lambda _: 1, timeout_s=5)
    assert await lane.call(lambda _: 1, timeout_s=5) == 1
    await lane.close()


def test_settling_a_future_of_a_closed_loop_does_nothing() -> None:
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    loop.close()
    settle(loop, future, result=1)
    assert not future.done()


class Held:
    """A group committer whose connection can be held and can fail."""

    def __init__(self, path: Path) -> None:
        LOG_DATABASE.prepare(path)
        self.gate = Gate()
        self.error: Exception | None = None
        self.groups: list[int] = []
        self._path = path
        self._began = False

    def connect(self) -> sqlite3.Connection:
        if not self._began:
            self._began = True
            self.gate.entered.set()
            self.gate.open.wait(20)
        if self.error is not None:
            raise self.error
        return LOG_DATABASE.connect(self._path, read_only=False)

    def committer(self, *, rows_max: int, group_rows_max: int = 100) -> GroupCommitter:
        return GroupCommitter(
            connect=self.connect, insert=LOG_DATABASE.queries()["append_record"], rows_max=rows_max,
            group_rows_max=group_rows_max, observe=self.groups.append,
        )  # fmt: skip


def rows(first: int, count: int) -> list[tuple[int, str, str, bytes]]:
    return [(0, ALICE, f"event-{number:05d}", b"") for number in range(first, first + count)]


async def test_appends_that_wait_are_committed_together_and_bounded(tmp_path: Path) -> None:
    held = Held(tmp_path / "log")
    committer = held.committer(rows_max=10)
    first = asyncio.create_task(committer.append(rows(0, 1), timeout_s=20))
    await asyncio.to_thread(held.gate.entered.wait, 20)
    others = [asyncio.create_task(committer.append(rows(10 * number, 3), timeout_s=20)) for number in (1, 2, 3)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await committer.append(rows(90, 1), timeout_s=20)
    held.gate.open.set()
    assert await first == 1
    assert await asyncio.gather(*others) == [3, 3, 3]
    assert held.groups == [1, 9], "what gathered during the first commit went into one"
    await committer.close()
    await committer.close()
    with pytest.raises(LogUnavailableError, match="closed"):
        await committer.append(rows(50, 1), timeout_s=20)


async def test_groups_are_bounded(tmp_path: Path) -> None:
    held = Held(tmp_path / "log")
    committer = held.committer(rows_max=100, group_rows_max=4)
    first = asyncio.create_task(committer.append(rows(0, 1), timeout_s=20))
    await asyncio.to_thread(held.gate.entered.wait, 20)
    others = [asyncio.create_task(committer.append(rows(10 * number, 2), timeout_s=20)) for number in range(1, 6)]
    await asyncio.sleep(0)
    held.gate.open.set()
    await asyncio.gather(first, *others)
    assert held.groups == [1, 4, 4, 2]
    await committer.close()


async def test_a_commit_that_fails_acknowledges_nothing_and_the_next_may_succeed(tmp_path: Path) -> None:
    held = Held(tmp_path / "log")
    held.error = sqlite3.OperationalError("database or disk is full")
    held.gate.open.set()
    committer = held.committer(rows_max=10)
    with pytest.raises(LogUnavailableError, match="disk is full") as caught:
        await committer.append(rows(0, 2), timeout_s=20)
    assert "space on the disk" in caught.value.fix
    held.error = None
    assert await committer.append(rows(0, 2), timeout_s=20) == 2
    await committer.close()


async def test_a_full_disk_acknowledges_nothing_and_loses_nothing(tmp_path: Path) -> None:
    """SQLite's own page limit stands for the disk: the same SQLITE_FULL, in the middle of a transaction."""
    held = Held(tmp_path / "log")
    held.gate.open.set()

    def connect_small() -> sqlite3.Connection:
        connection = LOG_DATABASE.connect(tmp_path / "log", read_only=False)
        connection.execute("PRAGMA max_page_count = 30")
        return connection

    committer = GroupCommitter(
        connect=connect_small, insert=LOG_DATABASE.queries()["append_record"], rows_max=10_000, group_rows_max=100,
        observe=held.groups.append,
    )  # fmt: skip
    acknowledged = 0
    failure: LogUnavailableError | None = None
    while failure is None:
        try:
            acknowledged += await committer.append(rows(acknowledged, 20), timeout_s=20)
        except LogUnavailableError as error:
            failure = error
    assert "full" in failure.message
    await committer.close()
    log = SqliteLog(tmp_path / "log", queue_max=100)
    assert 0 < acknowledged == (await log.last_offsets())[0], "what was acknowledged is there, and nothing else"
    assert (await log.append([logged(1)])).accepted == 1, "with space again it goes on"
    await log.close()


async def test_a_commit_that_takes_too_long_is_not_acknowledged(tmp_path: Path) -> None:
    held = Held(tmp_path / "log")
    committer = held.committer(rows_max=10)
    with pytest.raises(LogUnavailableError, match=r"within 0\.02 s"):
        await committer.append(rows(0, 2), timeout_s=0.02)
    held.gate.open.set()
    assert await committer.append(rows(0, 2), timeout_s=20) == 0, "it happened all the same; sending again is safe"
    await committer.close()


async def test_closing_commits_what_is_queued(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.sqlite", queue_max=100)
    appending = [asyncio.create_task(log.append([logged(number)])) for number in range(10)]
    await asyncio.sleep(0)
    await log.close()
    assert sum(result.accepted for result in await asyncio.gather(*appending)) == 10


async def test_a_record_that_cannot_be_read_is_told_as_broken(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    log = SqliteLog(path, queue_max=100)
    await log.append([logged(1), logged(2)])
    connection = sqlite3.connect(path)
    connection.execute("UPDATE records SET body = x'c1' WHERE position = 1")
    connection.commit()
    connection.close()
    broken, whole = await log.read(after={0: 0}, limit=10)
    assert (broken.offset, broken.broken[:24], broken.content) == (1, "the record cannot be rea", b"\xc1")
    assert (whole.offset, whole.broken, whole.logged) == (2, "", logged(2))
    await log.close()


async def test_a_store_whose_file_is_gone_bad_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = SqliteStore(path, clock=ManualClock(), history_max=5, read_timeout_s=5.0)
    await store._writes.call(_drop, timeout_s=5)
    with pytest.raises(StoreUnavailableError, match="no such table"):
        await store.read(ALICE)
    await store.close()


def _drop(connection: sqlite3.Connection) -> None:
    connection.execute("DROP TABLE rows")
