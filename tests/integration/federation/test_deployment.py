"""A real Flower deployment: SuperLink, two SuperNodes, gateways, phones; and what is left when it is killed."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
from aiohttp import web

from federation.commands import ledger, run_round
from federation.flower.deployment import RunOptions
from federation.flower.plan import PrivacyPlan, RegionLink, TrainingPlan
from federation.flower.processes import descendants
from federation.flower.supervisor import free_ports
from federation.phones.simulator import PhonesReport
from federation.rounds.outcome import RunOutcome, load_adapter
from federation.settings import CohortSettings, GatewaySettings, PhonesSettings, SiloSettings, SupernodeSettings
from infra.local.certificates import WorldAuthority
from infra.local.children import marked_processes
from infra.local.configuration import RegionConfiguration, WorldConfiguration, with_absolute_directories
from infra.local.flower import standing_link
from infra.local.layout import layout_of
from infra.local.preparing import prepare_world
from infra.local.records import Part, ProcessStatus
from infra.local.securing import Securing, gateway_doors, supernode_of
from infra.local.world import World, start_record
from infra.plumbing.clock import SystemClock
from infra.plumbing.environment import environment_with
from infra.plumbing.keys import RegionKeys, TrustDirectory
from infra.plumbing.telemetry import TelemetrySettings
from region.api.doors import service_door
from region.api.resident_doors import ResidentDoors
from region.store.memory import MemoryStore
from region.store.port import HistoryEntry, Interactions, UserRow
from tests.support.keeping import NotedReads
from tests.unit.federation.building import DIM, write_dataset, write_release

REGIONS = ("us-east", "us-west")
CANARY = b"canary-3c9e"
ROOT = Path(__file__).resolve().parents[3]


class _World:
    """Two gateways and twenty phones as processes; with `tls` between all of them."""

    def __init__(self, directory: Path, *, silo: str = "", tls: bool = False) -> None:
        self.directory = directory
        self._securing = Securing(directory / "tls", enabled=tls)
        if tls:
            names = [f"{region}/gateway" for region in REGIONS] + [supernode_of(region) for region in REGIONS]
            WorldAuthority(self._securing.directory, host="127.0.0.1", clock=SystemClock()).ensure(names)
        self._silo = silo
        self.release = write_release(directory)
        write_dataset(directory / "data", regions=REGIONS, users=10)
        self._keys = [RegionKeys.generate(region) for region in REGIONS]
        for keys in self._keys:
            keys.save(directory / f"{keys.region}.keys")
        TrustDirectory.of(self._keys).save(directory / "trust.json")
        self.ports = dict(zip(REGIONS, free_ports(len(REGIONS)), strict=True))
        self._region = _Region(next(one for one in self._keys if one.region == silo), users=17) if silo else None
        self._processes = [self._gateway(region) for region in REGIONS]
        self.phones = self._phones()
        self._processes.append(self.phones)

    @property
    def links(self) -> dict[str, RegionLink]:
        return {
            region: RegionLink(
                gateway_url=f"{self._securing.scheme}://127.0.0.1:{port}",
                round_key_file=str(self.directory / region / "round.key"),
                gateway_tls=self._securing.connect(supernode_of(region), f"{region}/gateway"),
            )
            for region, port in self.ports.items()
        }

    @property
    def privacy(self) -> PrivacyPlan:
        return PrivacyPlan(ledger_file=str(self.directory / "ledger.jsonl"), population="test phones")

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(30)
        if self._region is not None:
            self._region.close()

    def _gateway(self, region: str) -> "subprocess.Popen[bytes]":
        silo = None
        if self._region is not None and region == self._silo:
            silo = SiloSettings(
                region_url=f"http://127.0.0.1:{self._region.port}", releases_directory=str(self.directory)
            )
        settings = GatewaySettings(
            node=f"{region}-gateway", region=region, port=self.ports[region],
            tls=self._securing.listen(f"{region}/gateway", gateway_doors(region)),
            state_directory=str(self.directory / region), keys_file=str(self.directory / f"{region}.keys"),
            trust_file=str(self.directory / "trust.json"),
            telemetry=TelemetrySettings(log_file=str(self.directory / "log")), silo=silo,
            cohort=CohortSettings(count_min=5, goal_count=8, selection_s=4.0, reporting_s=3.0),
        )  # fmt: skip
        return self._start("federation.gateway", f"{region}.json", settings)

    def _phones(self) -> "subprocess.Popen[bytes]":
        settings = PhonesSettings(
            gateways={
                region: f"{self._securing.scheme}://127.0.0.1:{port}"
                for region, port in self.ports.items()
                if region != self._silo
            },
            gateways_tls=self._securing.trusting(),
            keys_files={
                region: str(self.directory / f"{region}.keys") for region in REGIONS if region != self._silo
            },
            dataset_directory=str(self.directory / "data"), release_directory=str(self.release),
            state_directory=str(self.directory / "phones"), phones_per_region=10, canary=CANARY.decode(),
            cohort_min=5, dropout_share=0.0, report_file=str(self.directory / "report.json"),
            adapter_file=str(self.directory / "run" / "outcome" / "adapter.npy"),
        )  # fmt: skip
        return self._start("federation.phones", "phones.json", settings)

    def _start(self, module: str, name: str, settings: msgspec.Struct) -> "subprocess.Popen[bytes]":
        path = self.directory / name
        path.write_bytes(msgspec.json.encode(settings))
        return subprocess.Popen(
            [sys.executable, "-m", module, "--settings", str(path)], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, cwd=ROOT, env=environment_with({"OPENBLAS_NUM_THREADS": "1"}),
        )  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> Iterator[_World]:
    found = _World(tmp_path)
    yield found
    found.close()


class _Tap:
    """A proxy that records every byte between a SuperNode and the SuperLink."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self.recorded = bytearray()
        self.port = 0
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._stop: asyncio.Event | None = None
        self._thread.start()
        self._ready.wait(10)

    def close(self) -> None:
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for one in (writer, far_writer):
                one.close()
            await asyncio.gather(*(one.wait_closed() for one in (writer, far_writer)), return_exceptions=True)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            self.recorded += chunk
            writer.write(chunk)
            await writer.drain()
        writer.close()


