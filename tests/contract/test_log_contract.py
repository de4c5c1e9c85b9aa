"""What every log must do; run against all of them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from infra.plumbing.addresses import parse_address
from infra.plumbing.errors import OverloadedError
from infra.plumbing.ids import new_request_id
from region.events.kafka import OPTIONS, KafkaLog
from region.events.memory import MemoryLog
from region.events.port import Log
from region.events.records import SHREDDED
from region.events.sqlite import SqliteLog
from region.keeping.deposits import Fate
from region.keeping.sealing import Seals
from tests.contract.building import ALICE, BOB, NOW_MS, logged, stands_in_files
from tests.support.keeping import file_keys, seals
from tests.support.servers import Servers

QUEUE_MAX = 200

Open = Callable[[], Log]


def kafka_log(servers: Servers, topic: str, *, partitions: int, seals: Seals | None = None) -> KafkaLog:
    address = parse_address(
        f"kafka://{servers.kafka.address}/{topic}?partitions={partitions}", scheme="kafka", options=OPTIONS
    )
    return KafkaLog(address, queue_max=QUEUE_MAX, retention_s=100 * 365 * 86_400.0, seals=seals)


@pytest.fixture(params=["memory", "sqlite", "sqlite-sealed", "kafka", "kafka-sealed"])
def open_log(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same log each time."""
    if request.param.startswith("kafka"):
        servers: Servers = request.getfixturevalue("servers")
        # A topic of its own for each test, of one partition: what several change is tested in `test_kafka_log.py`.
        topic = f"contract.{new_request_id()}"
        sealed = request.param == "kafka-sealed"
        return lambda: kafka_log(servers, topic, partitions=1, seals=seals(tmp_path) if sealed else None)
    if request.param == "memory":
        log = MemoryLog(records_max=QUEUE_MAX)
        return lambda: log
    if request.param == "sqlite":
        return lambda: SqliteLog(tmp_path / "log.sqlite", queue_max=QUEUE_MAX)
    return lambda: SqliteLog(
        tmp_path / "log.sqlite", queue_max=QUEUE_MAX, seals=seals(tmp_path), keys=file_keys(tmp_path)
    )


@pytest.fixture
async def log(open_log: Open) -> AsyncIterator[Log]:
    opened = open_log()
    yield opened
    await opened.close()


async def numbers(log: Log, *, after: int = 0) -> list[tuple[int, str]]:
    return [(one.offset, one.logged.event.event_id[-2:]) for one in await log.read(after={0: after}, limit=1000)]


async def test_an_empty_log(log: Log) -> None:
    assert await log.read(after={0: 0}, limit=10) == []
    assert await log.last_offsets() == {0: 0}
    assert await log.expire(before_ms=NOW_MS) == 0


async def test_connecting_ahead_leaves_the_log_empty_and_ready(log: Log) -> None:
    for _ in range(2):
        await log.connect()
    assert await log.last_offsets() == {0: 0}
    assert (await log.append([logged(1)])).accepted == 1


async def test_records_come_back_whole_and_in_order(log: Log) -> None:
    records = [logged(1, value=None), logged(2, subject=BOB), logged(3, item="päivä ✓")]
    result = await log.append(records)
    assert (result.accepted, result.duplicates) == (3, 0)
    read = await log.read(after={0: 0}, limit=10)
    assert [one.logged for one in read] == records
    assert [one.offset for one in read] == [1, 2, 3]
    assert [one.offset for one in await log.read(after={0: 1}, limit=1)] == [2]
    assert await log.read(after={0: 3}, limit=10) == []


async def test_the_same_event_id_counts_once_within_a_subject(log: Log) -> None:
    await log.append([logged(1), logged(1)])
    result = await log.append([logged(1), logged(2), logged(1, subject=BOB)])
    assert (result.accepted, result.duplicates) == (2, 1)
    assert await numbers(log) == [(1, "01"), (2, "02"), (3, "01")], "duplicates leave no hole among the offsets"


async def test_concurrent_appends_are_all_there_once(log: Log) -> None:
    results = await asyncio.gather(*(log.append([logged(number), logged(number + 1)]) for number in range(0, 100, 1)))
    assert sum(result.accepted for result in results) == 101
    assert sum(result.duplicates for result in results) == 99
    read = await log.read(after={0: 0}, limit=1000)
    assert [one.offset for one in read] == list(range(1, 102))
    assert {one.logged.event.event_id for one in read} == {logged(number).event.event_id for number in range(101)}


async def test_more_than_fits_is_refused_and_nothing_of_it_is_taken(log: Log) -> None:
    with pytest.raises(OverloadedError):
        await log.append([logged(number) for number in range(QUEUE_MAX + 1)])
    assert await log.last_offsets() == {0: 0}
    assert (await log.append([logged(1)])).accepted == 1


