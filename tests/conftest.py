"""What every test may ask for: the real servers, once per run."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from infra.local.servers.running import stop_servers
from infra.plumbing.clock import SystemClock
from tests.support.keyspaces import Keyspace
from tests.support.servers import Servers, servers_at

# No test needs a quick machine: an example may take what it takes.
settings.register_profile("atoll", deadline=None)
settings.load_profile("atoll")

STATE_VARIABLE = "ATOLL_TEST_SERVERS"
"""Set by `./atoll test`: where the servers of the whole run live; it ends them. Without it each pytest has its own."""


def state_of(base: Path, *, worker: bool) -> Path:
    """Where the servers of this run live; the workers of one run share them."""
    given = os.environ.get(STATE_VARIABLE)
    return Path(given) if given else (base.parent if worker else base) / "servers"


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Servers:
    """Cassandra, Hazelcast and Kafka, running."""
    worker = hasattr(request.config, "workerinput")
    return servers_at(state_of(tmp_path_factory.getbasetemp(), worker=worker))


@pytest.fixture(scope="session")
def keyspace(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Keyspace]:
    """A keyspace of this process's own."""
    worker = getattr(request.config, "workerinput", {}).get("workerid", "alone")
    opened = Keyspace(servers.cassandra, f"tests_{worker}_{os.getpid()}")
    yield opened
    opened.close()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the servers that this run started; the last process of it does."""
    if hasattr(session.config, "workerinput") or os.environ.get(STATE_VARIABLE):
        return
    factory = session.config._tmp_path_factory  # type: ignore[attr-defined]
    stop_servers(state_of(factory.getbasetemp(), worker=False), clock=SystemClock())
