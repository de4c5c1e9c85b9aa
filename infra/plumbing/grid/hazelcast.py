"""The grid on Hazelcast: its asyncio client, held to this project's rules.

* Each call has its own deadline here: a frozen member would hold a default client for a minute.
* One client lives as long as its connection. When that is lost a new client is made and every topic is subscribed
  again; only then do subscribers hear None, so nothing that is published afterwards can be missed unnoticed.
* The client's own near cache stays off (each of its evictions copies every value): the edge has one of its own.
* Hazelcast counts an entry's life in whole seconds. The exact moment stands in front of the value, and is looked at.

Not thread-safe, as its client; one per process and loop.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hazelcast.asyncio import HazelcastClient, Map
from hazelcast.config import ReconnectMode
from hazelcast.errors import HazelcastError
from hazelcast.lifecycle import LifecycleState
from prometheus_client import CollectorRegistry, Counter

from infra.plumbing.addresses import PartAddress
from infra.plumbing.clock import Clock
from infra.plumbing.grid.limits import check_key, check_value
from infra.plumbing.grid.port import GridUnavailableError
from infra.plumbing.grid.topics import Subscription, Topics

T = TypeVar("T")
MAP_NAME = "atoll"
IN_FLIGHT_MAX = 4096
_BACKOFF_MIN_S = 0.05
_BACKOFF_MAX_S = 1.0
_MOMENT_BYTES = 8
_FIRST_CONNECTION_S = 2.0
"""The first call of a process may wait for its connection a little, within its own time."""

FAST_FAIL: dict[str, Any] = {
    "heartbeat_interval": 0.5, "heartbeat_timeout": 2.0, "invocation_timeout": 3.0, "invocation_retry_pause": 0.1,
    "retry_initial_backoff": 0.05, "retry_max_backoff": 0.5, "cluster_connect_timeout": 1.0, "connection_timeout": 1.0,
    "redo_operation": True, "operation_backup_timeout": 0.3, "reconnect_mode": ReconnectMode.ASYNC,
    "statistics_enabled": False,
}  # fmt: skip
"""What lets the client notice a dead or frozen member in about two seconds; measured values, defaults take minutes.

`ASYNC` though a lost client is given up here: with `OFF` its shutdown waits for itself (5.7.0)."""
_SHUTDOWN_S = 2.0


@dataclass(slots=True)
class _Link:
    """One client's life."""

    client: HazelcastClient
    entries: "Map[str, bytearray]"
    topics: dict[str, Any] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    noted: set[str] = field(default_factory=set)


