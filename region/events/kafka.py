"""The log on Kafka: one topic per region, partitions by subject, acknowledged when the broker's disks have it.

* `append` is one idempotent producer with `acks=all`: what the producer itself sends twice counts once. What a caller
  sends again is recognised as long as this process remembers it; a record that it does not recognise is appended, and
  recognised by the store when it is applied.
* `read` assigns partitions by hand, without a consumer group: the position lives with the store, beside what it stands
  for, so that both move together.
* One client fetches, another asks where partitions begin and end. A broker answers a connection's requests in turn, and
  a fetch at the end of a partition waits there for records (`fetch_max_wait_ms`): a question behind it would wait, too.
  The fetch itself is welcome to wait: what is appended meanwhile comes at once.
* Kafka counts from 0, this project from 1: a record's offset here is Kafka's plus one.
* Kafka deletes no single record. With `seals` every record lies under its subject's key, and `forget` erases that: what
  stays until retention is opened by nobody, here and in every copy.

The broker must sync what it acknowledges, by its own setting (`log.flush.interval.messages=1`) or by having copies in
several places of the region.
"""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic, RecordsToDelete
from aiokafka.errors import KafkaError, TopicAlreadyExistsError
from prometheus_client import CollectorRegistry, Counter

from infra.contracts.events import LoggedEvent
from infra.plumbing.addresses import PartAddress
from infra.plumbing.errors import OverloadedError, SettingsError
from infra.plumbing.http.tls import ClientTls
from region.events.kafka_clients import KafkaClients, placed
from region.events.kafka_deposits import read_topic, segment_deposits
from region.events.port import AppendResult, LogForgotten, LogUnavailableError
from region.events.records import decode_record
from region.events.sqlite import SEAL_TRIES_MAX
from region.keeping.deposits import Deposit
from region.keeping.sealing import Placed, SealedRecord, Seals, plain
from region.store.port import OffsetEvent, Position

OPTIONS = frozenset({"partitions", "copies"})
PARTITIONS_DEFAULT = 4
REMEMBERED_MAX = 100_000
"""Event ids that an appending process remembers: some minutes of a busy one, about 100 bytes each."""
_APPEND_TIMEOUT_S = 10.0
_SCAN_PAGE = 5_000
_READ_TIMEOUT_S = 5.0
_CONNECT_TIMEOUT_S = 10.0
_DIGEST_BYTES = 16


