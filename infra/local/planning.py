"""From a configuration and ports to processes and their settings. Pure: nothing is written or started here."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edge.settings import EdgeSettings
from federation.settings import GatewaySettings, SiloSettings
from infra.local.balancer.settings import AddressRange, BalancedRegion, BalancerSettings, EdgeAddress
from infra.local.certificates import AUTHORITY, certificate_file
from infra.local.configuration import CENTRAL, CENTRAL_FLOWER, RegionConfiguration, WorldConfiguration
from infra.local.flower import SUPERLINK, plan_superlink, plan_supernode, standing_ports
from infra.local.haproxy import render_haproxy
from infra.local.layout import Layout
from infra.local.records import Part, ProbeKind, ProcessPlan
from infra.local.repository.process import RepositorySettings
from infra.local.securing import (
    BALANCER,
    REPOSITORY,
    WAN,
    WATCHED,
    Securing,
    balancer_doors,
    edge_doors,
    gateway_doors,
    link_identity,
    region_doors,
    repository_doors,
)
from infra.local.servers.authorities import region_client
from infra.local.servers.of_world import WorldServers
from infra.local.servers.plans import server_authority
from infra.local.wan.securing import LinkTls
from infra.local.wan.settings import LinkSettings, WanSettings
from infra.plumbing.http.tls import ClientTls
from infra.plumbing.telemetry import TelemetrySettings
from region.settings import RegionSettings

CONNECT_MS, CONNECT_TLS_MS = 50, 100
"""What an edge gives a region's node for a connection: with TLS that is two round trips more, and some computing."""
BALANCER_CONNECT_S, BALANCER_CONNECT_TLS_S = 0.25, 0.6
"""The same for the balancer: a handshake that is given up on a busy machine is begun again, and makes it busier."""
REST_ROTATION_H = 1.0
"""Of a region on Cassandra, which keeps copies of erased keys for a while (`RegionChoices.rest_rotation_h`)."""
PythonOf = Callable[[str], str]
"""The interpreter of a tier, by the tier's name."""


