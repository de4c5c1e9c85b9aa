"""Everything that lies in the state directory before the supervisor starts: keys, trust, settings, seeded stores."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from infra.local.certificates import WorldAuthority
from infra.local.children import start_child, tail
from infra.local.clocks import build_clock_library, clock_environment, clock_file
from infra.local.configuration import WorldConfiguration
from infra.local.haproxy import find_haproxy
from infra.local.layout import Layout
from infra.local.planning import PlanInput, link_pairs, plan_world, port_names
from infra.local.ports import assign_ports, is_port_free
from infra.local.records import ProcessPlan, WorldRecord
from infra.local.securing import identities
from infra.local.servers.of_world import prepare_servers, serving_stores
from infra.local.tiers import source_root, tier_python
from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.errors import AtollError, ConflictError, InvalidInputError
from infra.plumbing.files import write_atomically
from infra.plumbing.keys import RegionKeys, TrustDirectory
from infra.plumbing.progress import Progress

SEEDS_AT_ONCE_MAX = 2
SEED_TIMEOUT_S = 900.0
_SEED_POLL_S = 0.1
_ROOT_OF_TRUST = Path("metadata") / "1.root.json"


class SeedingError(AtollError):
    """A region's store could not be filled from the dataset."""


class SeedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """From what a region's store was filled; written when it is complete."""

    dataset: str
    hold_out_last: bool
    interactions_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeding:
    """A plain dataset folder, and whether everybody's last event is kept out of the stores."""

    dataset: Path
    hold_out_last: bool = False


def prepare_world(configuration: WorldConfiguration, layout: Layout, *, repository: Path) -> WorldRecord:
    """Write keys, trust, settings and the record; returns the record. Keys and ports of an earlier start are kept.

    Raises:
        InvalidInputError: `repository` is not a release repository.
        ConflictError: the state belongs to a world that trusts another repository.
        WorldConfigurationError: a configured port is in use.
        HaproxyMissingError: the world asks for HAProxy and it is not installed.
        ClockFaultsUnavailableError: its clocks are to be stepped, and there is no compiler.
        SettingsError: the world has TLS and its authority cannot be used.
    """
    haproxy = find_haproxy() if configuration.balancer == "haproxy" else ""
    layout.create()
    # What Flower's standing processes knew ended with them; their credentials last for one life of the world.
    shutil.rmtree(layout.flower, ignore_errors=True)
    _trust_root(layout, repository)
    _make_keys(configuration, layout)
    if configuration.tls:
        authority = WorldAuthority(layout.tls, host=configuration.host, clock=SystemClock())
        authority.ensure(identities(configuration, link_pairs(configuration)))
    ports = assign_ports(
        port_names(configuration),
        configured=configuration.ports,
        previous=_previous_ports(layout),
        seed=str(layout.state),
        is_free=lambda port: is_port_free(configuration.host, port),
    )
    environments = Path(configuration.directories.environments).resolve()
    plan = plan_world(
        PlanInput(
            configuration=configuration,
            layout=layout,
            ports=ports,
            repository=repository.resolve(),
            python_of=lambda tier: tier_python(tier, environments),
            haproxy=haproxy,
            servers=prepare_servers(configuration, layout),
        )
    )
    for path, content in plan.files.items():
        write_atomically(path, content)
    record = WorldRecord(
        configuration=configuration, ports=ports, processes=_with_clocks(plan.processes, configuration, layout),
        working_directory=str(source_root()),
    )  # fmt: skip
    write_atomically(layout.world, msgspec.json.format(msgspec.json.encode(record)))
    return record


def _with_clocks(
    processes: tuple[ProcessPlan, ...], configuration: WorldConfiguration, layout: Layout
) -> tuple[ProcessPlan, ...]:
    """The processes, those of regions with clocks that can be stepped if the world is made for that."""
    if not configuration.clock_faults:
        return processes
    library = build_clock_library(layout.clocks)
    return tuple(
        msgspec.structs.replace(
            plan, environment=clock_environment(library, clock_file(layout.clocks, plan.name))
        ) if plan.region else plan
        for plan in processes
    )  # fmt: skip


def _trust_root(layout: Layout, repository: Path) -> None:
    source = repository / _ROOT_OF_TRUST
    try:
        offered = source.read_bytes()
    except OSError as error:
        raise InvalidInputError(
            f"{repository} is not a release repository: {_ROOT_OF_TRUST} cannot be read.",
            fix="Publish a release first: `./atoll release publish`.",
        ) from error
    if not layout.root.exists():
        write_atomically(layout.root, offered)
    elif layout.root.read_bytes() != offered:
        raise ConflictError(
            f"the world at {layout.state} trusts another release repository than {repository}.",
            fix="Use another state directory, or remove this one to begin anew.",
        )


