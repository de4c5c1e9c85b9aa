"""The servers' own configuration files. Pure text; sizes are those of one machine that carries everything."""

from dataclasses import dataclass
from pathlib import Path

LOGBACK = """<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%-5level %date{ISO8601} %logger{20} - %msg%n%ex{6}</pattern></encoder>
  </appender>
  <root level="WARN"><appender-ref ref="out"/></root>
  <logger name="org.apache.cassandra.transport.PipelineConfigurator" level="INFO"/>
</configuration>
"""
"""Warnings, and the line that says that CQL is served."""

JAVA_LOGGING = """handlers = java.util.logging.ConsoleHandler
java.util.logging.ConsoleHandler.level = INFO
java.util.logging.SimpleFormatter.format = %4$s %1$tFT%1$tT %2$s - %5$s%n
.level = WARNING
com.hazelcast.core.LifecycleService.level = INFO
"""


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """PEM files of a server that is called over mutual TLS."""

    certificate: Path
    """Its own, with its key (PKCS #8)."""
    authority: Path
    """Whose certificates its clients must show."""


def cassandra_yaml(
    *, cluster: str, host: str, native_port: int, storage_port: int, tls: ServerFiles | None = None
) -> str:  # fmt: skip
    """One node that is a cluster of its own.

    `commitlog_sync: group` acknowledges a write when it is on the disk (`periodic`, the default, loses the last ones
    at kill -9); the window bounds what a write waits for others to share its sync.
    """
    return f"""cluster_name: '{cluster}'
num_tokens: 1
initial_token: '0'
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: GossipingPropertyFileSnitch
listen_address: {host}
rpc_address: {host}
storage_port: {storage_port}
native_transport_port: {native_port}
start_native_transport: true
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters:
      - seeds: "{host}:{storage_port}"
commitlog_sync: group
commitlog_sync_group_window: 2ms
commitlog_segment_size: 8MiB
commitlog_total_space: 256MiB
commitlog_disk_access_mode: legacy
cdc_enabled: false
auto_snapshot: false
snapshot_before_compaction: false
incremental_backups: false
hinted_handoff_enabled: false
memtable_heap_space: 48MiB
memtable_offheap_space: 48MiB
memtable_allocation_type: offheap_objects
file_cache_size: 32MiB
networking_cache_size: 16MiB
key_cache_size: 8MiB
row_cache_size: 0MiB
counter_cache_size: 0MiB
column_index_cache_size: 2KiB
concurrent_reads: 16
concurrent_writes: 32
concurrent_counter_writes: 2
concurrent_materialized_view_writes: 2
concurrent_compactors: 1
compaction_throughput: 0MiB/s
disk_access_mode: mmap_index_only
authenticator: AllowAllAuthenticator
authorizer: AllowAllAuthorizer
role_manager: CassandraRoleManager
internode_application_send_queue_reserve_endpoint_capacity: 8MiB
internode_application_receive_queue_reserve_endpoint_capacity: 8MiB
{_client_encryption(tls) if tls is not None else ""}"""


def _client_encryption(tls: ServerFiles) -> str:
    """CQL over TLS only, for clients that show a certificate. Between nodes there is nothing: there is one."""
    return f"""client_encryption_options:
  enabled: true
  optional: false
  require_client_auth: true
  protocol: TLS
  accepted_protocols: [TLSv1.2, TLSv1.3]
  ssl_context_factory:
    class_name: org.apache.cassandra.security.PEMBasedSslContextFactory
  keystore: {tls.certificate}
  truststore: {tls.authority}
"""


def rack_properties(data_center: str) -> str:
    """Which data centre the node is in: its region's, and nobody else's."""
    return f"dc={data_center}\nrack=one\n"


def hazelcast_yaml(*, cluster: str, host: str, port: int, map_bytes_mb: int) -> str:
    """One member that is a cluster of its own; entries least recently used leave when the heap's share is full."""
    properties = {
        # `network.interfaces` finds no match for 127.0.0.2 and up.
        "hazelcast.local.localAddress": host,
        "hazelcast.phone.home.enabled": "false",
        "hazelcast.logging.type": "jdk",
        "hazelcast.socket.bind.any": "false",
        "hazelcast.partition.count": "31",
        "hazelcast.operation.thread.count": "2",
        "hazelcast.operation.generic.thread.count": "2",
        "hazelcast.io.thread.count": "1",
        "hazelcast.io.input.thread.count": "1",
        "hazelcast.io.output.thread.count": "1",
        "hazelcast.event.thread.count": "1",
        "hazelcast.clientengine.thread.count": "2",
        "hazelcast.clientengine.query.thread.count": "1",
        "hazelcast.clientengine.blocking.thread.count": "2",
        "hazelcast.heartbeat.interval.seconds": "1",
        "hazelcast.max.no.heartbeat.seconds": "5",
        "hazelcast.wait.seconds.before.join": "0",
        "hazelcast.max.wait.seconds.before.join": "1",
        "hazelcast.initial.wait.seconds": "0",
        "hazelcast.graceful.shutdown.max.wait": "5",
        "hazelcast.shutdownhook.policy": "TERMINATE",
        "hazelcast.operation.backup.timeout.millis": "1000",
    }
    lines = "\n".join(f'    {name}: "{value}"' for name, value in properties.items())
    return f"""hazelcast:
  cluster-name: "{cluster}"
  properties:
{lines}
  jet:
    enabled: false
  integrity-checker:
    enabled: false
  network:
    public-address: "{host}:{port}"
    port:
      auto-increment: false
      port: {port}
    rest-api:
      enabled: false
    memcache-protocol:
      enabled: false
    join:
      auto-detection:
        enabled: false
      multicast:
        enabled: false
      tcp-ip:
        enabled: false
  map:
    default:
      backup-count: 0
      in-memory-format: BINARY
      statistics-enabled: true
      eviction:
        eviction-policy: LRU
        max-size-policy: USED_HEAP_SIZE
        size: {map_bytes_mb}
"""


def kafka_properties(
    *, host: str, port: int, controller_port: int, data: Path, tls: ServerFiles | None = None
) -> str:  # fmt: skip
    """One broker that is its own controller.

    With one copy of everything an acknowledgement must mean that the disk has it: `log.flush.interval.messages=1`.
    Topics are made by whoever knows how many partitions they need.
    """
    clients = "PLAINTEXT" if tls is None else "SSL"
    return f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners={clients}://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners={clients}://{host}:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name={clients}
listener.security.protocol.map={clients}:{clients},CONTROLLER:{clients}
log.dirs={data}
auto.create.topics.enable=false
log.flush.interval.messages=1
num.network.threads=2
num.io.threads=2
background.threads=2
num.recovery.threads.per.data.dir=1
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=2097152
log.segment.bytes=67108864
log.index.size.max.bytes=1048576
{_kafka_tls(tls) if tls is not None else ""}"""


def _kafka_tls(tls: ServerFiles) -> str:
    """Every listener over TLS, for clients that show a certificate; the controller's too."""
    return f"""ssl.client.auth=required
ssl.keystore.type=PEM
ssl.keystore.location={tls.certificate}
ssl.truststore.type=PEM
ssl.truststore.location={tls.authority}
"""
