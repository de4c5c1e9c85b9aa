"""A federation on trial: gateways and phones of a dataset in a folder, and Flower's simulation engine over them.

What is simulated is who carries the messages: Flower's own engine (Ray) stands for SuperLink and SuperNodes, a
simulated SuperNode per region. ServerApp, ClientApp, gateways, phones, secure sums, noise, ledger and outcome are those
of a deployment. Nothing of a running world is touched: keys, stores and the ledger lie below the folder.
"""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from federation.flower.deployment import RunOptions, run_rounds
from federation.flower.plan import PrivacyPlan, RegionLink, TrainingPlan
from federation.flower.programs import HOST
from federation.flower.supervisor import free_ports
from federation.rounds.outcome import RunOutcome
from federation.settings import CohortSettings, GatewaySettings, PhonesSettings
from infra.plumbing.clock import Clock
from infra.plumbing.environment import environment_with
from infra.plumbing.errors import UnavailableError
from infra.plumbing.files import write_atomically
from infra.plumbing.keys import RegionKeys, TrustDirectory
from infra.plumbing.telemetry import TelemetrySettings

LEDGER_FILE = "ledger.jsonl"
POPULATION = "simulation"
PATIENCE_S = 3600.0
REPORT_WITHIN_S = 120.0
_UP_WITHIN_S = 60.0
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is simulated.

    release: the bundle that the phones hold.
    dataset: a plain dataset folder whose users own the phones.
    regions: their home regions, a gateway each.
    phones: in every region.
    dropout_share: of the phones that are selected and never report.
    noise_multiplier, epsilon_max, delta: as in a deployment; the ledger is the folder's own.
    """

    release: Path
    dataset: Path
    regions: tuple[str, ...]
    phones: int
    dropout_share: float = 0.08
    noise_multiplier: float = 1.0
    epsilon_max: float = 20.0
    delta: float = 1e-6


@dataclass(frozen=True, slots=True)
class TrialResult:
    """The run's outcome, as of a deployment, and the phones' own report."""

    outcome: RunOutcome
    phones: dict[str, Any]


def simulate(
    directory: Path, trial: Trial, *, rounds: int, training: TrainingPlan, options: RunOptions, clock: Clock
) -> TrialResult:
    """Train `rounds` rounds in Flower's simulation engine, everything below `directory`.

    Args:
        directory: kept from run to run, so that its ledger counts them all.
        trial: who takes part.
        rounds: how many.
        training: what is trained.
        options: with `engine`: the interpreter of the environment that has Ray.
        clock: for the time until the gateways are up.

    Raises:
        UnavailableError: a gateway did not come up.
        DeploymentError: no outcome; says why and where the logs are.
    """
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    ports = dict(zip(trial.regions, free_ports(len(trial.regions)), strict=True))
    with _processes(directory, trial, ports, clock) as phones:
        outcome = run_rounds(
            state_directory=directory / "run", release_directory=trial.release, regions=_links(directory, ports),
            rounds=rounds, training=training, options=options,
            privacy=PrivacyPlan(
                ledger_file=str(directory / LEDGER_FILE), population=POPULATION, delta=trial.delta,
                noise_multiplier=trial.noise_multiplier, epsilon_max=trial.epsilon_max,
            ),
        )  # fmt: skip
        phones.send_signal(signal.SIGTERM)
        reported = phones.wait(timeout=REPORT_WITHIN_S) == 0
        report = (directory / "phones-report.json").read_bytes() if reported else b"{}"
    return TrialResult(outcome, msgspec.json.decode(report))


def cohort_of(phones: int, *, noise_multiplier: float) -> CohortSettings:
    """A region's rules when it has so many phones: all may come, a third must, and phases are longer for crowds."""
    crowd = max(1.0, phones / 50)
    return CohortSettings(
        count_min=max(3, phones // 3), goal_count=max(3, int(phones / 1.3)), selection_s=min(20.0, 4.0 * crowd),
        sharing_s=min(30.0, 5.0 * crowd), reporting_s=min(30.0, 8.0 * crowd), unmasking_s=min(20.0, 5.0 * crowd),
        noise_multiplier_min=min(0.5, noise_multiplier),
    )  # fmt: skip


def _links(directory: Path, ports: Mapping[str, int]) -> dict[str, RegionLink]:
    return {
        region: RegionLink(
            gateway_url=f"http://{HOST}:{port}", round_key_file=str(directory / region / "round.key")
        )
        for region, port in ports.items()
    }  # fmt: skip


@contextmanager
def _processes(
    directory: Path, trial: Trial, ports: Mapping[str, int], clock: Clock
) -> "Iterator[subprocess.Popen[bytes]]":
    """Gateways and phones around a block, which is given the phones' process; afterwards all have ended."""
    settings = _written_settings(directory, trial, ports)
    running: list[subprocess.Popen[bytes]] = []
    try:
        for region in trial.regions:
            log = directory / f"{region}.log"
            running += [_started("federation.gateway", settings[region], log)]
        _wait_until_up(running, list(ports.values()), clock)
        running.append(_started("federation.phones", settings["phones"], directory / "phones.log"))
        yield running[-1]
    finally:
        for process in running:
            process.terminate()
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def _written_settings(directory: Path, trial: Trial, ports: Mapping[str, int]) -> dict[str, Path]:
    """A file for each gateway, by region, and for the phones; the regions' keys are made at the first run."""
    keys = {region: _keys(directory / f"{region}.keys", region) for region in trial.regions}
    TrustDirectory.of(list(keys.values())).save(directory / "trust.json")
    files = {}
    for region, port in ports.items():
        gateway = GatewaySettings(
            node=f"gateway-{region}", region=region, port=port, state_directory=str(directory / region),
            keys_file=str(directory / f"{region}.keys"), trust_file=str(directory / "trust.json"),
            cohort=cohort_of(trial.phones, noise_multiplier=trial.noise_multiplier),
            telemetry=TelemetrySettings(log_file=str(directory / f"{region}.log")),
        )  # fmt: skip
        files[region] = _written(directory / f"{region}.json", gateway)
    (directory / "phones-report.json").unlink(missing_ok=True)
    phones = PhonesSettings(
        gateways={region: f"http://{HOST}:{port}" for region, port in ports.items()},
        keys_files={region: str(directory / f"{region}.keys") for region in trial.regions},
        dataset_directory=str(trial.dataset.resolve()), release_directory=str(trial.release.resolve()),
        state_directory=str(directory / "phones"), phones_per_region=trial.phones, patience_s=PATIENCE_S,
        dropout_share=trial.dropout_share,
        cohort_min=cohort_of(trial.phones, noise_multiplier=trial.noise_multiplier).count_min,
        report_file=str(directory / "phones-report.json"),
        adapter_file=str(directory / "run" / "outcome" / "adapter.npy"),
    )  # fmt: skip
    return files | {"phones": _written(directory / "phones.json", phones)}


def _keys(path: Path, region: str) -> RegionKeys:
    if not path.exists():
        RegionKeys.generate(region).save(path)
    return RegionKeys.load(path)


def _written(path: Path, settings: msgspec.Struct) -> Path:
    write_atomically(path, msgspec.json.encode(settings))
    return path


def _started(module: str, settings: Path, log: Path) -> "subprocess.Popen[bytes]":
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", module, "--settings", str(settings)], stdin=subprocess.DEVNULL, stdout=file,
            stderr=subprocess.STDOUT, env=environment_with({"OPENBLAS_NUM_THREADS": "1"}),
        )  # fmt: skip


def _wait_until_up(gateways: "Sequence[subprocess.Popen[bytes]]", ports: Sequence[int], clock: Clock) -> None:
    ends_s = clock.monotonic_s() + _UP_WITHIN_S
    for process, port in zip(gateways, ports, strict=True):
        while not _listens(port):
            if process.poll() is not None or clock.monotonic_s() > ends_s:
                raise UnavailableError("a simulated region's gateway did not come up.", fix="Its log says why.")
            time.sleep(_LOOK_S)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0