@pytest.fixture
def secured_world(tmp_path: Path) -> Iterator[_World]:
    found = _World(tmp_path, tls=True)
    yield found
    found.close()


@pytest.mark.slow
def test_with_tls_and_node_authentication_nothing_can_be_read_and_a_killed_server_app_goes_on(
    secured_world: _World,
) -> None:
    """TLS everywhere: phones to gateways, SuperNodes to gateways with certificates, SuperNodes to the SuperLink."""
    world = secured_world
    superlink_port = free_ports(1)[0]
    tap = _Tap(superlink_port)
    tapped = msgspec.structs.replace(world.links["us-east"], superlink_address=f"127.0.0.1:{tap.port}")
    pid_file = world.directory / "run" / "outcome" / "server-app.pid"
    killed: list[int] = []

    def kill_the_server_app_once() -> None:
        _wait_until(pid_file.exists)
        killed.append(int(pid_file.read_text()))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_the_server_app_once)
    killer.start()
    outcome = run_round(
        state_directory=world.directory / "run", release_directory=world.release,
        regions=world.links | {"us-east": tapped}, privacy=world.privacy, training=TrainingPlan(rank=3),
        options=RunOptions(superlink_port=superlink_port, timeout_s=180.0),
    )  # fmt: skip
    killer.join()
    tap.close()
    assert (outcome.ok, len(outcome.rounds), len(killed)) == (True, 1, 1)
    assert ledger(world.directory / "ledger.jsonl").rounds == 1
    assert len(tap.recorded) > 1000
    assert outcome.rounds[0].round_id.encode() not in tap.recorded
    assert descendants_of_flower() == []


