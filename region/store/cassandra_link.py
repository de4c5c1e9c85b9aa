"""One process's way to a region's Cassandra: connected by a thread, asked from asyncio, and honest when it is gone.

* The driver's connections live on the loop that opens the link (`region.store.cassandra_loop`), so completions arrive
  there. What completes on another thread (retries, the end of a connection), or is asked from another loop, goes
  through one deque with one wake-up, however many arrive at once.
* Protocol version 4: what 5 adds for us is a checksum around every frame, which the driver computes in Python (20 us a
  read), and a row that is not what was written does not open under its key.
* The driver keeps no schema, but the replication of the keyspace, without which it would not know whose row is where.
* Connecting never holds anybody up: until it has succeeded, calls fail at once (the very first ones wait within their
  time). Later losses are the driver's to mend; calls fail as long as no node answers.
* Only nodes of the region's own data centre are ever asked.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from cassandra import ConsistencyLevel, DriverException, OperationTimedOut
from cassandra.cluster import (
    EXEC_PROFILE_DEFAULT,
    Cluster,
    DefaultConnection,
    ExecutionProfile,
    NoHostAvailable,
    Session,
)
from cassandra.policies import DCAwareRoundRobinPolicy, ExponentialReconnectionPolicy, TokenAwarePolicy
from cassandra.query import PreparedStatement, tuple_factory
from prometheus_client import CollectorRegistry

from infra.plumbing.addresses import PartAddress
from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import SettingsError
from infra.plumbing.http.tls import ClientTls, TlsContext, client_context
from infra.plumbing.ids import new_request_id
from infra.plumbing.reloading import LOOK_EVERY_S
from region.store.cassandra_loop import LoopConnection
from region.store.keyspace import (
    StoreSchemaError,
    check_keys,
    check_schema,
    checked_names,
    explain,
    is_drift,
    migrate,
    queries,
)
from region.store.lane import LaneMetrics
from region.store.port import StoreUnavailableError

_log = logging.getLogger(__name__)
Row = tuple[Any, ...]
IN_FLIGHT_MAX = 2048
CONNECT_TIMEOUT_S = 5.0
PROTOCOL_VERSION = 4
NODES_MAX = 64
"""Asked one behind the other by `ask_nodes`."""
_BACKOFF_MIN_S, _BACKOFF_MAX_S = 0.2, 2.0
_IDEMPOTENT = frozenset(
    {"read_subject", "read_choice", "load_state", "load_trend", "load_item_day", "trending", "item_days",
     "read_offsets", "save_trend", "save_item_day", "save_offset", "load_handle", "load_key", "list_keys", "load_epoch",
     "save_epoch"}
)  # fmt: skip
"""What may be asked twice; conditional updates may not: whether the first one happened is not known."""


class _Bridge:
    """Completions to one loop: at once where they arrive on its thread, else by waking it.

    The interleaving: another thread appends, then looks at `_woken`. The loop clears `_woken` before it empties
    the deque, so an append that it does not see has seen a cleared flag and wakes it again.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._thread = threading.get_ident()
        self._done: deque[tuple[asyncio.Future[list[Row]], Any, Exception | None]] = deque()
        self._woken = False

    def succeeded(self, rows: Any, future: "asyncio.Future[list[Row]]") -> None:
        """Called wherever the driver is."""
        if threading.get_ident() != self._thread:
            self._done.append((future, rows, None))
            self._wake()
        elif not future.done():
            future.set_result(rows or [])

    def failed(self, error: Exception, future: "asyncio.Future[list[Row]]") -> None:
        """Called wherever the driver is."""
        self._done.append((future, None, error))
        self._wake()

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                self.loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._woken = False
        while self._done:
            future, rows, error = self._done.popleft()
            if future.done():
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(rows or [])


