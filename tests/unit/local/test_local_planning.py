"""From a configuration to processes and files; what is prepared before they start; the façade over fake processes."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web

from edge.settings import EdgeSettings
from federation.settings import GatewaySettings
from infra.local import preparing
from infra.local.balancer.settings import AddressRange, BalancedRegion, BalancerSettings, EdgeAddress
from infra.local.children import start_child
from infra.local.configuration import RegionConfiguration, WorldConfiguration, default_configuration
from infra.local.haproxy import HaproxyMissingError, find_haproxy, render_haproxy
from infra.local.layout import Layout, layout_of
from infra.local.packages import PackageMissingError, ensure_debian_package
from infra.local.planning import PlanInput, WorldPlan, plan_world, port_names
from infra.local.preparing import Seeding, SeedingError, prepare_world, seed_regions
from infra.local.records import Part, ProbeKind, ProcessPlan
from infra.local.repository.process import RepositorySettings, build_app, find_file
from infra.local.wan.settings import WanSettings
from infra.local.world import World, WorldNotReadyError, open_world, start_world, stop_world
from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import ConflictError, InvalidInputError, NotFoundError, SettingsError
from infra.plumbing.keys import TrustDirectory
from infra.plumbing.progress import SilentProgress
from infra.plumbing.telemetry import TelemetrySettings, start_telemetry
from region.settings import PrecomputeSettings, RegionChoices, RegionSettings
from tests.unit.local.conftest import FAKE_PROCESS

TWO = WorldConfiguration(
    regions=(
        RegionConfiguration(
            name="east", edges=1, networks=("10.0.0.0/8",), export_policy="aggregates",
            settings=RegionChoices(precompute=PrecomputeSettings(enabled=True), history_max=50),
        ),
        RegionConfiguration(name="west"),
    ),
    start_timeout_s=30.0,
)  # fmt: skip


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "metadata").mkdir(parents=True)
    (folder / "targets" / "blobs").mkdir(parents=True)
    (folder / "metadata" / "1.root.json").write_text('{"root": 1}')
    (folder / "metadata" / "timestamp.json").write_text("{}")
    (folder / "targets" / "blobs" / "abc").write_text("0123456789")
    return folder


def plan_of(configuration: WorldConfiguration, tmp_path: Path) -> tuple[WorldPlan, dict[str, int], Layout]:
    layout = layout_of(tmp_path / "state")
    ports = {name: 20_000 + number for number, name in enumerate(port_names(configuration))}
    plan = plan_world(
        PlanInput(
            configuration=configuration, layout=layout, ports=ports, repository=tmp_path / "repository",
            python_of=lambda tier: f"/envs/{tier}/python", haproxy="/usr/sbin/haproxy",
        )
    )  # fmt: skip
    return plan, ports, layout


def test_every_process_has_settings_that_its_own_program_reads(tmp_path: Path) -> None:
    plan, ports, layout = plan_of(TWO, tmp_path)
    assert [process.name for process in plan.processes] == [
        "wan", "repository",
        "east/grid", "east/api", "east/worker", "east/edge-1", "east/gateway",
        "west/grid", "west/api", "west/worker", "west/edge-1", "west/edge-2", "west/gateway",
        "balancer",
    ]  # fmt: skip
    east = layout.region("east")
    edge = msgspec.json.decode(plan.files[east / "edge-1.json"], type=EdgeSettings)
    region = msgspec.json.decode(plan.files[east / "region.json"], type=RegionSettings)
    gateway = msgspec.json.decode(plan.files[east / "gateway.json"], type=GatewaySettings)
    assert gateway.keys_file == str(east / "gateway-keys.json")  # not the region's, with the issuer's key in it
    assert gateway.silo is not None
    assert gateway.silo.region_url == edge.home_urls[0]
    assert gateway.silo.releases_directory == f"{region.state_directory}/releases"
    assert (region.export_policy, TWO.region("west").export_policy) == ("aggregates", "none")
    west = msgspec.json.decode(plan.files[layout.region("west") / "region.json"], type=RegionSettings)
    assert (region.precompute.enabled, region.history_max) == (True, 50), "what the world's file says of this region"
    assert (west.precompute.enabled, west.history_max) == (False, 200)
    wan = msgspec.json.decode(plan.files[layout.settings("wan")], type=WanSettings)
    balancer = msgspec.json.decode(plan.files[layout.settings("balancer")], type=BalancerSettings)
    # Everything that leaves a region goes through a link, and nothing inside a region does.
    assert edge.home_urls == (f"http://127.0.0.1:{ports['east/api']}",)
    assert edge.away_urls == {"west": (f"http://127.0.0.1:{ports['east--west']}",)}
    assert edge.repository_url == region.repository_url == f"http://127.0.0.1:{ports['east--central']}"
    targets = {link.name: (link.port, link.target_port) for link in wan.links}
    assert targets["east--west"] == (ports["east--west"], ports["west/api"])
    assert targets["east--central"] == (ports["east--central"], ports["repository"])
    assert targets["east--central-flower"] == (ports["east--central-flower"], 0)
    assert len(targets) == 2 * 3
    assert [region.nearest for region in balancer.regions] == [("west",), ("east",)]
    assert balancer.addresses[0].region == "east"
    tiers = {process.name.rpartition("/")[2]: process.command[0] for process in plan.processes}
    assert tiers["edge-1"] == tiers["grid"] == "/envs/edge/python"
    assert tiers["api"] == tiers["worker"] == "/envs/region/python"
    assert tiers["gateway"] == "/envs/federation/python"
    assert tiers["wan"] == tiers["balancer"] == tiers["repository"] == "/envs/infra/python"


def test_with_home_links_edges_reach_their_own_region_over_a_link_that_keeps_nothing(tmp_path: Path) -> None:
    plan, ports, layout = plan_of(msgspec.structs.replace(TWO, home_links=True), tmp_path)
    edge = msgspec.json.decode(plan.files[layout.region("east") / "edge-1.json"], type=EdgeSettings)
    assert edge.home_urls == (f"http://127.0.0.1:{ports['east--east']}",)
    wan = msgspec.json.decode(plan.files[layout.settings("wan")], type=WanSettings)
    links = {link.name: link for link in wan.links}
    assert (links["east--east"].target_port, links["east--east"].captured) == (ports["east/api"], False)
    assert links["east--west"].captured


def test_a_world_behind_haproxy_runs_it(tmp_path: Path) -> None:
    plan, ports, layout = plan_of(msgspec.structs.replace(TWO, balancer="haproxy"), tmp_path)
    assert plan.processes[-1].command == ("/usr/sbin/haproxy", "-db", "-f", str(layout.state / "haproxy.cfg"))
    text = plan.files[layout.state / "haproxy.cfg"].decode()
    assert f"bind 127.0.0.1:{ports['balancer']}" in text
    assert "option httpchk GET /health/ready" in text
    assert f"server west.edge-1 127.0.0.1:{ports['west/edge-1']} backup" in text
    assert "str(east) if { src 10.0.0.0/8 }" in text
    assert "option redispatch 1" in text
    assert f"stats socket {layout.haproxy} mode 600 level admin" in text


def test_haproxy_is_looked_for_and_odd_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HaproxyMissingError, match="not installed"):
        find_haproxy(str(tmp_path))
    program = tmp_path / "haproxy"
    program.write_text("")
    program.chmod(0o755)
    assert find_haproxy(str(tmp_path)) == str(program)
    edge = EdgeAddress(name="e", host="h", port=1)
    settings = BalancerSettings(port=1, regions=(BalancedRegion(name="a }\n", edges=(edge,)),))
    with pytest.raises(SettingsError, match="cannot take the region name"):
        render_haproxy(settings, control=tmp_path / "control")
    first_match = BalancerSettings(
        port=1,
        regions=(BalancedRegion(name="a", edges=(edge,)), BalancedRegion(name="b", edges=(edge,))),
        addresses=(AddressRange(network="10.1.0.0/16", region="a"), AddressRange(network="10.0.0.0/8", region="b")),
    )
    text = render_haproxy(first_match, control=tmp_path / "control")
    assert text.index("src 10.0.0.0/8") < text.index("src 10.1.0.0/16")  # the later line overwrites


def test_a_package_is_installed_once_and_only_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ensure_debian_package("coreutils", program="ls")
    monkeypatch.setattr("infra.local.packages.os.geteuid", lambda: 1000)
    with pytest.raises(PackageMissingError, match="without root"):
        ensure_debian_package("no-such-package-of-ours")
    monkeypatch.setattr("infra.local.packages.os.geteuid", lambda: 0)

    def which(name: str, path: str | None = None) -> str | None:
        return name if name == "apt-get" else None

    monkeypatch.setattr("infra.local.packages.shutil.which", which)
    asked: list[list[str]] = []

    def apt(command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        asked.append(command[2:])
        return subprocess.CompletedProcess(command, 100, "", "E: Unable to locate package")

    monkeypatch.setattr("infra.local.packages.subprocess.run", apt)
    with pytest.raises(PackageMissingError, match="Unable to locate"):
        ensure_debian_package("no-such-package-of-ours")
    assert [words[0] for words in asked] == ["install", "update", "install"]

    def no_apt(*_arguments: object, **_options: object) -> None:
        raise OSError("gone")

    monkeypatch.setattr("infra.local.packages.subprocess.run", no_apt)
    with pytest.raises(PackageMissingError, match="gone"):
        ensure_debian_package("no-such-package-of-ours")


def test_keys_trust_and_ports_are_kept_between_starts(tmp_path: Path, repository: Path) -> None:
    layout = layout_of(tmp_path / "state")
    first = prepare_world(TWO, layout, repository=repository)
    keys = layout.keys("east").read_bytes()
    assert layout.keys("east").stat().st_mode & 0o777 == 0o600
    second = prepare_world(TWO, layout, repository=repository)
    assert (second.ports, layout.keys("east").read_bytes()) == (first.ports, keys)
    assert set(TrustDirectory.load(layout.trust).regions) == {"east", "west"}
    assert layout.root.read_text() == '{"root": 1}'
    (repository / "metadata" / "1.root.json").write_text('{"root": 2}')
    with pytest.raises(ConflictError, match="trusts another release repository"):
        prepare_world(TWO, layout, repository=repository)
    with pytest.raises(InvalidInputError, match="is not a release repository"):
        prepare_world(TWO, layout_of(tmp_path / "other"), repository=tmp_path / "nothing")


SEED = """
import json, pathlib, sys
settings = json.loads(pathlib.Path(sys.argv[sys.argv.index('--settings') + 1]).read_text())
data = pathlib.Path(sys.argv[sys.argv.index('--dataset') + 1])
if (data / 'broken').exists():
    sys.exit('row 7 is not a row')
