"""Real servers for a measurement: brought when they are missing, started in the suite's own folder, ended with it."""

from collections.abc import Iterator
from contextlib import contextmanager

from infra.bench.catalogue import BenchRequest
from infra.local.servers.archiving import make_archives
from infra.local.servers.installing import Home, find_java, install
from infra.local.servers.kinds import ServerKind
from infra.local.servers.plans import ServerInput, ServerPlan, plan_servers
from infra.local.servers.running import start_servers, stop_servers

REGION = "bench"


def bring(request: BenchRequest) -> str:
    """Install what is missing; returns the Java.

    Raises:
        ServerError: there is no Java, or a server cannot be brought.
    """
    home, java = Home(request.environments.parent / "servers"), find_java(request.environments)
    install(home, progress=request.progress)
    make_archives(home, java=java, clock=request.clock, progress=request.progress)
    return java


@contextmanager
def running_servers(request: BenchRequest, *kinds: ServerKind) -> Iterator[dict[ServerKind, ServerPlan]]:
    """One server of each kind, for the length of the block.

    Raises:
        ServerError: there is no Java, or a server cannot be brought or started.
    """
    java, state = bring(request), request.work / "servers"
    home = Home(request.environments.parent / "servers")
    given = ServerInput(home=home, state=state, regions=(REGION,), java=java, kinds=frozenset(kinds))
    plans = plan_servers(given)
    try:
        start_servers(plans, state, clock=request.clock, progress=request.progress)
        yield {plan.kind: plan for plan in plans}
    finally:
        stop_servers(state, clock=request.clock)
