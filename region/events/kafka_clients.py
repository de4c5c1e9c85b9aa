"""Clients of a region's Kafka: what a producer, a reader and an administrator are told, with TLS where it is asked for.

Certificates are read again when their files change: connections from then on show and take the new ones.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from infra.plumbing.addresses import PartAddress
from infra.plumbing.clock import SystemClock
from infra.plumbing.http.tls import ClientTls, client_context
from region.keeping.sealing import Placed

_FETCH_WAIT_MS = 250
"""How long a fetch waits at the broker for records: longer is less work while nothing happens."""


class KafkaClients:
    """Makes them.

    Args:
        address: brokers.
        tls: None: plain.

    Raises:
        SettingsError: a TLS file cannot be used.
    """

    def __init__(self, address: PartAddress, *, tls: ClientTls | None) -> None:
        self._address = address
        self._tls = client_context(tls, clock=SystemClock()) if tls is not None else None
        self._following: asyncio.Task[None] | None = None

    async def producer(self) -> AIOKafkaProducer:
        """An idempotent one, started."""
        producer = AIOKafkaProducer(
            **self._common(), acks="all", enable_idempotence=True, linger_ms=0, retry_backoff_ms=50,
            metadata_max_age_ms=30_000, max_batch_size=131_072,
        )  # fmt: skip
        return await _started(producer)

    async def reader(self) -> AIOKafkaConsumer:
        """One without a group, started."""
        consumer = AIOKafkaConsumer(
            **self._common(), enable_auto_commit=False, auto_offset_reset="earliest", fetch_max_wait_ms=_FETCH_WAIT_MS,
            retry_backoff_ms=50, metadata_max_age_ms=30_000,
        )  # fmt: skip
        return await _started(consumer)

    @asynccontextmanager
    async def administering(self) -> AsyncIterator[AIOKafkaAdminClient]:
        """An administrator, for the block."""
        admin = AIOKafkaAdminClient(**self._common())
        try:
            await admin.start()
            yield admin
        finally:
            with suppress(KafkaError):
                await admin.close()

    async def close(self) -> None:
        """Look after certificates no longer. Clients are closed by who asked for them."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait((self._following,))

    def _common(self) -> dict[str, Any]:
        common = {"bootstrap_servers": self._address.host_ports, "request_timeout_ms": 5000}
        if self._tls is None:
            return common
        if self._following is None:
            self._following = asyncio.create_task(self._tls.follow())
        return common | {"security_protocol": "SSL", "ssl_context": self._tls.context}


async def _started(client: Any) -> Any:
    """A client that is up; one that does not come up leaves nothing behind."""
    try:
        await client.start()
    except BaseException:
        with suppress(KafkaError, TimeoutError):
            await client.stop()
        raise
    return client


def placed(found: Mapping[TopicPartition, Sequence[Any]]) -> list[Placed]:
    """What a consumer brought, in this project's count."""
    return [
        Placed(one.partition, record.offset + 1, record.value) for one, batch in found.items() for record in batch
    ]  # fmt: skip