@pytest.mark.slow
def test_a_round_in_a_real_deployment(world: _World) -> None:
    superlink_port = free_ports(1)[0]
    tap = _Tap(superlink_port)
    links = world.links
    tapped = msgspec.structs.replace(links["us-east"], superlink_address=f"127.0.0.1:{tap.port}")
    outcome = run_round(
        state_directory=world.directory / "run", release_directory=world.release,
        regions=links | {"us-east": tapped}, privacy=world.privacy, training=TrainingPlan(rank=3),
        options=RunOptions(superlink_port=superlink_port, timeout_s=180.0, tls=False),
    )  # fmt: skip
    tap.close()
    assert (outcome.ok, len(outcome.rounds)) == (True, 1)
    assert [region.phase for region in outcome.rounds[0].regions] == ["closed", "closed"]
    assert outcome.devices >= 16
    report = ledger(world.directory / "ledger.jsonl")
    assert (report.rounds, report.epsilon) == (1, outcome.epsilon)
    assert load_adapter(Path(outcome.adapter_path)).shape == (DIM, DIM)
    assert descendants_of_flower() == []
    # What crossed between region and central: the plan and the noised sum, and nobody's event or name.
    assert outcome.rounds[0].round_id.encode() in tap.recorded
    assert CANARY not in tap.recorded
    assert b"ueast" not in tap.recorded
    world.phones.send_signal(signal.SIGTERM)
    world.phones.wait(60)
    phones = msgspec.json.decode((world.directory / "report.json").read_bytes(), type=PhonesReport)
    assert phones.updates_accepted == outcome.devices
    assert phones.adapted
    assert np.isfinite(phones.loss_after)


class _Region:
    """A region's door to its resident histories, in a thread: the real door over a store in memory."""

    def __init__(self, keys: RegionKeys, users: int) -> None:
        self._keys = keys
        self._users = users
        self.port = free_ports(1)[0]
        self._loop = asyncio.new_event_loop()
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._thread.start()
        assert self._ready.wait(20)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        self._loop.close()

    async def _serve(self) -> None:
        store = MemoryStore(clock=SystemClock())
        rows = np.random.default_rng(2)
        await store.write_rows(
            [
                UserRow(
                    subject=f"{number:032x}",
                    history=Interactions.of(
                        HistoryEntry(item=f"i{row}", strength=4, at_ms=60_000 * step)
                        for step, row in enumerate(rows.permutation(40)[:12])
                    ),
                )
                for number in range(self._users)
            ]
        )
        app = web.Application()
        app.add_routes(
            ResidentDoors(store=store, home_only=service_door(self._keys.service_key), reads=NotedReads()).routes()
        )
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()


@contextmanager
def _standing(directory: Path, links: Mapping[str, RegionLink]) -> Iterator[World]:
    """A world's supervisor with a SuperLink, SuperNodes and the links between them; `links` says where gateways are."""
    regions = tuple(RegionConfiguration(name=region, edges=1) for region in REGIONS)
    configuration = with_absolute_directories(WorldConfiguration(regions=regions, federation=True), ROOT)
    repository, layout = directory / "repository", layout_of(directory / "state")
    (repository / "metadata").mkdir(parents=True)
    (repository / "metadata" / "1.root.json").write_text('{"root": 1}')
    record = prepare_world(configuration, layout, repository=repository)
    for region, link in links.items():
        file = layout.region(region) / "supernode.json"
        settings = msgspec.json.decode(file.read_bytes(), type=SupernodeSettings)
        where = {"gateway_url": link.gateway_url, "round_key_file": link.round_key_file}
        file.write_bytes(msgspec.json.encode(msgspec.structs.replace(settings, **where)))
    parts = (Part.WAN, Part.SUPERLINK, Part.SUPERNODE)
    kept = tuple(process for process in record.processes if process.part in parts)
    record = msgspec.structs.replace(record, processes=kept)
    layout.world.write_bytes(msgspec.json.encode(record))
    with start_record(record, layout) as world:
        yield world
    assert marked_processes(layout.mark) == []