class HazelcastGrid:
    """`infra.plumbing.grid.port.Grid` over a Hazelcast cluster. Connects at the first use, inside a running loop.

    Args:
        address: members, and the cluster's name.
        clock: its wall time bounds the life of values; members and callers agree on it to a second or so.
        call_timeout_s: time of a get, put or delete.
        publish_timeout_s: time of a publish.
        registry: where failed calls and connections are counted.
    """

    def __init__(
        self, address: PartAddress, *, clock: Clock, call_timeout_s: float = 0.005, publish_timeout_s: float = 0.25,
        registry: CollectorRegistry | None = None,
    ) -> None:  # fmt: skip
        registry = registry if registry is not None else CollectorRegistry()
        self._address = address
        self._clock = clock
        self._call_timeout_s = call_timeout_s
        self._publish_timeout_s = publish_timeout_s
        self._subscribers = Topics()
        self._link: _Link | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._helpers: set[asyncio.Task[None]] = set()
        self._first_attempt = asyncio.Event()
        self._in_flight = 0
        self._closed = False
        self._failures = Counter(
            "atoll_grid_client_failures", "Calls that the grid did not serve, by cause.", ("cause",), registry=registry
        )
        self._connects = Counter("atoll_grid_client_connects", "Connections made.", registry=registry)

    async def get(self, key: str) -> bytes | None:
        """The value, or None."""
        check_key(key)
        link = await self._linked(self._call_timeout_s)
        found = await self._bounded(link.entries.get(key), self._call_timeout_s)
        if found is None:
            return None
        moment_ms = int.from_bytes(found[:_MOMENT_BYTES], "big")
        return bytes(found[_MOMENT_BYTES:]) if self._clock.now_ms() < moment_ms else None

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        """Keep `value` for at most `ttl_s` seconds."""
        check_key(key)
        check_value(value)
        link = await self._linked(self._call_timeout_s)
        # Written so that a NaN is not kept for ever.
        if not ttl_s > 0:
            await self._bounded(link.entries.delete(key), self._call_timeout_s)
            return
        moment_ms = self._clock.now_ms() + round(ttl_s * 1000)
        # A bytearray travels as it is; random bytes would be pickled.
        content = bytearray(moment_ms.to_bytes(_MOMENT_BYTES, "big"))
        content += value
        await self._bounded(link.entries.set(key, content, ttl=math.ceil(ttl_s) + 1), self._call_timeout_s)

    async def delete(self, key: str) -> None:
        """Forget `key`."""
        check_key(key)
        link = await self._linked(self._call_timeout_s)
        await self._bounded(link.entries.delete(key), self._call_timeout_s)

    async def publish(self, topic: str, message: bytes) -> None:
        """Tell every subscriber of `topic`."""
        check_key(topic)
        check_value(message)
        link = await self._linked(self._publish_timeout_s)
        await self._bounded(self._publish(link, topic, message), self._publish_timeout_s)

    def subscribe(self, topic: str) -> AsyncIterator[bytes | None]:
        """None as soon as the cluster has noted the subscription, then messages; None again after a new connection."""
        check_key(topic)
        subscription = Subscription()
        self._subscribers.add(topic, subscription)
        self._start()
        if self._link is not None:
            if topic in self._link.noted:
                subscription.offer(None)
            else:
                self._help(self._note(self._link, topic))
        return subscription

    async def close(self) -> None:
        """Drop the connection and end every subscription."""
        self._closed = True
        self._subscribers.close()
        for task in (self._keeper, *self._helpers):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def _publish(self, link: _Link, topic: str, message: bytes) -> None:
        await (await _topic(link, topic)).publish(bytearray(message))

    async def _bounded(self, call: Coroutine[Any, Any, T], timeout_s: float) -> T:
        if self._in_flight >= IN_FLIGHT_MAX:
            call.close()
            raise self._error("crowded", "too many calls wait for the grid.")
        self._in_flight += 1
        try:
            async with asyncio.timeout(timeout_s):
                return await call
        except TimeoutError:
            raise self._error("timeout", f"the grid did not answer within {timeout_s * 1000:g} ms.") from None
        except (HazelcastError, OSError) as error:
            raise self._error("error", f"the grid failed: {type(error).__name__}.") from error
        finally:
            self._in_flight -= 1

    def _error(self, cause: str, message: str) -> GridUnavailableError:
        self._failures.labels(cause).inc()
        return GridUnavailableError(message)

    async def _linked(self, timeout_s: float) -> _Link:
        link = self._link
        if link is None and not self._closed and not self._first_attempt.is_set():
            self._start()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(timeout_s, _FIRST_CONNECTION_S)):
                    await self._first_attempt.wait()
            link = self._link
        if link is None or self._closed:
            raise self._error("disconnected", "the grid is not connected.")
        return link

    def _start(self) -> None:
        if self._keeper is None and not self._closed:
            # It warns at every attempt; attempts and failures are counted here.
            logging.getLogger("hazelcast").setLevel(logging.CRITICAL)
            self._keeper = asyncio.get_running_loop().create_task(self._keep_connected())

    async def _keep_connected(self) -> None:
        backoff_s = _BACKOFF_MIN_S
        while True:
            lost = asyncio.Event()
            client: HazelcastClient | None = None
            try:
                client = await self._connect(lost)
                backoff_s = _BACKOFF_MIN_S
                await lost.wait()
            except (HazelcastError, OSError, TimeoutError, ExceptionGroup):
                backoff_s = min(_BACKOFF_MAX_S, 2 * backoff_s)
            finally:
                self._link = None
                self._first_attempt.set()
                if client is not None:
                    await _give_up(client)
            await asyncio.sleep(backoff_s)

    async def _connect(self, lost: asyncio.Event) -> HazelcastClient:
        def on_state(state: str) -> None:
            if state in (LifecycleState.DISCONNECTED, LifecycleState.SHUTDOWN):
                lost.set()

        client = await HazelcastClient.create_and_start(
            cluster_name=self._address.name, cluster_members=self._address.host_ports, lifecycle_listeners=[on_state],
            **FAST_FAIL,
        )  # fmt: skip
        try:
            link = _Link(client, await client.get_map(MAP_NAME))
            for topic in self._subscribers:
                await self._note(link, topic)
            # Whoever subscribed meanwhile to a topic that was not there yet.
            self._link = link
            for topic in self._subscribers:
                if topic not in link.asked:
                    self._help(self._note(link, topic))
        except BaseException:
            await _give_up(client)
            raise
        self._connects.inc()
        self._first_attempt.set()
        return client

    async def _note(self, link: _Link, topic: str) -> None:
        """Subscribe a topic at the cluster and tell its subscribers None."""
        if topic in link.asked:
            return
        link.asked.add(topic)
        proxy = await _topic(link, topic)

        def on_message(event: Any) -> None:
            if self._link is link or self._link is None:
                self._subscribers.offer(topic, bytes(event.message))

        await proxy.add_listener(on_message)
        link.noted.add(topic)
        self._subscribers.offer(topic, None)

    def _help(self, work: Coroutine[Any, Any, None]) -> None:
        async def run() -> None:
            try:
                await work
            except (HazelcastError, OSError, ExceptionGroup):
                self._failures.labels("subscribe").inc()
                self._link = None  # unusable: subscribers would wait for ever
                if self._keeper is not None:
                    self._keeper.cancel()
                self._keeper = None
                self._start()

        task = asyncio.get_running_loop().create_task(run())
        self._helpers.add(task)
        task.add_done_callback(self._helpers.discard)


async def _give_up(client: HazelcastClient) -> None:
    """End a client, whatever it says."""
    with suppress(Exception):
        async with asyncio.timeout(_SHUTDOWN_S):
            await client.shutdown()


async def _topic(link: _Link, name: str) -> Any:
    found = link.topics.get(name)
    if found is None:
        found = link.topics[name] = await link.client.get_topic(name)
    return found