async def test_what_was_appended_is_there_after_a_restart(open_log: Open) -> None:
    first = open_log()
    await first.append([logged(1), logged(2)])
    await first.close()
    again = open_log()
    assert await numbers(again) == [(1, "01"), (2, "02")]
    if isinstance(again, KafkaLog):  # what another process appended is recognised when it is applied
        assert (await again.append([logged(2), logged(3)])).duplicates == 0
        assert await numbers(again) == [(1, "01"), (2, "02"), (3, "02"), (4, "03")]
    else:
        assert (await again.append([logged(2), logged(3)])).duplicates == 1
        assert await again.last_offsets() == {0: 3}
    await again.close()


async def test_another_reader_sees_what_was_acknowledged(open_log: Open) -> None:
    writer, reader = open_log(), open_log()
    for number in range(1, 6):
        await writer.append([logged(number)])
        assert await numbers(reader, after=number - 1) == [(number, f"0{number}")]
    await writer.close()
    await reader.close()


async def test_expire_forgets_the_oldest_and_never_gives_an_offset_twice(log: Log) -> None:
    await log.append([logged(number, received_ms=NOW_MS + number) for number in range(1, 6)])
    assert await log.expire(before_ms=NOW_MS + 3) == 2
    assert [offset for offset, _ in await numbers(log)] == [3, 4, 5]
    assert await log.expire(before_ms=NOW_MS + 100) == 3
    assert await log.last_offsets() == {0: 5}
    await log.append([logged(9, subject=ALICE)])
    assert await numbers(log) == [(6, "09")]
    if isinstance(log, KafkaLog):
        return  # it remembers ids, not records
    assert (await log.append([logged(1)])).accepted == 1, "a forgotten id is new again; the store remembers its own"


async def test_the_records_of_one_subject_are_read_and_erased_and_no_offset_is_given_again(log: Log) -> None:
    await log.append([logged(1), logged(2, subject=BOB), logged(3), logged(4, subject=BOB), logged(5)])
    assert [one.offset for one in await log.of_subject(ALICE, after={}, limit=2)] == [1, 3]
    assert [one.offset for one in await log.of_subject(ALICE, after={0: 3}, limit=2)] == [5]
    forgotten = await log.forget(ALICE)
    assert forgotten.through == {0: 5}
    if isinstance(log, KafkaLog) and not forgotten.keys:
        assert (forgotten.records, forgotten.kept_ms > 0) == (0, True)
        assert await log.count_of(ALICE) == 3
        assert "retention" in await log.scrub()
        segments = (await log.deposits(ALICE, erased_ms=NOW_MS))[0]
        assert (segments.fate, "retention.ms=" in segments.proof) == (Fate.READABLE, True)
        return  # it deletes no single record, and says so
    if isinstance(log, KafkaLog):
        assert (forgotten.records, forgotten.kept_ms, await log.count_of(ALICE), await log.scrub()) == (0, 0, 0, "")
        segments = (await log.deposits(ALICE, erased_ms=NOW_MS))[0]
        assert (segments.fate, segments.until.endswith("at the latest")) == (Fate.SHREDDED, True), segments
        assert "cleanup.policy=delete" in segments.proof
        assert [one.fate for one in await log.key_deposits(erased_ms=NOW_MS)] == [Fate.GONE]
        read = await log.read(after={0: 0}, limit=10)
        assert [(one.offset, one.broken) for one in read if one.broken] == [(1, SHREDDED), (3, SHREDDED), (5, SHREDDED)]
        assert [one.logged.subject for one in read if not one.broken] == [BOB, BOB]
        return
    assert (forgotten.records, forgotten.kept_ms) == (3, 0)
    assert (await log.deposits(ALICE, erased_ms=NOW_MS))[0].fate is Fate.GONE
    assert await log.count_of(ALICE) == 0
    assert await log.scrub() == ""
    assert [one.offset for one in await log.read(after={0: 0}, limit=10)] == [2, 4]
    assert [one.offset for one in await log.read(after={0: 2}, limit=10)] == [4]
    assert await log.last_offsets() == {0: 5}
    await log.append([logged(1)])
    assert [one.offset for one in await log.read(after={0: 4}, limit=10)] == [6]


async def test_nothing_of_an_erased_subject_stands_in_the_files(tmp_path: Path) -> None:
    opened = SqliteLog(tmp_path / "log.sqlite", queue_max=QUEUE_MAX)
    for number in range(60):
        await opened.append([logged(number, subject=f"{number % 7:032x}")])
    secret = f"{3:032x}"
    assert stands_in_files(tmp_path, secret)
    await opened.forget(secret)
    await opened.scrub()
    assert not stands_in_files(tmp_path, secret)
    await opened.close()
