"""The real servers that tests share: started when the first test asks, ended when the run does."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.cli.servers import ENVIRONMENTS, HOME, bring_servers
from infra.local.servers.installing import Home, find_java
from infra.local.servers.plans import ServerInput, ServerPlan, plan_servers
from infra.local.servers.running import start_servers
from infra.plumbing.clock import SystemClock
from infra.plumbing.progress import SilentProgress

REGION = "first"


class Servers:
    """One Cassandra, one Hazelcast and one Kafka."""

    def __init__(self, plans: list[ServerPlan]) -> None:
        self.cassandra, self.kafka, self.hazelcast = plans


def servers_at(state: Path) -> Servers:
    """Start what does not run at `state` yet; processes of one run that ask at once wait for each other."""
    with _one_at_a_time(state):
        bring_servers(SilentProgress())
        home = Home(HOME)
        plans = plan_servers(
            ServerInput(home=home, state=state, regions=(REGION,), java=find_java(ENVIRONMENTS))
        )  # fmt: skip
        start_servers(plans, state, clock=SystemClock(), progress=SilentProgress())
    return Servers(plans)


@contextmanager
def _one_at_a_time(state: Path) -> Iterator[None]:
    state.mkdir(parents=True, exist_ok=True)
    with (state / "tests.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
