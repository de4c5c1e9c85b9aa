"""A world whose SuperLink and SuperNodes stand: what is planned, whom a round goes to, and what is made anew."""

from pathlib import Path

import msgspec
import pytest

from federation.settings import SuperlinkSettings, SupernodeSettings
from infra.local.configuration import RegionConfiguration, WorldConfiguration
from infra.local.flower import standing_link, why_not_standing
from infra.local.layout import layout_of
from infra.local.planning import PlanInput, WorldPlan, plan_world, port_names
from infra.local.preparing import prepare_world
from infra.local.records import KILLABLE, Part, ProbeKind, ProcessPlan, ProcessState, ProcessStatus, WorldStatus
from infra.local.restarting import ROLLING
from infra.local.wan.settings import WanSettings

TWO = WorldConfiguration(
    regions=(RegionConfiguration(name="east", edges=1), RegionConfiguration(name="west", edges=1, federation="silo")),
    federation=True,
)
FLOWER = (Part.SUPERLINK, Part.SUPERNODE)


def planned(configuration: WorldConfiguration, state: Path) -> tuple[WorldPlan, dict[str, int]]:
    ports = {name: 20_000 + number for number, name in enumerate(port_names(configuration))}
    given = PlanInput(
        configuration=configuration, layout=layout_of(state), ports=ports, repository=state / "repository",
        python_of=lambda tier: f"/envs/{tier}/python",
    )  # fmt: skip
    return plan_world(given), ports


def flower_of(plan: WorldPlan) -> dict[str, ProcessPlan]:
    return {process.name: process for process in plan.processes if process.part in FLOWER}


def test_a_superlink_and_a_supernode_for_each_region_are_planned(tmp_path: Path) -> None:
    plan, ports = planned(TWO, tmp_path)
    found = flower_of(plan)
    assert list(found) == ["superlink", "east/supernode", "west/supernode"]
    assert {one.probe for one in found.values()} == {ProbeKind.TCP}
    assert {name: one.address for name, one in found.items()} == {name: f"127.0.0.1:{ports[name]}" for name in found}
    assert found["superlink"].region == ""
    assert found["west/supernode"].region == "west"
    # The gateway makes the key that the SuperNode reads; the SuperLink knows the SuperNode before it comes.
    stages = {process.name: process.stage for process in plan.processes}
    assert stages["east/supernode"] > max(stages["east/gateway"], stages["superlink"])
    assert found["superlink"].command[:4] == (
        "/envs/federation/python", "-m", "federation.flower.standing", "superlink",
    )  # fmt: skip


def test_a_supernode_goes_over_its_regions_link_and_trusts_the_superlinks_own_authority(tmp_path: Path) -> None:
    plan, ports = planned(msgspec.structs.replace(TWO, tls=True), tmp_path)
    layout, found = layout_of(tmp_path), flower_of(plan)
    link = msgspec.json.decode(plan.files[Path(found["superlink"].command[-1])], type=SuperlinkSettings)
    east, west = (
        msgspec.json.decode(plan.files[Path(found[f"{region}/supernode"].command[-1])], type=SupernodeSettings)
        for region in ("east", "west")
    )
    wan = msgspec.json.decode(plan.files[layout.settings("wan")], type=WanSettings)
    targets = {one.name: (one.port, one.target_port, one.tls) for one in wan.links}
    assert targets["east--central-flower"] == (ports["east--central-flower"], link.port, None)
    assert east.superlink == f"127.0.0.1:{ports['east--central-flower']}"
    assert east.registry == f"127.0.0.1:{link.port}"
    assert east.gateway_url == f"https://127.0.0.1:{ports['east/gateway']}"
    assert west.gateway_url.endswith("/silo")
    assert east.gateway_tls is not None
    assert east.gateway_tls.certificate_file == str(layout.tls / "east.supernode.pem")
    assert east.gateway_tls.server_names == ("east/gateway",)
    found_by_runs = standing_link(TWO, layout, ports)
    assert found_by_runs.address == east.registry
    assert Path(found_by_runs.authority).parent == Path(link.credentials_directory) == Path(east.credentials_directory)
    # Nobody shares a home: Flower's programs write their configuration there.
    assert len({link.state_directory, east.state_directory, west.state_directory}) == 3


def test_without_the_switch_nothing_of_it_is_there(tmp_path: Path) -> None:
    plan, ports = planned(msgspec.structs.replace(TWO, federation=False), tmp_path)
    assert not flower_of(plan)
    assert not {name for name in ports if name.startswith("super") or name.endswith("supernode")}
    wan = msgspec.json.decode(plan.files[layout_of(tmp_path).settings("wan")], type=WanSettings)
    assert {one.target_port for one in wan.links if one.destination == "central-flower"} == {0}


def test_supernodes_are_killed_and_restarted_with_their_region_or_alone() -> None:
    assert KILLABLE["supernode"] == {Part.SUPERNODE} == KILLABLE["all"] & set(FLOWER)
    assert not KILLABLE["core"] & set(FLOWER)
    assert ROLLING["supernode"] is Part.SUPERNODE


def status_of(plan: WorldPlan, **states: ProcessState) -> WorldStatus:
    processes = tuple(
        ProcessStatus(
            name=one.name, part=one.part, region=one.region, pid=1, address=one.address, restarts=0, rss_mb=1.0,
            state=states.get(one.name.replace("/", "_"), ProcessState.READY),
        )
        for one in plan.processes
    )  # fmt: skip
    return WorldStatus(
        state_directory="s", supervisor_pid=1, ready=True, live=True, processes=processes, balancer_url="",
        repository_url="", region_urls={}, edge_urls={}, gateway_urls={}, export_policies={}, authority="", ports={},
        rss_mb=1.0, peak_rss_mb=1.0, restarts=0, files_cut=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("states", "changes", "why"),
    [
        ({}, {}, ""),
        ({"east_supernode": ProcessState.CRASHED, "superlink": ProcessState.STARTING}, {}, ""),
        ({"east_supernode": ProcessState.KILLED}, {}, "since east/supernode of the world will not come back by itself"),
        ({"superlink": ProcessState.GAVE_UP}, {}, "since superlink of the world will not come back by itself"),
        ({}, {"silos": frozenset({"east"})}, "since those of the world ask other regions as silos"),
        ({}, {"plain": True}, "since those of the world speak TLS"),
    ],
)
def test_a_round_says_why_it_does_not_run_over_what_stands(
    states: dict[str, ProcessState], changes: dict[str, object], why: str, tmp_path: Path
) -> None:
    plan, _ports = planned(TWO, tmp_path)
    asked: dict[str, object] = {"silos": frozenset({"west"}), "plain": False} | changes
    assert why_not_standing(status_of(plan, **states), TWO, **asked) == why  # type: ignore[arg-type]
    none = msgspec.structs.replace(TWO, federation=False)
    assert why_not_standing(status_of(plan), none, **asked) == "since this world has none that stand"  # type: ignore[arg-type]


def test_each_start_of_the_world_makes_new_credentials(tmp_path: Path) -> None:
    layout, repository = layout_of(tmp_path / "state"), tmp_path / "repository"
    (repository / "metadata").mkdir(parents=True)
    (repository / "metadata" / "1.root.json").write_text('{"root": 1}')
    left = layout.flower / "credentials" / "authority.pem"
    left.parent.mkdir(parents=True)
    left.write_text("of the world's last life")
    record = prepare_world(TWO, layout, repository=repository)
    assert not left.exists()
    assert {"superlink", "east/supernode", "west/supernode"} <= record.ports.keys()
