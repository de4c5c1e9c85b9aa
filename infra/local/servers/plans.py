"""From a list of regions to servers: addresses, files, commands. Pure; nothing is written or started here.

Every server has a loopback address of its own (all of 127.0.0.0/8 is this machine) and the port that its kind has
everywhere, so that two worlds on one machine never meet: the two middle bytes come from the state's path.
"""

import base64
import hashlib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.local.certificates import AUTHORITY, certificate_file
from infra.local.servers import configuring
from infra.local.servers.installing import Home
from infra.local.servers.kinds import LAUNCHES, ServerKind

CASSANDRA_PORT, CASSANDRA_STORAGE_PORT = 9042, 7000
HAZELCAST_PORT = 5701
KAFKA_PORT, KAFKA_CONTROLLER_PORT = 9092, 9093
HAZELCAST_HEAP_SHARE_MB = 96
_FIRST_CASSANDRA, _FIRST_HAZELCAST, _KAFKA = 10, 50, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPlan:
    """One server to run."""

    name: str
    """`us-east/cassandra`; `kafka`, which all regions of one machine share."""
    kind: ServerKind
    region: str
    host: str
    port: int
    other_ports: tuple[int, ...]
    folder: Path
    """Its configuration and data."""
    command: tuple[str, ...]
    files: dict[Path, bytes]
    format_command: tuple[str, ...] = ()
    """What must run once over an empty data folder."""
    tls: bool = False
    """Whether it is called over mutual TLS only."""

    @property
    def address(self) -> str:
        """`host:port` for clients."""
        return f"{self.host}:{self.port}"

    @property
    def data(self) -> Path:
        """What the server itself writes."""
        return self.folder / "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInput:
    """What plans are made from.

    Args:
        state: the folder whose servers these are.
        regions: names.
        kinds: which servers.
        java: the program.
        write_archives: at its exit each server writes its class archive, under a name of its own (`archive_draft`).
        tls: the folder of the servers' authorities (`infra.local.servers.authorities`): Cassandra and Kafka are called
            over mutual TLS. Hazelcast is not: its open-source edition has no TLS. None: all plain.
    """

    home: Home
    state: Path
    regions: Sequence[str]
    java: str
    kinds: frozenset[ServerKind] = frozenset(ServerKind)
    write_archives: bool = False
    tls: Path | None = None

    def files_of(self, name: str) -> configuring.ServerFiles | None:
        """The PEM files of the server `name`."""
        if self.tls is None:
            return None
        folder = server_authority(self.tls, name)
        return configuring.ServerFiles(certificate_file(folder, name), folder / AUTHORITY)


def plan_servers(given: ServerInput) -> list[ServerPlan]:
    """One Cassandra and one Hazelcast per region, one Kafka for all; stores first, they take longest."""
    plans: list[ServerPlan] = []
    for number, region in enumerate(given.regions):
        if ServerKind.CASSANDRA in given.kinds:
            plans.append(_cassandra(given, region, address_of(given.state, _FIRST_CASSANDRA + number)))
    if ServerKind.KAFKA in given.kinds:
        plans.append(_kafka(given, address_of(given.state, _KAFKA)))
    for number, region in enumerate(given.regions):
        if ServerKind.HAZELCAST in given.kinds:
            plans.append(_hazelcast(given, region, address_of(given.state, _FIRST_HAZELCAST + number)))
    return plans


def address_of(state: Path, number: int) -> str:
    """The loopback address of a state's server `number` (2 to 254)."""
    spread = zlib.crc32(str(state).encode())
    return f"127.{1 + spread % 250}.{spread // 250 % 250}.{number}"


def server_authority(tls: Path, server: str) -> Path:
    """Folder of the authority of one server, below the world's certificates."""
    return tls / "servers" / server.replace("/", ".")


def secured(plans: Iterable[ServerPlan]) -> dict[str, str]:
    """Which servers need a certificate where there is TLS, and for which address."""
    return {plan.name: plan.host for plan in plans if plan.kind is not ServerKind.HAZELCAST}


def store_address(plan: ServerPlan) -> str:
    """What a region's `store` setting says for a Cassandra of ours."""
    return f"cassandra://{plan.address}/{keyspace_of(plan.region)}?data_center={plan.region}"


def log_address(plan: ServerPlan, region: str) -> str:
    """What a region's `log` setting says: a topic of its own."""
    return f"kafka://{plan.address}/atoll.{region}.events"


def grid_address(plan: ServerPlan) -> str:
    """What the `grid` setting of a region's processes says."""
    return f"hazelcast://{plan.address}/{cluster_of(plan.region)}"