pathlib.Path(settings['state_directory']).mkdir(parents=True, exist_ok=True)
pathlib.Path(settings['state_directory'], 'seeded-by').write_text(' '.join(sys.argv))
"""


@pytest.fixture
def fake_seed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Seeding runs a program of ours in the region's place; returns a dataset folder."""
    program = tmp_path / "seed.py"
    program.write_text(SEED)

    def start(command: list[str], **options: object) -> subprocess.Popen[bytes]:
        assert command[1:3] == ["-m", "region.seed"]
        return start_child([sys.executable, str(program), *command[3:]], **options)  # type: ignore[arg-type]

    monkeypatch.setattr(preparing, "start_child", start)
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    (dataset / "interactions.csv").write_text("user_id,item_id,timestamp\n")
    return dataset


def test_regions_are_seeded_once_each_from_one_dataset(tmp_path: Path, repository: Path, fake_seed: Path) -> None:
    layout = layout_of(tmp_path / "state")
    record = prepare_world(TWO, layout, repository=repository)
    told: list[tuple[int, int]] = []

    class Telling:
        def advance(self, done: int, total: int, what: str) -> None:
            told.append((done, total))

    def seed(dataset: Path, *, hold_out_last: bool = False) -> None:
        seeding = Seeding(dataset=dataset, hold_out_last=hold_out_last)
        seed_regions(record, layout, seeding, progress=Telling(), clock=SystemClock())

    seed(fake_seed, hold_out_last=True)
    assert told == [(0, 2), (1, 2), (2, 2)]
    assert "--hold-out-last" in (layout.region("west") / "core" / "seeded-by").read_text()
    (layout.region("west") / "core" / "seeded-by").unlink()
    seed(fake_seed, hold_out_last=True)
    assert not (layout.region("west") / "core" / "seeded-by").exists()
    with pytest.raises(ConflictError, match="seeded from another dataset"):
        seed(fake_seed)
    with pytest.raises(InvalidInputError, match="has no interactions"):
        seed(tmp_path)