def _supernode(world: World, region: str) -> ProcessStatus:
    return next(one for one in world.status().processes if one.name == supernode_of(region))


@pytest.mark.slow
def test_phones_and_a_silo_over_standing_supernodes_of_which_one_is_killed_between_two_rounds(tmp_path: Path) -> None:
    """A region takes part over its resident features beside one with phones; the same processes carry both rounds."""
    found = _World(tmp_path, silo="us-west")
    try:
        links = found.links
        west = msgspec.structs.replace(links["us-west"], gateway_url=f"{links['us-west'].gateway_url}/silo")
        with _standing(tmp_path, links | {"us-west": west}) as world:
            link = standing_link(world.configuration, world.layout, world.ports)
            options = RunOptions(timeout_s=300.0, round_timeout_s=150.0, standing=link)
            outcomes: list[RunOutcome] = []
            for _ in range(2):
                outcomes.append(
                    run_round(
                        state_directory=tmp_path / "run", release_directory=found.release, regions=links,
                        privacy=found.privacy, training=TrainingPlan(rank=3), options=options,
                    )
                )  # fmt: skip
                if len(outcomes) == 1:
                    _kill_and_await_another(world, "us-east")
            crossed = world.captures()["us-east--central-flower"]
    finally:
        found.close()
    for outcome in outcomes:
        assert outcome.ok
        assert {part.region: part.phase for part in outcome.rounds[0].regions} == dict.fromkeys(REGIONS, "closed")
        assert {part.region: part.weight for part in outcome.rounds[0].regions}["us-west"] == 17
        # TLS between SuperNode and SuperLink, over the region's link to central.
        assert outcome.rounds[0].round_id.encode() not in crossed
    assert len(crossed) > 1000
    report = ledger(tmp_path / "ledger.jsonl")
    assert (report.rounds, report.epsilon) == (2, outcomes[-1].epsilon)


def _kill_and_await_another(world: World, region: str) -> None:
    """SIGKILL from outside; its supervisor starts another process, which may still be on its way."""
    killed = _supernode(world, region).pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    _wait_until(lambda: _supernode(world, region).pid not in (None, killed))


_CALLER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
import msgspec
from federation.commands import run_round
from federation.flower.plan import PrivacyPlan, RegionLink

directory = Path(sys.argv[1])
links = msgspec.json.decode((directory / "links.json").read_bytes(), type=dict[str, RegionLink])
run_round(state_directory=directory / "run", release_directory=Path(sys.argv[2]), regions=links,
          privacy=PrivacyPlan(ledger_file=str(directory / "ledger.jsonl"), population="test phones"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_caller_that_is_killed_leaves_no_process_behind(tmp_path: Path, number: int) -> None:
    release = write_release(tmp_path)
    links = {"us-east": RegionLink(gateway_url="http://127.0.0.1:9", round_key_file=str(tmp_path / "none"))}
    (tmp_path / "links.json").write_bytes(msgspec.json.encode(links))
    caller = subprocess.Popen(
        [sys.executable, "-c", _CALLER, str(tmp_path), str(release)], cwd=ROOT, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _wait_until(lambda: len(_of(tmp_path)) >= 4)
    caller.send_signal(number)
    caller.wait(30)
    _wait_until(lambda: not _of(tmp_path))


def descendants_of_flower() -> list[int]:
    # Their whole words: the folder that everything is started from may be called "flower".
    words = (b"bin/flower-super", b"bin/flwr", b"flwr-", b"federation.flower")
    return [pid for pid in descendants(os.getpid()) if any(word in _command(pid) for word in words)]


def _of(directory: Path) -> list[int]:
    """Processes that work in `directory`, by their environment; the state directory is Flower's home there."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z" and f"HOME={directory}/run".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _wait_until(condition, *, within_s: float = 150.0) -> None:
    ends_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < ends_s
        threading.Event().wait(0.05)