def _make_keys(configuration: WorldConfiguration, layout: Layout) -> None:
    keys = []
    for region in configuration.region_names:
        path = layout.keys(region)
        if not path.exists():
            RegionKeys.generate(region).save(path)
        keys.append(RegionKeys.load(path))
        keys[-1].for_gateway().save(layout.gateway_keys(region))
    TrustDirectory.of(keys).save(layout.trust)


def _previous_ports(layout: Layout) -> Mapping[str, int]:
    try:
        return msgspec.json.decode(layout.world.read_bytes(), type=WorldRecord).ports
    except (OSError, msgspec.DecodeError):
        return {}


def seed_regions(record: WorldRecord, layout: Layout, seeding: Seeding, *, progress: Progress, clock: Clock) -> None:
    """Fill every region's store from the dataset, unless it was filled from the same one before.

    Raises:
        ConflictError: a store was filled from another dataset.
        SeedingError: the region's seeding program failed; its last words are in the error.
    """
    wanted = _seed_record(seeding)
    waiting = [region for region in record.configuration.region_names if _needs_seed(layout, region, wanted)]
    total = len(waiting)
    progress.advance(0, total, "regions seeded")
    with serving_stores(record.configuration if waiting else None, layout, clock=clock, progress=progress):
        _seed_all(record, layout, seeding, waiting, progress=progress, clock=clock)


def _seed_all(
    record: WorldRecord, layout: Layout, seeding: Seeding, waiting: list[str], *, progress: Progress, clock: Clock
) -> None:
    wanted, total, running = _seed_record(seeding), len(waiting), dict[str, subprocess.Popen[bytes]]()
    end_s = clock.monotonic_s() + SEED_TIMEOUT_S
    try:
        while waiting or running:
            while waiting and len(running) < SEEDS_AT_ONCE_MAX:
                region = waiting.pop(0)
                running[region] = _start_seed(record, layout, region, seeding)
            region = _next_finished(running, end_s, clock)
            _finish_seed(layout, region, running.pop(region).returncode, wanted)
            progress.advance(total - len(waiting) - len(running), total, "regions seeded")
    finally:
        for process in running.values():
            process.kill()
            process.wait()


def _start_seed(record: WorldRecord, layout: Layout, region: str, seeding: Seeding) -> subprocess.Popen[bytes]:
    environments = Path(record.configuration.directories.environments).resolve()
    return start_child(
        [
            tier_python("region", environments), "-m", "region.seed",
            "--settings", str(layout.region(region) / "region.json"),
            "--dataset", str(seeding.dataset.resolve()),
            *(["--hold-out-last"] if seeding.hold_out_last else []),
        ],
        working_directory=Path(record.working_directory),
        mark=layout.mark,
        output=layout.output(f"{region}/seed"),
    )  # fmt: skip


def _next_finished(running: Mapping[str, subprocess.Popen[bytes]], end_s: float, clock: Clock) -> str:
    while clock.monotonic_s() < end_s:
        for region, process in running.items():
            try:
                # Waits on one, so that nothing spins; the others are looked at in turn.
                process.wait(timeout=_SEED_POLL_S / len(running))
            except subprocess.TimeoutExpired:
                continue
            return region
    raise SeedingError(f"seeding took longer than {SEED_TIMEOUT_S:.0f} s.", fix="Use a smaller dataset.")


def _finish_seed(layout: Layout, region: str, code: int, wanted: SeedRecord) -> None:
    if code != 0:
        raise SeedingError(
            f"region {region} could not be seeded (code {code}): {tail(layout.output(f'{region}/seed'))}",
            fix="Check the dataset with `./atoll data validate`.",
        )
    write_atomically(_seed_path(layout, region), msgspec.json.encode(wanted))


def _needs_seed(layout: Layout, region: str, wanted: SeedRecord) -> bool:
    path = _seed_path(layout, region)
    if not path.exists():
        return True
    if msgspec.json.decode(path.read_bytes(), type=SeedRecord) != wanted:
        raise ConflictError(
            f"region {region} of the world at {layout.state} was seeded from another dataset.",
            fix="Use another state directory, or remove this one to begin anew.",
        )
    return False


def _seed_record(seeding: Seeding) -> SeedRecord:
    interactions = seeding.dataset / "interactions.csv"
    try:
        size = os.stat(interactions).st_size
    except OSError as error:
        raise InvalidInputError(
            f"{seeding.dataset} is not a dataset folder: it has no interactions.csv.",
            fix="Import one with `./atoll data import`.",
        ) from error
    return SeedRecord(
        dataset=str(seeding.dataset.resolve()), hold_out_last=seeding.hold_out_last, interactions_bytes=size
    )


def _seed_path(layout: Layout, region: str) -> Path:
    return layout.region(region) / "seeded.json"