def test_a_dataset_that_cannot_be_seeded_says_why(tmp_path: Path, repository: Path, fake_seed: Path) -> None:
    (fake_seed / "broken").touch()
    layout = layout_of(tmp_path / "state")
    record = prepare_world(TWO, layout, repository=repository)
    with pytest.raises(SeedingError, match="row 7 is not a row"):
        seed_regions(record, layout, Seeding(dataset=fake_seed), progress=SilentProgress(), clock=SystemClock())
    assert not (layout.region("east") / "seeded.json").exists()


@pytest.fixture
def fake_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real plan, but every process that listens on a port is a tiny server; grids are left out."""

    def plan(given: PlanInput) -> WorldPlan:
        planned = plan_world(given)
        processes = tuple(
            ProcessPlan(
                name=process.name, part=process.part, region=process.region, stage=process.stage,
                probe=ProbeKind.HTTP, address=process.address,
                command=(sys.executable, "-c", FAKE_PROCESS, process.address.split(":")[1], "-"),
            )
            for process in planned.processes
            if process.part in (Part.EDGE, Part.API, Part.BALANCER, Part.REPOSITORY)
        )  # fmt: skip
        return WorldPlan(processes, planned.files)

    monkeypatch.setattr(preparing, "plan_world", plan)


@pytest.fixture
def world(tmp_path: Path, repository: Path, fake_processes: None) -> Iterator[World]:
    with start_world(TWO, tmp_path / "state", repository=repository) as started:
        yield started


def test_the_facade(world: World, tmp_path: Path, repository: Path) -> None:
    status = world.status()
    assert status.ready
    assert status.edge_urls["west"] == world.edge_urls("west")
    assert len(world.edge_urls("west")) == 2
    assert status.region_urls["east"] == world.region_url("east")
    assert status.balancer_url == world.balancer_url
    assert status.repository_url == world.repository_url
    assert world.gateway_url("east").startswith("http://127.0.0.1:")
    assert world.link_address("east") == f"127.0.0.1:{world.ports['east--central-flower']}"
    with pytest.raises(InvalidInputError, match="no link"):
        world.link_address("east", "moon")
    assert world.keys("west").region == "west"
    assert world.metrics()["balancer"] == "ok"
    assert world.state == (tmp_path / "state").resolve()
    same = open_world(world.state)
    assert same.status().supervisor_pid == status.supervisor_pid
    with pytest.raises(ConflictError, match="runs already"):
        start_world(TWO, tmp_path / "state", repository=repository)
    assert json.loads(world.layout.world.read_text())["ports"] == world.ports


def test_a_world_that_does_not_come_up_says_which_process(
    tmp_path: Path, repository: Path, fake_processes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = msgspec.structs.replace(TWO, start_timeout_s=0.3)
    monkeypatch.setattr("tests.unit.local.test_local_planning.FAKE_PROCESS", "import time; time.sleep(60)")
    with pytest.raises(WorldNotReadyError, match=r"east/api is (starting|waiting)"):
        start_world(configuration, tmp_path / "state", repository=repository)
    assert stop_world(tmp_path / "state") == 0


def test_bad_input_ends_a_start_with_nothing_left(tmp_path: Path, repository: Path, fake_seed: Path) -> None:
    (fake_seed / "broken").touch()
    with pytest.raises(SeedingError):
        start_world(TWO, tmp_path / "state", repository=repository, dataset=fake_seed)
    assert not (tmp_path / "state" / "run").exists()
    with pytest.raises(InvalidInputError):
        open_world(tmp_path / "nowhere")


def test_two_starts_at_once_are_told_apart(tmp_path: Path, repository: Path) -> None:
    import fcntl  # noqa: PLC0415 - here only

    layout = layout_of(tmp_path / "state")
    layout.create()
    with layout.starting.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConflictError, match="being started by another"):
            start_world(TWO, tmp_path / "state", repository=repository)


async def test_the_repository_gives_out_files_and_nothing_else(tmp_path: Path, repository: Path) -> None:
    (repository / "secret").write_text("x")
    (repository / "metadata" / "link.json").symlink_to(repository / "secret")
    telemetry = start_telemetry(
        service="r", region="", node="r", settings=TelemetrySettings(log_file=str(tmp_path / "log"))
    )
    settings = RepositorySettings(port=0, directory=str(repository))
    runner = web.AppRunner(build_app(settings, telemetry=telemetry, clock=SystemClock()))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with asyncio.timeout(20), aiohttp.ClientSession() as session:
        async with session.get(f"{url}/targets/blobs/abc", headers={"Range": "bytes=2-4"}) as answer:
            assert (answer.status, await answer.text()) == (206, "234")
            assert "immutable" in answer.headers["Cache-Control"]
        async with session.get(f"{url}/metadata/timestamp.json") as answer:
            assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-cache")
        async with session.head(f"{url}/metadata/1.root.json") as answer:
            assert answer.status == 200
        for path in ("metadata/2.root.json", "metadata/..%2fsecret", "metadata/link.json", "secret", "targets/blobs"):
            async with session.get(f"{url}/{path}") as answer:
                assert answer.status == 404, path
    await runner.cleanup()
    with pytest.raises(NotFoundError):
        find_file(repository, "a\0b")
    with pytest.raises(SettingsError, match="is not a release repository"):
        build_app(RepositorySettings(port=0, directory=str(tmp_path)), telemetry=telemetry, clock=SystemClock())
    telemetry.close()


def test_the_default_world_has_a_port_for_everything() -> None:
    names = port_names(default_configuration())
    assert len(names) == len(set(names)) == 3 + 3 * (4 + 2) + 3 * (2 + 2)
