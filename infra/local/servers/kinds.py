"""What the servers are to the Java that runs them: class paths, main classes, options, how they say they are up."""

import enum
from dataclasses import dataclass
from pathlib import Path

from infra.plumbing.errors import AtollError

POMS = Path(__file__).with_name("poms")
JAVA_MAJOR = 17
"""Cassandra 5.0 runs on 11 and 17, Kafka 4 on 17 and up: one Java for all."""


class ServerError(AtollError):
    """A server could not be brought, configured, started or stopped; says what to do."""


class ServerKind(enum.StrEnum):
    """Which server."""

    CASSANDRA = "cassandra"
    HAZELCAST = "hazelcast"
    KAFKA = "kafka"

    @property
    def pom(self) -> Path:
        """Pins its class path."""
        return POMS / f"{self.value}.xml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a kind is run. Memory is bounded by the options; on two cores the compiler stops at its first tier."""

    main: str
    options: tuple[str, ...]
    started: str
    """What it prints when it takes calls (its port opens earlier); empty: it says nothing, its open port does."""


_COMMON = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Xshare:auto",
    "-Xss512k",
    "-XX:+ExitOnOutOfMemoryError",
)
_OPENED = ("java.base/java.io", "java.base/sun.nio.ch", "java.base/jdk.internal.ref")

LAUNCHES: dict[ServerKind, Launch] = {
    ServerKind.CASSANDRA: Launch(
        main="org.apache.cassandra.service.CassandraDaemon",
        options=(
            # As root the whole -Xms is locked into memory: small.
            *_COMMON, "-Xms64m", "-Xmx320m", "-XX:MaxDirectMemorySize=256m", "-Djava.net.preferIPv4Stack=true",
            *(f"--add-opens={package}=ALL-UNNAMED" for package in _OPENED),
            "-Dcassandra-foreground=yes", "-Dcassandra.skip_wait_for_gossip_to_settle=0",
            "-Dcassandra.ring_delay_ms=1", "-Dcassandra.shutdown_announce_in_ms=0",
            "-Dcassandra.superuser_setup_delay_ms=0",
        ),
        started="Starting listening for CQL clients",
    ),
    ServerKind.HAZELCAST: Launch(
        main="com.hazelcast.core.server.HazelcastMemberStarter",
        options=(*_COMMON, "-Xms32m", "-Xmx192m", "-Djava.net.preferIPv4Stack=true"),
        started="is STARTED",
    ),
    ServerKind.KAFKA: Launch(
        main="kafka.Kafka",
        options=(*_COMMON, "-Xms64m", "-Xmx256m", "-Djava.net.preferIPv4Stack=true"),
        started="",
    ),
}  # fmt: skip
