"""What only the log on Kafka has to show: several partitions, duplicates over restarts, brokers that are gone."""

import asyncio
import socket
from dataclasses import replace

import pytest

from infra.plumbing.addresses import PartAddress
from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import SettingsError
from infra.plumbing.ids import new_request_id
from region.events.kafka import KafkaLog, partition_of
from region.events.port import Log, LogUnavailableError
from region.store.memory import MemoryStore
from region.store.port import OffsetEvent
from tests.contract.building import ALICE, NOW_MS, logged
from tests.contract.test_log_contract import kafka_log
from tests.support.servers import Servers

SUBJECTS = [f"{number:032x}" for number in range(12)]


async def everything(log: Log) -> list[OffsetEvent]:
    """All records, read in small batches until the end."""
    ends = await log.last_offsets()
    position = dict.fromkeys(ends, 0)
    found: list[OffsetEvent] = []
    async with asyncio.timeout(60):
        while position != ends:
            batch = await log.read(after=position, limit=7)
            for record in batch:
                assert record.offset == position[record.partition] + 1, "in order and without a gap"
                position[record.partition] = record.offset
            found += batch
    return found


async def test_a_subject_is_in_one_partition_and_all_are_read(servers: Servers) -> None:
    log = kafka_log(servers, f"parts.{new_request_id()}", partitions=3)
    await asyncio.gather(
        *(log.append([logged(number, subject=subject) for number in range(5)]) for subject in SUBJECTS)
    )
    found = await everything(log)
    assert len(found) == 60
    assert {one.partition for one in found} == {0, 1, 2}
    for one in found:
        assert one.partition == partition_of(one.logged.subject, 3)
    only = await log.read(after={1: 0}, limit=100)
    assert {one.partition for one in only} == {1}
    assert await log.read(after={}, limit=100) == []
    await log.close()


async def test_what_is_sent_again_after_a_restart_counts_once(servers: Servers) -> None:
    topic = f"again.{new_request_id()}"
    for _ in range(3):
        log = kafka_log(servers, topic, partitions=2)
        await log.append([logged(number, subject=subject) for subject in SUBJECTS for number in range(3)])
        await log.close()
    log = kafka_log(servers, topic, partitions=2)
    store = MemoryStore(clock=ManualClock(wall_ms=NOW_MS))
    found = await everything(log)
    assert len(found) == 3 * 36
    await store.apply(found)
    for subject in SUBJECTS:
        row = await store.read(subject)
        assert row is not None
        assert (row.version, len(row.history)) == (3, 3)
    await log.close()


async def test_another_number_of_partitions_is_refused(servers: Servers) -> None:
    topic = f"count.{new_request_id()}"
    log = kafka_log(servers, topic, partitions=2)
    await log.append([logged(1)])
    await log.close()
    wrong = kafka_log(servers, topic, partitions=3)
    with pytest.raises(SettingsError, match="has 2 partitions"):
        await wrong.last_offsets()
    await wrong.close()


async def test_without_a_broker_nothing_is_acknowledged(servers: Servers) -> None:
    good = kafka_log(servers, f"gone.{new_request_id()}", partitions=1)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address: PartAddress = replace(good._address, hosts=(("127.0.0.1", nobody.getsockname()[1]),))
        log = KafkaLog(address, queue_max=10, retention_s=1e9)
        with pytest.raises(LogUnavailableError):
            await log.append([logged(1)])
        with pytest.raises(LogUnavailableError):
            await log.read(after={0: 0}, limit=1)
        # When it comes back, what failed is taken: it was never remembered.
        log._clients = good._clients
        assert (await log.append([logged(1)])).accepted == 1
        assert [one.logged.subject for one in await log.read(after={0: 0}, limit=9)] == [ALICE]
        await log.close()
    await good.close()