@dataclass(frozen=True, slots=True)
class WorldPlan:
    """Processes, and the files that must be written before they start."""

    processes: tuple[ProcessPlan, ...]
    files: dict[Path, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInput:
    """What a plan is made from. `haproxy` is the program, for worlds that ask for it."""

    configuration: WorldConfiguration
    layout: Layout
    ports: Mapping[str, int]
    repository: Path
    python_of: PythonOf
    haproxy: str = ""
    servers: WorldServers = field(default_factory=WorldServers)

    @property
    def securing(self) -> Securing:
        """TLS of every process."""
        return Securing(self.layout.tls, self.configuration.tls)

    @property
    def probe(self) -> ProbeKind:
        """How a process that speaks HTTP is asked for its readiness."""
        return ProbeKind.HTTPS if self.configuration.tls else ProbeKind.HTTP


def edge_name(region: str, number: int) -> str:
    """`us-east/edge-1`."""
    return f"{region}/edge-{number}"


def edge_names(region: RegionConfiguration) -> tuple[str, ...]:
    """All edges of a region."""
    return tuple(edge_name(region.name, number) for number in range(1, region.edges + 1))


def link_name(origin: str, destination: str) -> str:
    """`us-east--us-west`."""
    return f"{origin}--{destination}"


def link_pairs(configuration: WorldConfiguration) -> Iterator[tuple[str, str]]:
    """Every (origin, destination) that has a link: regions among each other, regions to central's two services.

    With `home_links` also each region to itself.
    """
    for origin in configuration.region_names:
        home = (origin,) if configuration.home_links else ()
        for destination in (*configuration.nearest(origin), CENTRAL, CENTRAL_FLOWER, *home):
            yield origin, destination


def port_names(configuration: WorldConfiguration) -> tuple[str, ...]:
    """Everything that listens on a port, in the order in which `ports.first` counts."""
    names = ["balancer", "repository", "wan"]
    for region in configuration.regions:
        names += [f"{region.name}/{part}" for part in ("grid", "api", "worker", "gateway")] + [*edge_names(region)]
    names += [link_name(*pair) for pair in link_pairs(configuration)]
    return (*names, *standing_ports(configuration))


def plan_world(given: PlanInput) -> WorldPlan:
    """All processes and settings of the world."""
    files: dict[Path, bytes] = {}
    processes = [_wan(given, files), _repository(given, files), *given.servers.processes("")]
    processes += plan_superlink(given, files)
    for region in given.configuration.regions:
        processes += _region(given, region, files)
    processes.append(_haproxy(given, files) if given.configuration.balancer == "haproxy" else _balancer(given, files))
    return WorldPlan(tuple(processes), files)


def _telemetry(given: PlanInput, process: str) -> TelemetrySettings:
    return TelemetrySettings(
        log_file=str(given.layout.log(process)),
        spans_file=str(given.layout.spans_of(process)),
        log_level=given.configuration.log_level,
        sample_ratio=given.configuration.sample_ratio,
    )


def _address(given: PlanInput, name: str) -> str:
    return f"{given.configuration.host}:{given.ports[name]}"


def _link_url(given: PlanInput, origin: str, destination: str) -> str:
    return f"{given.securing.scheme}://{_address(given, link_name(origin, destination))}"


def _put(files: dict[Path, bytes], path: Path, settings: msgspec.Struct) -> str:
    files[path] = msgspec.json.format(msgspec.json.encode(settings))
    return str(path)


def _wan(given: PlanInput, files: dict[Path, bytes]) -> ProcessPlan:
    host = given.configuration.host
    settings = WanSettings(
        host=host,
        port=given.ports["wan"],
        tls=given.securing.listen(WAN, WATCHED),
        control_socket=str(given.layout.wan_control),
        capture_directory=str(given.layout.capture),
        capture_bytes_max=given.configuration.capture_bytes_max,
        links=tuple(
            LinkSettings(
                origin=origin,
                destination=destination,
                port=given.ports[link_name(origin, destination)],
                target_host=host,
                target_port=_target_port(given, destination),
                tls=_link_tls(given, origin, destination),
                captured=origin != destination,
            )
            for origin, destination in link_pairs(given.configuration)
        ),
        telemetry=_telemetry(given, "wan"),
    )
    file = _put(files, given.layout.settings("wan"), settings)
    return ProcessPlan(
        name="wan", part=Part.WAN, probe=given.probe, address=_address(given, "wan"),
        command=(given.python_of("infra"), "-m", "infra.local.wan", "--settings", file),
    )  # fmt: skip


def _target_port(given: PlanInput, destination: str) -> int:
    if destination == CENTRAL_FLOWER:
        # Where none stands a SuperLink comes and goes with rounds: `World.aim_link` says where it is.
        return given.ports[SUPERLINK] if given.configuration.federation else 0
    return given.ports["repository" if destination == CENTRAL else f"{destination}/api"]


def _link_tls(given: PlanInput, origin: str, destination: str) -> LinkTls | None:
    if destination == CENTRAL_FLOWER:
        return None  # SuperLink and SuperNodes have keys and certificates of their own
    target = REPOSITORY if destination == CENTRAL else f"{destination}/api"
    return given.securing.link(origin, destination, target)


def _repository(given: PlanInput, files: dict[Path, bytes]) -> ProcessPlan:
    settings = RepositorySettings(
        host=given.configuration.host, port=given.ports["repository"], directory=str(given.repository),
        tls=given.securing.listen(REPOSITORY, repository_doors()), telemetry=_telemetry(given, "repository"),
    )  # fmt: skip
    file = _put(files, given.layout.settings("repository"), settings)
    return ProcessPlan(
        name="repository", part=Part.REPOSITORY, probe=given.probe, address=_address(given, "repository"),
        command=(given.python_of("infra"), "-m", "infra.local.repository", "--settings", file),
    )  # fmt: skip


def _region(given: PlanInput, region: RegionConfiguration, files: dict[Path, bytes]) -> list[ProcessPlan]:
    name, layout = region.name, given.layout
    file = _put(files, layout.region(name) / "region.json", _region_settings(given, name))
    python, edge_python = given.python_of("region"), given.python_of("edge")
    return [
        *_grid_and_store(given, name, edge_python, files),
        ProcessPlan(
            name=f"{name}/api", part=Part.API, region=name, stage=1, probe=given.probe,
            address=_address(given, f"{name}/api"), command=(python, "-m", "region", "--settings", file),
        ),
        ProcessPlan(
            name=f"{name}/worker", part=Part.WORKER, region=name, stage=1, probe=given.probe,
            address=_address(given, f"{name}/worker"), command=(python, "-m", "region.worker", "--settings", file),
        ),
        *(_edge(given, region, number, files) for number in range(1, region.edges + 1)),
        _gateway(given, name, files),
        *plan_supernode(given, region, files),
    ]  # fmt: skip


def _grid_and_store(given: PlanInput, name: str, edge_python: str, files: dict[Path, bytes]) -> list[ProcessPlan]:
    servers = given.servers.processes(name)
    if given.servers.has_grid(name):
        return servers
    embedded = ProcessPlan(
        name=f"{name}/grid", part=Part.GRID, region=name, probe=given.probe,
        address=_address(given, f"{name}/grid"), command=_grid_command(given, name, edge_python, files),
    )  # fmt: skip
    return [embedded, *servers]


def _grid_command(given: PlanInput, region: str, python: str, files: dict[Path, bytes]) -> tuple[str, ...]:
    name = f"{region}/grid"
    tls = given.securing.listen(name, WATCHED)
    secured = () if tls is None else ("--tls", _put(files, given.layout.region(region) / "grid-tls.json", tls))
    return (
        python, "-m", "infra.plumbing.grid", "--socket", str(given.layout.grid(region)), "--region", region,
        "--node", f"{region}-grid", "--host", given.configuration.host, "--metrics-port", str(given.ports[name]),
        "--log-file", str(given.layout.log(name)), *secured,
    )  # fmt: skip


def _region_settings(given: PlanInput, name: str) -> RegionSettings:
    layout, choices = given.layout, given.configuration.region(name).settings
    if choices.rest_rotation_h is None and given.servers.store(name) != "sqlite":
        choices = msgspec.structs.replace(choices, rest_rotation_h=REST_ROTATION_H)
    return RegionSettings(
        **{field: getattr(choices, field) for field in choices.__struct_fields__},
        node=f"{name}-1",
        region=name,
        host=given.configuration.host,
        port=given.ports[f"{name}/api"],
        tls=given.securing.listen(f"{name}/api", region_doors(name)),
        worker_port=given.ports[f"{name}/worker"],
        worker_tls=given.securing.listen(f"{name}/worker", WATCHED),
        state_directory=str(layout.region(name) / "core"),
        run_directory=str(layout.run),
        repository_url=_link_url(given, name, CENTRAL),
        repository_tls=given.securing.connect(f"{name}/api", link_identity(name, CENTRAL)),
        trusted_root=str(layout.root),
        channel=given.configuration.channel,
        follow=given.configuration.follow,
        poll_interval_s=given.configuration.poll_interval_s,
        keys_file=str(layout.keys(name)),
        trust_file=str(layout.trust),
        grid=given.servers.grid(name, str(layout.grid(name))),
        store=given.servers.store(name),
        store_tls=_server_tls(given, name, f"{name}/cassandra"),
        log=given.servers.log(name),
        log_tls=_server_tls(given, name, "kafka"),
        export_policy=given.configuration.region(name).export_policy,
        telemetry=_telemetry(given, f"{name}/api"),
    )


def _server_tls(given: PlanInput, region: str, server: str) -> ClientTls | None:
    """How a region's processes call a real server: by a certificate of the server's own authority."""
    if server not in given.servers.plans or not given.configuration.tls:
        return None
    folder = server_authority(given.layout.tls, server)
    own = str(certificate_file(folder, region_client(region)))
    return ClientTls(ca_file=str(folder / AUTHORITY), certificate_file=own, key_file=own, server_names=(server,))


def _edge(given: PlanInput, region: RegionConfiguration, number: int, files: dict[Path, bytes]) -> ProcessPlan:
    layout, name = given.layout, edge_name(region.name, number)
    node = f"edge-{number}"
    settings = EdgeSettings(
        node=f"{region.name}-{node}",
        region=region.name,
        host=given.configuration.host,
        port=given.ports[name],
        tls=given.securing.listen(name, edge_doors()),
        regions_tls=given.securing.connect(name, f"{region.name}/api", link_identity(region.name, "*")),
        state_directory=str(layout.region(region.name) / node),
        home_urls=(_home_url(given, region.name),),
        away_urls={
            other: (_link_url(given, region.name, other),) for other in given.configuration.nearest(region.name)
        },
        repository_url=_link_url(given, region.name, CENTRAL),
        repository_tls=given.securing.connect(name, link_identity(region.name, CENTRAL)),
        connect_timeout_ms=CONNECT_TLS_MS if given.configuration.tls else CONNECT_MS,
        trusted_root=str(layout.root),
        channel=given.configuration.channel,
        keys_file=str(layout.keys(region.name)),
        service_keys_file=str(layout.service_keys(region.name)),
        trust_file=str(layout.trust),
        grid=given.servers.grid(region.name, str(layout.grid(region.name))),
        telemetry=_telemetry(given, name),
    )
    file = _put(files, layout.region(region.name) / f"{node}.json", settings)
    return ProcessPlan(
        name=name, part=Part.EDGE, region=region.name, stage=2, probe=given.probe, address=_address(given, name),
        command=(given.python_of("edge"), "-m", "edge", "--settings", file),
    )  # fmt: skip


def _home_url(given: PlanInput, region: str) -> str:
    if given.configuration.home_links:
        return _link_url(given, region, region)
    return f"{given.securing.scheme}://{_address(given, f'{region}/api')}"


def _gateway(given: PlanInput, region: str, files: dict[Path, bytes]) -> ProcessPlan:
    layout, name = given.layout, f"{region}/gateway"
    settings = GatewaySettings(
        node=f"{region}-gateway",
        region=region,
        host=given.configuration.host,
        port=given.ports[name],
        tls=given.securing.listen(name, gateway_doors(region)),
        state_directory=str(layout.region(region) / "gateway"),
        keys_file=str(layout.gateway_keys(region)),
        trust_file=str(layout.trust),
        silo=SiloSettings(
            region_url=f"{given.securing.scheme}://{_address(given, f'{region}/api')}",
            tls=given.securing.connect(name, f"{region}/api"),
            releases_directory=str(layout.region(region) / "core" / "releases"),
        ),
        telemetry=_telemetry(given, name),
    )
    file = _put(files, layout.region(region) / "gateway.json", settings)
    return ProcessPlan(
        name=name, part=Part.GATEWAY, region=region, stage=2, probe=given.probe, address=_address(given, name),
        command=(given.python_of("federation"), "-m", "federation.gateway", "--settings", file),
    )  # fmt: skip


def balancer_settings(given: PlanInput) -> BalancerSettings:
    """What both balancers need to know; HAProxy's configuration is made from the same."""
    configuration = given.configuration
    return BalancerSettings(
        host=configuration.host,
        port=given.ports["balancer"],
        connect_timeout_s=BALANCER_CONNECT_TLS_S if configuration.tls else BALANCER_CONNECT_S,
        tls=given.securing.listen(BALANCER, balancer_doors()),
        edges_tls=given.securing.connect(BALANCER, *(f"{region.name}/edge-*" for region in configuration.regions)),
        regions=tuple(
            BalancedRegion(
                name=region.name,
                edges=tuple(
                    EdgeAddress(name=name, host=configuration.host, port=given.ports[name])
                    for name in edge_names(region)
                ),
                nearest=configuration.nearest(region.name),
            )
            for region in configuration.regions
        ),
        addresses=tuple(
            AddressRange(network=network, region=region.name)
            for region in configuration.regions
            for network in region.networks
        ),
        telemetry=_telemetry(given, "balancer"),
    )


def _balancer(given: PlanInput, files: dict[Path, bytes]) -> ProcessPlan:
    file = _put(files, given.layout.settings("balancer"), balancer_settings(given))
    return ProcessPlan(
        name="balancer", part=Part.BALANCER, stage=2, probe=given.probe, address=_address(given, "balancer"),
        command=(given.python_of("infra"), "-m", "infra.local.balancer", "--settings", file),
    )  # fmt: skip


def _haproxy(given: PlanInput, files: dict[Path, bytes]) -> ProcessPlan:
    path = given.layout.state / "haproxy.cfg"
    files[path] = render_haproxy(balancer_settings(given), control=given.layout.haproxy).encode()
    return ProcessPlan(
        name="balancer", part=Part.BALANCER, stage=2, probe=given.probe, address=_address(given, "balancer"),
        command=(given.haproxy, "-db", "-f", str(path)),
    )  # fmt: skip
