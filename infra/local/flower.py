"""Flower's SuperLink and a SuperNode for each region as processes of a world (`federation = true`). Pure.

A SuperNode reaches the SuperLink over its region's link to central, and nothing else of a region does. Its key and the
SuperLink's certificate are made by themselves when they start: see `federation.flower.standing`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from federation.flower.plan import StandingLink
from federation.settings import SuperlinkSettings, SupernodeSettings
from infra.local.configuration import CENTRAL_FLOWER, SILO, RegionConfiguration, WorldConfiguration
from infra.local.records import Part, ProbeKind, ProcessPlan, ProcessState, WorldStatus
from infra.local.securing import supernode_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infra.local.layout import Layout
    from infra.local.planning import PlanInput

SUPERLINK = "superlink"
_CREDENTIALS = "credentials"
_PROGRAM = ("-m", "federation.flower.standing")


def standing_ports(configuration: WorldConfiguration) -> tuple[str, ...]:
    """What listens in a world whose federation stands, beside everything else."""
    return (SUPERLINK, *map(supernode_of, configuration.region_names)) if configuration.federation else ()


def round_gateway(base_url: str, *, silo: bool) -> str:
    """Where a region's SuperNode asks for rounds: over phones, or over resident features."""
    return f"{base_url}/silo" if silo else base_url


def standing_link(configuration: WorldConfiguration, layout: Layout, ports: Mapping[str, int]) -> StandingLink:
    """How a federated run finds the SuperLink of a world whose federation stands."""
    authority = layout.flower / _CREDENTIALS / "authority.pem"
    return StandingLink(address=f"{configuration.host}:{ports[SUPERLINK]}", authority=str(authority))


def silos_of(configuration: WorldConfiguration) -> frozenset[str]:
    """The regions that take part without phones, as the configuration says."""
    return frozenset(region.name for region in configuration.regions if region.federation == SILO)


def why_not_standing(
    status: WorldStatus, configuration: WorldConfiguration, *, silos: frozenset[str], plain: bool
) -> str:  # fmt: skip
    """Why a round does not run over standing SuperNodes; empty: it does.

    Args:
        status: of the world, as it is now.
        configuration: the world's.
        silos: the regions that are to take part without phones.
        plain: whether SuperLink and SuperNodes are to speak without TLS.
    """
    if not configuration.federation:
        return "since this world has none that stand"
    if plain:
        return "since those of the world speak TLS"
    if silos != silos_of(configuration):
        return "since those of the world ask other regions as silos"
    down = sorted(
        one.name
        for one in status.processes
        if one.part in (Part.SUPERLINK, Part.SUPERNODE) and one.state in (ProcessState.KILLED, ProcessState.GAVE_UP)
    )
    return f"since {', '.join(down)} of the world will not come back by itself" if down else ""


def plan_superlink(given: PlanInput, files: dict[Path, bytes]) -> list[ProcessPlan]:
    """The SuperLink, in a world whose federation stands."""
    if not given.configuration.federation:
        return []
    host, port, folder = given.configuration.host, given.ports[SUPERLINK], given.layout.flower
    settings = SuperlinkSettings(
        host=host, port=port, state_directory=str(folder / SUPERLINK), credentials_directory=str(folder / _CREDENTIALS)
    )
    file = given.layout.settings(SUPERLINK)
    files[file] = msgspec.json.format(msgspec.json.encode(settings))
    return [
        ProcessPlan(
            name=SUPERLINK, part=Part.SUPERLINK, stage=2, probe=ProbeKind.TCP, address=f"{host}:{port}",
            command=(given.python_of("federation"), *_PROGRAM, "superlink", "--settings", str(file)),
        )
    ]  # fmt: skip


def plan_supernode(given: PlanInput, region: RegionConfiguration, files: dict[Path, bytes]) -> list[ProcessPlan]:
    """A region's SuperNode, in a world whose federation stands; after its gateway, which makes a key that it reads."""
    if not given.configuration.federation:
        return []
    name, host, layout = supernode_of(region.name), given.configuration.host, given.layout
    gateway = f"{region.name}/gateway"
    settings = SupernodeSettings(
        region=region.name,
        host=host,
        port=given.ports[name],
        superlink=f"{host}:{given.ports[f'{region.name}--{CENTRAL_FLOWER}']}",
        registry=f"{host}:{given.ports[SUPERLINK]}",
        gateway_url=round_gateway(
            f"{given.securing.scheme}://{host}:{given.ports[gateway]}", silo=region.federation == SILO
        ),
        gateway_tls=given.securing.connect(name, gateway),
        round_key_file=str(layout.region(region.name) / "gateway" / "round.key"),
        state_directory=str(layout.flower / region.name),
        credentials_directory=str(layout.flower / _CREDENTIALS),
    )
    file = layout.region(region.name) / "supernode.json"
    files[file] = msgspec.json.format(msgspec.json.encode(settings))
    return [
        ProcessPlan(
            name=name, part=Part.SUPERNODE, region=region.name, stage=3, probe=ProbeKind.TCP,
            address=f"{host}:{given.ports[name]}",
            command=(given.python_of("federation"), *_PROGRAM, "supernode", "--settings", str(file)),
        )
    ]  # fmt: skip