class CassandraLink:
    """See the module.

    Args:
        address: nodes, keyspace, `data_center`, `copies` (of every row, when the keyspace is made) and `migrate`
            (`manual`: never by itself).
        registry: where calls that could not be served are counted.
        in_flight_max: calls that may wait for Cassandra.
        metrics: begins the names of the counts: a process may have more than one link.
        tls: how nodes are called; None: in plain. Its files are followed: new connections show and take new ones.

    It connects on the loop that it is made in, else on that of its first call; when that has ended, anew on that of the
    next call.

    Raises:
        SettingsError: a name in the address, or a TLS file, cannot be used.
    """

    OPTIONS = frozenset({"data_center", "copies", "migrate"})

    def __init__(
        self, address: PartAddress, *, registry: CollectorRegistry | None = None, in_flight_max: int = IN_FLIGHT_MAX,
        metrics: str = "atoll_store", tls: ClientTls | None = None,
    ) -> None:  # fmt: skip
        self._tls = client_context(tls, clock=SystemClock()) if tls is not None else None
        self._keyspace, center = checked_names(address)
        self._address = address
        self._metrics = LaneMetrics(registry if registry is not None else CollectorRegistry(), metrics)
        self._in_flight_max = in_flight_max
        self._in_flight = 0
        self._bridge: _Bridge | None = None
        self._session: Session | None = None
        self._prepared: dict[str, PreparedStatement] = {}
        self._trouble: Exception | None = None
        self._said = ""
        self._attempted = threading.Event()
        self._stop = threading.Event()
        self._center = center
        self._cluster: Cluster | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        with suppress(RuntimeError):  # no loop runs here: the first call begins
            self._begin_connecting(asyncio.get_running_loop())

    @staticmethod
    def make_cluster(
        address: PartAddress, center: str, tls: TlsContext | None = None, *,
        connections: type[Any] | None = None,
    ) -> Cluster:  # fmt: skip
        """A cluster object that asks nodes of `center` only; not connected yet.

        `connections`: the class of its connections; None: the driver's own, on a thread of the driver.
        """
        own_nodes = TokenAwarePolicy(DCAwareRoundRobinPolicy(center, used_hosts_per_remote_dc=0))
        profile = ExecutionProfile(
            load_balancing_policy=own_nodes, consistency_level=ConsistencyLevel.LOCAL_QUORUM,
            serial_consistency_level=ConsistencyLevel.LOCAL_SERIAL, row_factory=tuple_factory, request_timeout=10.0,
        )  # fmt: skip
        return Cluster(
            [host for host, _ in address.hosts], port=address.hosts[0][1], protocol_version=PROTOCOL_VERSION,
            execution_profiles={EXEC_PROFILE_DEFAULT: profile}, connect_timeout=CONNECT_TIMEOUT_S,
            control_connection_timeout=CONNECT_TIMEOUT_S, idle_heartbeat_interval=2, idle_heartbeat_timeout=2,
            reconnection_policy=ExponentialReconnectionPolicy(_BACKOFF_MIN_S, _BACKOFF_MAX_S),
            schema_metadata_enabled=False, token_metadata_enabled=True,
            ssl_context=tls.context if tls is not None else None,
            connection_class=connections or DefaultConnection,
        )  # fmt: skip

    async def ask(self, query: str, values: Sequence[Any], *, timeout_s: float) -> list[Row]:
        """Run a named query; its rows (the first page of them).

        Raises:
            StoreUnavailableError: not connected, too much in flight, no answer in time, or Cassandra failed.
        """
        session = await self._connected(timeout_s)
        if session is None:
            raise self._not_connected()
        if self._in_flight >= self._in_flight_max:
            raise self._error("queue", "has too many calls waiting")
        loop = asyncio.get_running_loop()
        bridge = self._bridge
        if bridge is None or bridge.loop is not loop:
            bridge = self._bridge = _Bridge(loop)
        future: asyncio.Future[list[Row]] = loop.create_future()
        self._in_flight += 1
        try:
            response = session.execute_async(self._prepared[query], values, timeout=timeout_s)
            response.add_callbacks(bridge.succeeded, bridge.failed, (future,), None, (future,), None)
            return await future
        except OperationTimedOut as error:
            raise self._error("timeout", f"did not answer within {timeout_s:g} s") from error
        except NoHostAvailable as error:
            raise self._error("unreachable", "has no node that answers") from error
        except DriverException as error:
            raise self._refused(error) from error
        finally:
            self._in_flight -= 1

    async def ask_all(self, query: str, values: Sequence[Any], *, timeout_s: float) -> list[Row]:
        """Every page of a named query, fetched by a thread: for scans.

        Raises:
            StoreUnavailableError: as `ask`.
        """
        session = await self._connected(timeout_s)
        if session is None:
            raise self._not_connected()
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.to_thread(
                    lambda: list(session.execute(self._prepared[query], values, timeout=timeout_s))
                )
        except (TimeoutError, OperationTimedOut) as error:
            raise self._error("timeout", f"did not answer within {timeout_s:g} s") from error
        except NoHostAvailable as error:
            raise self._error("unreachable", "has no node that answers") from error
        except DriverException as error:
            raise self._refused(error) from error

    @property
    def keyspace(self) -> str:
        """The region's keyspace."""
        return self._keyspace

    async def ask_nodes(self, text: str, *, timeout_s: float) -> tuple[dict[str, list[Row]], dict[str, str]]:
        """Ask every node of the region's data centre about itself; answers by address, and why others gave none.

        Raises:
            StoreUnavailableError: not connected.
        """
        session = await self._connected(timeout_s)
        if session is None:
            raise self._not_connected()
        nodes = [one for one in session.cluster.metadata.all_hosts() if one.datacenter == self._center][:NODES_MAX]

        def ask() -> tuple[dict[str, list[Row]], dict[str, str]]:
            answers: dict[str, list[Row]] = {}
            silent: dict[str, str] = {}
            for node in nodes:
                try:
                    answers[str(node.address)] = list(session.execute(text, timeout=timeout_s, host=node))
                except (DriverException, NoHostAvailable, OperationTimedOut) as error:
                    silent[str(node.address)] = type(error).__name__
            return answers, silent

        return await asyncio.to_thread(ask)

    async def close(self) -> None:
        """Let go of every connection."""
        self._stop.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        if self._cluster is not None:
            await asyncio.to_thread(self._cluster.shutdown)
        self._session = None

    async def _connected(self, timeout_s: float) -> Session | None:
        """The session; None when there is none by now."""
        loop = self._loop
        if (loop is None or loop.is_closed()) and not self._stop.is_set():
            self._begin_connecting(asyncio.get_running_loop())
        if self._session is None and not self._attempted.is_set():
            await asyncio.to_thread(self._attempted.wait, timeout_s)
        return self._session

    def _begin_connecting(self, loop: asyncio.AbstractEventLoop) -> None:
        before, self._cluster, self._session = self._cluster, None, None
        self._loop = loop
        self._attempted.clear()
        self._thread = threading.Thread(
            target=self._keep_trying, args=(LoopConnection.on(loop), before), name="cassandra-connect", daemon=True
        )
        self._thread.start()

    def _keep_trying(self, connections: type[LoopConnection], before: Cluster | None) -> None:
        if before is not None:
            before.shutdown()
        backoff_s = _BACKOFF_MIN_S
        while not (self._stop.is_set() or connections.loop.is_closed()):
            try:
                if self._tls is not None:
                    self._tls.refresh()
                self._connect(connections)
            except Exception as error:  # whatever it is, the callers are told
                self._trouble = error
                self._attempted.set()
                self._say(self._trouble_told())
                self._stop.wait(backoff_s)
                backoff_s = min(_BACKOFF_MAX_S, 2 * backoff_s)
            else:
                self._attempted.set()
                while self._tls is not None and self._loop is connections.loop and not self._stop.wait(LOOK_EVERY_S):
                    self._tls.refresh()
                return

    def _connect(self, connections: type[LoopConnection]) -> None:
        # A cluster object whose first connection failed is shut down for ever: each attempt has its own.
        cluster = self.make_cluster(self._address, self._center, self._tls, connections=connections)
        try:
            session = cluster.connect()
            if self._address.options.get("migrate") == "manual":
                check_schema(session, self._keyspace)
            else:
                migrate(session, self._address, holder=new_request_id())
            check_keys(session, self._keyspace)
            cluster.refresh_keyspace_metadata(self._keyspace)
            session.set_keyspace(self._keyspace)
            for name, text in queries().items():
                statement = session.prepare(text)
                statement.is_idempotent = name in _IDEMPOTENT
                self._prepared[name] = statement
        except BaseException:
            cluster.shutdown()
            raise
        self._cluster, self._session = cluster, session

    def _not_connected(self) -> StoreUnavailableError:
        self._metrics.unavailable.labels("cassandra", "unreachable").inc()
        return self._trouble_told()

    def _say(self, error: StoreUnavailableError) -> None:
        """Write down what is wrong, once: whoever starts a node must not have to ask it why its lists are degraded."""
        if str(error) != self._said:
            self._said = str(error)
            _log.warning("the store cannot be used: %s", error)

    def _trouble_told(self) -> StoreUnavailableError:
        """Why there is no connection."""
        trouble = self._trouble
        if isinstance(trouble, StoreSchemaError | SettingsError):
            return StoreSchemaError(trouble.message, fix=trouble.fix)
        why = f": {explain(trouble, self._keyspace)}" if trouble is not None else ""
        return StoreUnavailableError(f"Cassandra is not connected{why}.", fix="See whether its nodes run.")

    def _refused(self, error: DriverException) -> StoreUnavailableError:
        if is_drift(error):
            self._metrics.unavailable.labels("cassandra", "schema").inc()
            drift = StoreSchemaError(
                f"{explain(error, self._keyspace)}.",
                fix="`./atoll store check --settings FILE` (or `python -m region.store check`) says what is missing.",
            )
            self._say(drift)
            return drift
        return self._error("error", explain(error, self._keyspace))

    def _error(self, cause: str, what: str) -> StoreUnavailableError:
        self._metrics.unavailable.labels("cassandra", cause).inc()
        return StoreUnavailableError(f"Cassandra {what}.")