def keyspace_of(region: str) -> str:
    """The region's keyspace."""
    return f"atoll_{region.replace('-', '_')}"


def cluster_of(region: str) -> str:
    """The region's cluster, of either kind."""
    return f"atoll-{region}"


def archive_draft(home: Home, kind: ServerKind) -> Path:
    """A class archive that may not be whole yet."""
    return home.archive(kind).with_suffix(".part")


def _java(given: ServerInput, kind: ServerKind, *options: str) -> tuple[str, ...]:
    archive = given.home.archive(kind)
    share: tuple[str, ...] = ()
    if given.write_archives:
        share = (f"-XX:ArchiveClassesAtExit={archive_draft(given.home, kind)}",)
    elif archive.is_file():
        share = (f"-XX:SharedArchiveFile={archive}",)
    launch = LAUNCHES[kind]
    return (given.java, *share, *launch.options, *options, "-cp", given.home.class_path(kind), launch.main)


def _cassandra(given: ServerInput, region: str, host: str) -> ServerPlan:
    name, kind = f"{region}/cassandra", ServerKind.CASSANDRA
    folder = given.state / region / "cassandra"
    files = {
        folder / "cassandra.yaml": configuring.cassandra_yaml(
            cluster=cluster_of(region),
            host=host,
            native_port=CASSANDRA_PORT,
            storage_port=CASSANDRA_STORAGE_PORT,
            tls=given.files_of(name),
        ),
        folder / "rack.properties": configuring.rack_properties(region),
        folder / "logback.xml": configuring.LOGBACK,
    }
    command = _java(
        given, kind,
        f"-Dcassandra.config={(folder / 'cassandra.yaml').as_uri()}",
        f"-Dcassandra-rackdc.properties={(folder / 'rack.properties').as_uri()}",
        f"-Dcassandra.storagedir={folder / 'data'}",
        f"-Dlogback.configurationFile={folder / 'logback.xml'}",
    )  # fmt: skip
    return ServerPlan(
        name=name, kind=kind, region=region, host=host, port=CASSANDRA_PORT, other_ports=(CASSANDRA_STORAGE_PORT,),
        folder=folder, command=command, files=_encoded(files), tls=given.tls is not None,
    )  # fmt: skip


def _hazelcast(given: ServerInput, region: str, host: str) -> ServerPlan:
    name, kind = f"{region}/hazelcast", ServerKind.HAZELCAST
    folder = given.state / region / "hazelcast"
    yaml = configuring.hazelcast_yaml(
        cluster=cluster_of(region), host=host, port=HAZELCAST_PORT, map_bytes_mb=HAZELCAST_HEAP_SHARE_MB
    )
    files = {folder / "hazelcast.yaml": yaml, folder / "logging.properties": configuring.JAVA_LOGGING}
    command = _java(
        given, kind,
        f"-Dhazelcast.config={folder / 'hazelcast.yaml'}",
        f"-Djava.util.logging.config.file={folder / 'logging.properties'}",
    )  # fmt: skip
    return ServerPlan(
        name=name, kind=kind, region=region, host=host, port=HAZELCAST_PORT, other_ports=(), folder=folder,
        command=command, files=_encoded(files),
    )  # fmt: skip


def _kafka(given: ServerInput, host: str) -> ServerPlan:
    kind, folder = ServerKind.KAFKA, given.state / "kafka"
    properties = folder / "kafka.properties"
    files = {
        properties: configuring.kafka_properties(
            host=host,
            port=KAFKA_PORT,
            controller_port=KAFKA_CONTROLLER_PORT,
            data=folder / "data",
            tls=given.files_of("kafka"),
        ),
    }
    command = (*_java(given, kind), str(properties))
    format_command = (
        given.java, "-cp", given.home.class_path(kind), "kafka.tools.StorageTool", "format",
        "-t", _cluster_id(given.state), "-c", str(properties),
    )  # fmt: skip
    return ServerPlan(
        name="kafka", kind=kind, region="", host=host, port=KAFKA_PORT, other_ports=(KAFKA_CONTROLLER_PORT,),
        folder=folder, command=command, files=_encoded(files), format_command=format_command, tls=given.tls is not None,
    )  # fmt: skip


def _cluster_id(state: Path) -> str:
    digest = hashlib.sha256(str(state).encode()).digest()
    # The first of its letters stands for the six highest bits. Kafka's tool would take "-" there for an option.
    digest = bytes([digest[0] & 0x7F]) + digest[1:16]
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _encoded(files: dict[Path, str]) -> dict[Path, bytes]:
    return {path: text.encode() for path, text in files.items()}
