"""The real servers that a world asks for, as processes of that world, and what its settings call them."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from infra.local.configuration import WorldConfiguration
from infra.local.layout import Layout
from infra.local.records import Part, ProbeKind, ProcessPlan
from infra.local.servers.authorities import ensure_certificates, region_client
from infra.local.servers.installing import Home, find_java
from infra.local.servers.kinds import ServerKind
from infra.local.servers.plans import (
    ServerInput,
    ServerPlan,
    grid_address,
    log_address,
    plan_servers,
    store_address,
)
from infra.local.servers.running import check_ports, prepare_server, start_servers, status_of, stop_servers
from infra.local.servers.standing import claim, standing_plans
from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.progress import Progress

_PARTS = {ServerKind.CASSANDRA: Part.STORE, ServerKind.HAZELCAST: Part.GRID, ServerKind.KAFKA: Part.LOG}


@dataclass(frozen=True, slots=True)
class WorldServers:
    """Plans by server name; empty in a world that is embedded altogether. `own`: the world starts and ends them."""

    plans: Mapping[str, ServerPlan] = field(default_factory=dict)
    own: bool = True

    def store(self, region: str) -> str:
        """The region's `store` setting."""
        plan = self.plans.get(f"{region}/cassandra")
        return store_address(plan) if plan is not None else "sqlite"

    def log(self, region: str) -> str:
        """The region's `log` setting: a topic of its own."""
        plan = self.plans.get("kafka")
        return log_address(plan, region) if plan is not None else "sqlite"

    def grid(self, region: str, embedded: str) -> str:
        """The region's `grid` setting; `embedded` is the socket of the embedded one."""
        plan = self.plans.get(f"{region}/hazelcast")
        return grid_address(plan) if plan is not None else embedded

    def processes(self, region: str) -> list[ProcessPlan]:
        """Those of a region that the world starts; of no region: those that all share."""
        return [_process(plan) for plan in self.plans.values() if plan.region == region] if self.own else []

    def has_grid(self, region: str) -> bool:
        """Whether the region's grid is a server."""
        return f"{region}/hazelcast" in self.plans


def _process(plan: ServerPlan) -> ProcessPlan:
    # A grid has the name that the embedded one has: `world kill REGION --part grid` means either.
    name = f"{plan.region}/grid" if plan.kind is ServerKind.HAZELCAST else plan.name
    return ProcessPlan(
        name=name, part=_PARTS[plan.kind], region=plan.region, probe=ProbeKind.TCP, address=plan.address,
        command=plan.command,
    )  # fmt: skip


def kinds_of(configuration: WorldConfiguration) -> frozenset[ServerKind]:
    """Which servers a world asks for."""
    asked = {
        ServerKind.CASSANDRA: configuration.store == "cassandra",
        ServerKind.HAZELCAST: configuration.grid == "hazelcast",
        ServerKind.KAFKA: configuration.log == "kafka",
    }
    return frozenset(kind for kind, wanted in asked.items() if wanted)


def _input(configuration: WorldConfiguration, layout: Layout, kinds: frozenset[ServerKind]) -> ServerInput:
    environments = Path(configuration.directories.environments).resolve()
    return ServerInput(
        home=Home(environments.parent / "servers"), state=layout.state / "servers",
        regions=configuration.region_names, java=find_java(environments), kinds=kinds,
        tls=layout.tls if configuration.tls else None,
    )  # fmt: skip


def bystanders(configuration: WorldConfiguration, state: Path) -> str:
    """What to say of servers that `atoll servers start` started at `state`; "" where a world would start none.

    Unless it is told to run on those (`--servers`), a world has servers of its own: what lies in them is sealed under
    its keys and counted from its logs, and those that were started by hand may hold another world's.
    """
    asked = kinds_of(configuration) and not configuration.directories.servers
    running = [one for one in status_of(state) if one.running] if asked else []
    if not running:
        return ""
    return (
        f"{len(running)} servers of `./atoll servers start` ({sum(one.rss_mb for one in running):,.0f} MB) run beside "
        "it and are not used: a world starts its own, which hold its rows under its keys. `world up --servers` runs on "
        "those; `./atoll servers stop` ends them."
    )


@contextlib.contextmanager
def serving_stores(
    configuration: WorldConfiguration | None, layout: Layout, *, clock: Clock, progress: Progress
) -> Iterator[None]:
    """Have the world's Cassandra nodes run for the block: rows are written before the supervisor starts anything.

    Nothing happens without a configuration, where the store is embedded, and where it runs anyway.

    Raises:
        ServerError: a node did not come up.
    """
    if configuration is None or configuration.store != "cassandra" or configuration.directories.servers:
        yield
        return
    given = _input(configuration, layout, frozenset({ServerKind.CASSANDRA}))
    start_servers(plan_servers(given), given.state, clock=clock, progress=progress)
    try:
        yield
    finally:
        stop_servers(given.state, clock=clock)


def prepare_servers(configuration: WorldConfiguration, layout: Layout) -> WorldServers:
    """Write the configuration of the servers that a world asks for, or find those that it is to run on.

    Raises:
        ServerError: they are not installed, a port is taken, or a folder cannot be written; or those that it is to run
            on do not run, or are another world's.
        SettingsError: the world has TLS and a server's authority cannot be used.
    """
    kinds = kinds_of(configuration)
    if not kinds:
        return WorldServers()
    if configuration.directories.servers:
        servers = Path(configuration.directories.servers)
        found = standing_plans(servers, kinds, configuration.region_names)
        claim(servers, layout.state)
        return WorldServers({plan.name: plan for plan in found}, own=False)
    plans = plan_servers(_input(configuration, layout, kinds))
    if configuration.tls:
        regions = configuration.region_names
        callers = {plan.name: map(region_client, (plan.region,) if plan.region else regions) for plan in plans}
        ensure_certificates(layout.tls, plans, callers, host=configuration.host, clock=SystemClock())
    for plan in plans:
        check_ports(plan)
        prepare_server(plan)
    return WorldServers({plan.name: plan for plan in plans})