def partition_of(subject: str, partitions: int) -> int:
    """Where a subject's events are; the same in every process, whatever a client's default is."""
    digest = hashlib.blake2b(subject.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % partitions


class KafkaLog:
    """`region.events.port.Log` over one topic. Connects at the first use; a broker that is not there is no error then.

    Args:
        address: brokers and topic; `partitions` and `copies` hold when the topic is made, and partitions must stay.
        queue_max: events that may wait for their acknowledgement; more are refused.
        retention_s: how long the broker keeps records at most, should nobody expire them.
        registry: where failures are counted.
        seals: put every record under its subject's key; closed with the log. None: records lie as they are.
        tls: how brokers are called; None: in plain.

    Raises:
        SettingsError: a TLS file cannot be used.
    """

    def __init__(
        self, address: PartAddress, *, queue_max: int, retention_s: float, registry: CollectorRegistry | None = None,
        seals: Seals | None = None, tls: ClientTls | None = None,
    ) -> None:  # fmt: skip
        self._clients = KafkaClients(address, tls=tls)
        self._seals = seals
        self._address = address
        self._topic = address.name
        self._partitions = address.number("partitions", PARTITIONS_DEFAULT)
        self._queue_max = queue_max
        self._retention_ms = round(retention_s * 1000)
        self._waiting = 0
        self._remembered: OrderedDict[bytes, None] = OrderedDict()
        self._in_flight: dict[bytes, asyncio.Future[None]] = {}
        self._producer: AIOKafkaProducer | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._surveyor: AIOKafkaConsumer | None = None
        self._topic_is_there = False
        self._connecting = asyncio.Lock()
        self._reading = asyncio.Lock()
        self._failures = Counter(
            "atoll_log_unavailable", "Calls that were not served, by lane and cause.", ("lane", "cause"),
            registry=registry if registry is not None else CollectorRegistry(),
        )  # fmt: skip
        # It reports every attempt to reconnect; failures are counted here.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

    async def connect(self) -> None:
        """Make the topic if it is not there, and have the producer connected."""
        async with self._served("append", _APPEND_TIMEOUT_S):
            await self._producing()

    async def append(self, records: Sequence[LoggedEvent]) -> AppendResult:
        """Returns when the broker has acknowledged every record.

        Raises:
            OverloadedError: too many events wait already; nothing was taken.
            LogUnavailableError: not everything was acknowledged in time; sending again is safe.
        """
        if self._waiting + len(records) > self._queue_max:
            raise OverloadedError("too many events wait to be written.", fix="Send them again in a moment.")
        self._waiting += len(records)
        outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        new, others = self._unknown(records)
        self._in_flight |= dict.fromkeys(new, outcome)
        try:
            async with self._served("append", _APPEND_TIMEOUT_S):
                await self._send(list(new.values()))
                # Somebody else is sending these; they are acknowledged when those are.
                await asyncio.gather(*(asyncio.shield(other) for other in others))
        except BaseException:
            outcome.set_exception(LogUnavailableError("the same events were not acknowledged to another caller."))
            outcome.exception()  # it is no error that nobody waits for it
            raise
        else:
            outcome.set_result(None)
            self._remember(new)
        finally:
            self._waiting -= len(records)
            for digest in new:
                del self._in_flight[digest]
        return AppendResult(accepted=len(new), duplicates=len(records) - len(new))

    async def read(self, *, after: Position, limit: int) -> list[OffsetEvent]:
        """Records behind `after`; what is there now, without waiting for more."""
        async with self._reading, self._served("read", _READ_TIMEOUT_S):
            if fetched := await self._fetched_ahead(after, limit):
                return fetched
            starts, ends = await self._bounds()
            wanted = {
                one: max(after[one.partition], starts[one])
                for one in self._all
                if one.partition in after and max(after[one.partition], starts[one]) < ends[one]
            }
            return await self._fetch(await self._consuming(), wanted, after, limit) if wanted else []

    async def last_offsets(self) -> dict[int, int]:
        """The highest offset ever given in every partition."""
        async with self._reading, self._served("read", _READ_TIMEOUT_S):
            ends = await (await self._surveying()).end_offsets(self._all)
            return {one.partition: end for one, end in sorted(ends.items())}

    async def of_subject(self, subject: str, *, after: Position, limit: int) -> list[OffsetEvent]:
        """Records of one subject behind `after`. Kafka has no index: the subject's partition is read through."""
        partition = partition_of(subject, self._partitions)
        position, end = after.get(partition, 0), (await self.last_offsets())[partition]
        found: list[OffsetEvent] = []
        while position < end and len(found) < limit:
            page = await self.read(after={partition: position}, limit=_SCAN_PAGE)
            if not page:
                break
            found += [one for one in page if one.logged.subject == subject]
            position = page[-1].offset
        return found[:limit]

    async def count_of(self, subject: str) -> int:
        """How many records there are of a subject; reads its partition through."""
        partition, after, count = partition_of(subject, self._partitions), 0, 0
        while page := await self.of_subject(subject, after={partition: after}, limit=_SCAN_PAGE):
            count, after = count + len(page), page[-1].offset
        return count

    async def count_keys(self, subject: str) -> int:
        """Whether the subject has a key."""
        return 0 if self._seals is None else int(await self._seals.keys.of_subject(subject) is not None)

    async def forget(self, subject: str) -> LogForgotten:
        """Erase the subject's key; says where the log ends, so that nothing of before is applied any more.

        Without keys nothing can be taken out, and with them nothing of before there were any.
        """
        if self._seals is None:
            return LogForgotten(records=0, through=await self.last_offsets(), kept_ms=self._retention_ms)
        keys = await self._seals.forget(subject)
        through, left = await self.last_offsets(), await self.count_of(subject)
        return LogForgotten(records=0, keys=keys, through=through, kept_ms=self._retention_ms if left else 0)

    async def scrub(self) -> str:
        """Nothing can be done in Kafka: only the oldest records ever leave. Keys go where they are kept."""
        if self._seals is None:
            return "Kafka deletes no single record: kept until retention"
        return await self._seals.keys.scrub()

    async def deposits(self, subject: str, *, erased_ms: int) -> tuple[Deposit, ...]:
        """Segments, by what the broker says of the topic."""
        facts = await read_topic(self._clients, self._topic)
        readable = await self.count_of(subject)
        return segment_deposits(facts, erased_ms=erased_ms, sealed=self._seals is not None, readable=readable)

    async def key_deposits(self, *, erased_ms: int) -> tuple[Deposit, ...]:
        """Of where keys are kept."""
        return () if self._seals is None else await self._seals.keys.deposits(erased_ms=erased_ms)

    async def expire(self, *, before_ms: int) -> int:
        """Forget each partition's records up to the first one received at `before_ms` or later."""
        async with self._reading, self._served("expire", _READ_TIMEOUT_S):
            starts, ends = await self._bounds()
            firsts = await (await self._surveying()).offsets_for_times(dict.fromkeys(self._all, before_ms))
            keep_from = {one: firsts[one].offset if firsts.get(one) else ends[one] for one in self._all}
            gone = {one: offset for one, offset in keep_from.items() if offset > starts[one]}
            if gone:
                async with self._clients.administering() as admin:
                    await admin.delete_records(
                        {one: RecordsToDelete(before_offset=offset) for one, offset in gone.items()}
                    )
        if self._seals is not None:
            await self._seals.expire(before_ms=before_ms)
        return sum(offset - starts[one] for one, offset in gone.items())

    async def erasures(self) -> object:
        """Another value after every erasure, whichever process of the region did it; compared for equality only."""
        return None if self._seals is None else await self._seals.keys.epoch()

    async def renew(self) -> None:
        """Keys only: what a client has read is let go of as it is read."""
        if self._seals is not None:
            await self._seals.renew()

    async def close(self) -> None:
        """Send what waits and let go of the connections."""
        for client in (self._producer, self._consumer, self._surveyor):
            if client is not None:
                with suppress(KafkaError, TimeoutError):
                    await client.stop()
        self._producer = self._consumer = self._surveyor = None
        await self._clients.close()
        if self._seals is not None:
            await self._seals.keys.close()

    @property
    def _all(self) -> list[TopicPartition]:
        return [TopicPartition(self._topic, number) for number in range(self._partitions)]

    async def _bounds(self) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        """Where every partition begins and ends."""
        surveyor = await self._surveying()
        starts, ends = await asyncio.gather(surveyor.beginning_offsets(self._all), surveyor.end_offsets(self._all))
        return starts, ends

    async def _fetched_ahead(self, after: Position, limit: int) -> list[OffsetEvent]:
        """What the watching fetch has brought of a position that follows on from the last: no question is needed."""
        consumer = self._consumer
        if consumer is None:
            return []
        watched, paused = [one for one in self._all if one.partition in after], consumer.paused()
        for one in watched:
            if one in paused or await consumer.position(one) != after[one.partition]:
                return []
        records = placed(await consumer.getmany(*watched, timeout_ms=0, max_records=limit)) if watched else []
        return await self._open(records) if records else []

    async def _fetch(
        self, consumer: AIOKafkaConsumer, wanted: dict[TopicPartition, int], after: Position, limit: int
    ) -> list[OffsetEvent]:
        # What nobody asks for must not be fetched ahead: unread, it would hold up the others. A partition that was read
        # to its end goes on being watched, so that what comes next is here before it is asked for.
        consumer.pause(*(one for one in self._all if one.partition not in after))
        consumer.resume(*(one for one in self._all if one.partition in after))
        for one, offset in wanted.items():
            if await consumer.position(one) != offset:
                consumer.seek(one, offset)
        while True:
            found = await consumer.getmany(*wanted, timeout_ms=round(_READ_TIMEOUT_S * 1000), max_records=limit)
            if records := placed(found):
                return await self._open(records)

    async def _open(self, records: Sequence[Placed]) -> list[OffsetEvent]:
        if self._seals is None:
            return [decode_record(one.offset, one.body, partition=one.partition) for one in records]
        return await self._seals.open(records)

    async def _send(self, records: Sequence[LoggedEvent]) -> None:
        """Send records, and again under a new key those whose subject was erased meanwhile."""
        for _ in range(SEAL_TRIES_MAX):
            if not records:
                return
            if self._seals is None:
                await self._send_rows(plain(records))
                return
            sealing = await self._seals.seal(records)
            await self._send_rows(sealing.records)
            records = await self._seals.lost(sealing)
        if records:
            raise LogUnavailableError("a subject is erased again and again.", fix="Send its events later.")

    async def _send_rows(self, rows: Sequence[SealedRecord]) -> None:
        producer = await self._producing()
        sent = [
            await producer.send(
                self._topic, value=one.body, key=one.handle.encode(), timestamp_ms=one.received_ms,
                partition=partition_of(one.record.subject, self._partitions),
            )
            for one in rows
        ]  # fmt: skip
        await asyncio.gather(*sent)

    def _unknown(self, records: Sequence[LoggedEvent]) -> tuple[dict[bytes, LoggedEvent], set["asyncio.Future[None]"]]:
        """Records that must be sent, by digest; and the outcomes of those that another call is sending now."""
        new: dict[bytes, LoggedEvent] = {}
        others: set[asyncio.Future[None]] = set()
        for record in records:
            identity = f"{record.subject} {record.event.event_id}".encode()
            digest = hashlib.blake2b(identity, digest_size=_DIGEST_BYTES).digest()
            if digest in self._in_flight:
                others.add(self._in_flight[digest])
            elif digest not in self._remembered:
                new.setdefault(digest, record)
        return new, others

    def _remember(self, new: dict[bytes, LoggedEvent]) -> None:
        """Only what was acknowledged: what failed must be taken when it is sent again."""
        self._remembered.update(dict.fromkeys(new))
        while len(self._remembered) > REMEMBERED_MAX:
            self._remembered.popitem(last=False)

    @asynccontextmanager
    async def _served(self, lane: str, timeout_s: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError as error:
            self._failures.labels(lane, "timeout").inc()
            raise LogUnavailableError(f"Kafka did not answer within {timeout_s:g} s.") from error
        except (KafkaError, OSError) as error:
            self._failures.labels(lane, "error").inc()
            raise LogUnavailableError(
                f"Kafka failed: {type(error).__name__}.", fix="See whether its brokers run."
            ) from error

    async def _producing(self) -> AIOKafkaProducer:
        async with self._connecting:
            if self._producer is None:
                await self._ensure_topic()
                self._producer = await self._clients.producer()
            return self._producer

    async def _consuming(self) -> AIOKafkaConsumer:
        async with self._connecting:
            if self._consumer is None:
                await self._ensure_topic()
                consumer = await self._clients.reader()
                consumer.assign(self._all)
                for one in self._all:
                    consumer.seek(one, 0)
                self._consumer = consumer
            return self._consumer

    async def _surveying(self) -> AIOKafkaConsumer:
        async with self._connecting:
            if self._surveyor is None:
                await self._ensure_topic()
                self._surveyor = await self._clients.reader()
            return self._surveyor

    async def _ensure_topic(self) -> None:
        """Make the topic, or see that it has as many partitions as the settings say.

        Raises:
            SettingsError: it has another number: subjects would be elsewhere than their earlier events.
        """
        if self._topic_is_there:
            return
        settings = {
            "retention.ms": str(self._retention_ms),
            "message.timestamp.type": "CreateTime",
            "cleanup.policy": "delete",
        }
        topic = NewTopic(
            self._topic, num_partitions=self._partitions, replication_factor=self._address.number("copies", 1),
            topic_configs=settings,
        )  # fmt: skip
        async with self._clients.administering() as admin:
            with suppress(TopicAlreadyExistsError):
                await admin.create_topics([topic])
            (found,) = await admin.describe_topics([self._topic])
        count = len(found["partitions"])
        if count and count != self._partitions:
            raise SettingsError(
                f"the topic {self._topic} has {count} partitions, the settings say {self._partitions}.",
                fix=f"Append ?partitions={count} to the log's address; a topic's partitions must not change.",
            )
        self._topic_is_there = count > 0
