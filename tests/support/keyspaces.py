"""A keyspace for tests, emptied between them."""

from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.policies import DCAwareRoundRobinPolicy
from cassandra.query import tuple_factory

from infra.local.servers.plans import ServerPlan
from infra.plumbing.addresses import parse_address
from region.store.cassandra_link import CassandraLink
from region.store.keyspace import migrate

TABLES = ("rows", "trends", "item_days", "progress", "erasures", "subject_keys", "keys_by_handle", "key_epochs")


class Keyspace:
    """Made and brought up to date at once; dropped at the end."""

    def __init__(self, server: ServerPlan, name: str) -> None:
        self.name = name
        self.address = parse_address(
            f"cassandra://{server.address}/{name}?data_center={server.region}", scheme="cassandra",
            options=CassandraLink.OPTIONS,
        )  # fmt: skip
        profile = ExecutionProfile(
            load_balancing_policy=DCAwareRoundRobinPolicy(server.region),
            row_factory=tuple_factory,
            request_timeout=30.0,
        )
        self.cluster = Cluster(
            [server.host], port=server.port, protocol_version=5, execution_profiles={EXEC_PROFILE_DEFAULT: profile},
            connect_timeout=20.0, control_connection_timeout=20.0,
        )  # fmt: skip
        self.session = self.cluster.connect()
        migrate(self.session, self.address, holder="tests")

    def empty(self) -> None:
        """Forget every row."""
        for table in TABLES:
            self.session.execute(f"TRUNCATE {self.name}.{table}")

    def close(self) -> None:
        """Drop it."""
        self.session.execute(f"DROP KEYSPACE IF EXISTS {self.name}")
        self.cluster.shutdown()
