"""Flower's simulation engine: the same apps as in a deployment, and a trial's gateways and phones as processes.

That Ray really runs them shows `./atoll bench simulation`: its start alone takes longer than a test may.
"""

import socket
import tomllib
from pathlib import Path

import msgspec
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from federation.flower import client_app, server_app, simulating, supervisor
from federation.flower.client_app import BODY, PLAN, RESULT, Gateway, train
from federation.flower.deployment import RunOptions
from federation.flower.plan import DeploymentPlan, PrivacyPlan, RegionLink, RunPlan, TrainingPlan
from federation.flower.programs import superlink_command
from federation.flower.watching import steps
from federation.messages import Phase, RegionalSum
from federation.phones.dataset import read_regions
from federation.rounds.outcome import RunOutcome
from federation.settings import GatewaySettings
from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import InvalidInputError, UnavailableError
from infra.plumbing.keys import RegionKeys
from infra.plumbing.private_files import write_private
from infra.plumbing.settings import load_settings
from tests.unit.federation.building import round_plan, write_dataset

REGIONS = ("us-east", "us-west")


def _plan(tmp_path: Path) -> RunPlan:
    for region in REGIONS:
        write_private(tmp_path / f"{region}.key", f"key of {region}\n".encode())
    return RunPlan(
        rounds=1, release_directory="r", outcome_directory=str(tmp_path / "outcome"),
        regions={
            region: RegionLink(gateway_url=f"http://{region}", round_key_file=str(tmp_path / f"{region}.key"))
            for region in REGIONS
        },
        privacy=PrivacyPlan(ledger_file="l", population="p"),
    )  # fmt: skip


def _deployment(tmp_path: Path, *, simulated: bool) -> DeploymentPlan:
    return DeploymentPlan(
        run=_plan(tmp_path), state_directory=str(tmp_path), superlink_port=1, import_root="/", tls=False,
        simulated=simulated,
    )  # fmt: skip


def test_a_simulated_supernode_asks_the_gateway_of_its_region(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    asked: list[str] = []

    def run_round(self: Gateway, plan: bytes, **_options: object) -> bytes:
        asked.append(f"{self._url} {self._key}")
        return msgspec.json.encode(RegionalSum(round_id="a" * 16, region="r", phase=Phase.VOID))

    monkeypatch.setattr(Gateway, "run_round", run_round)
    plan_file = tmp_path / "plan.json"
    plan_file.write_bytes(msgspec.json.encode(_plan(tmp_path)))
    for number in (1, 0):
        context = Context(
            run_id=1, node_id=1, node_config={"partition-id": number, "num-partitions": 2}, state=RecordDict(),
            run_config={"plan": str(plan_file)},
        )  # fmt: skip
        content = RecordDict({PLAN: ConfigRecord({BODY: msgspec.json.encode(round_plan())})})
        message = Message(content=content, dst_node_id=1, message_type="train")
        message.metadata._message_id = "m" * 64
        assert b"void" in train(message, context).content[RESULT][BODY]
    assert asked == ["http://us-west key of us-west", "http://us-east key of us-east"]


def test_engine_and_deployment_are_given_the_same_apps(tmp_path: Path) -> None:
    started: dict[bool, list[str]] = {}
    for simulated in (False, True):
        plan = _deployment(tmp_path, simulated=simulated)
        supervisor._prepare(plan, tmp_path, None)
        components = tomllib.loads((tmp_path / "app" / "pyproject.toml").read_text())["tool"]["flwr"]["app"][
            "components"
        ]
        assert components == {"serverapp": f"{server_app.__name__}:app", "clientapp": f"{client_app.__name__}:app"}
        run = supervisor._Deployment(plan, {}, None, supervisor.Deadline(ManualClock(), 1.0))
        run._start = lambda command, _log, kept=simulated: started.update({kept: command})  # type: ignore[assignment,misc]
        run.submit()
        link = superlink_command(None, port=plan.superlink_port, simulated=simulated)
        assert ("--simulation" in link) == simulated
    assert started[True][:-2] == started[False]
    assert started[True][-1].startswith("num-supernodes=2 ")


def test_a_simulated_run_has_no_supernodes_to_wait_for(tmp_path: Path) -> None:
    assert steps(_deployment(tmp_path, simulated=False)) == 5
    assert steps(_deployment(tmp_path, simulated=True)) == 3


def _trial(tmp_path: Path, *, noise_multiplier: float = 1.0) -> simulating.Trial:
    write_dataset(tmp_path / "data", regions=REGIONS, users=5)
    return simulating.Trial(
        release=tmp_path / "release", dataset=tmp_path / "data", regions=REGIONS, phones=4,
        noise_multiplier=noise_multiplier,
    )  # fmt: skip


class _Process:
    """Listens in the place of a gateway, or does not."""

    def __init__(self, port: int | None) -> None:
        self.heard: list[str] = []
        self._socket = socket.socket() if port else None
        if self._socket:
            self._socket.bind(("127.0.0.1", port))
            self._socket.listen()

    def poll(self) -> int | None:
        return 1

    def wait(self, _timeout: float = 0.0, timeout: float = 0.0) -> int:
        return 0

    def send_signal(self, number: int) -> None:
        self.heard.append(f"signal {number}")

    def terminate(self) -> None:
        self.heard.append("terminate")
        if self._socket:
            self._socket.close()

    def kill(self) -> None:
        self.heard.append("kill")


def _simulate(directory: Path, trial: simulating.Trial) -> simulating.TrialResult:
    options = RunOptions(engine=Path("/ray"))
    return simulating.simulate(
        directory, trial, rounds=2, training=TrainingPlan(), clock=ManualClock(), options=options
    )  # fmt: skip


def test_a_trial_stands_on_gateways_phones_and_a_ledger_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, running, runs = tmp_path / "trial", [], []

    def started(module: str, settings: Path, _log: Path) -> _Process:
        port = load_settings(settings, GatewaySettings).port if module == "federation.gateway" else None
        if port is None:
            (directory / "phones-report.json").write_text('{"tasks": 8}')
        running.append(_Process(port))
        return running[-1]

    def run_rounds(**given: object) -> RunOutcome:
        runs.append(given)
        return RunOutcome(
            release="r", population="simulation", rounds=(), devices=8, ok=True, epsilon=1.0, epsilon_released=1.0,
            delta=1e-6, adapter_path="adapter.npy",
        )  # fmt: skip

    monkeypatch.setattr(simulating, "_started", started)
    monkeypatch.setattr(simulating, "run_rounds", run_rounds)
    trial = _trial(tmp_path, noise_multiplier=0.3)
    result = _simulate(directory, trial)
    keys = RegionKeys.load(directory / "us-east.keys").issuer_private
    _simulate(directory, trial)
    assert (result.phones, result.outcome.devices) == ({"tasks": 8}, 8)
    assert RegionKeys.load(directory / "us-east.keys").issuer_private == keys
    assert set(runs[0]["regions"]) == set(REGIONS)  # type: ignore[call-overload]
    assert runs[0]["privacy"].ledger_file == str(directory / "ledger.jsonl")  # type: ignore[attr-defined]
    assert len(running) == 6
    assert all("terminate" in process.heard for process in running)
    assert [len(process.heard) for process in running[:3]] == [2, 2, 3]
    assert load_settings(directory / "us-east.json", GatewaySettings).cohort.noise_multiplier_min == 0.3


def test_a_gateway_that_does_not_come_up_ends_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[_Process] = []

    def started(*_words: object) -> _Process:
        running.append(_Process(None))
        return running[-1]

    monkeypatch.setattr(simulating, "_started", started)
    with pytest.raises(UnavailableError, match="did not come up"):
        _simulate(tmp_path / "trial", _trial(tmp_path))
    assert all("terminate" in process.heard for process in running)


def test_cohorts_fit_the_number_of_phones() -> None:
    for phones in (3, 20, 300):
        cohort = simulating.cohort_of(phones, noise_multiplier=1.0)
        assert 3 <= cohort.count_min <= max(3, cohort.goal_count) <= max(3, phones)
        assert cohort.selection_s + cohort.sharing_s + cohort.reporting_s + 2 * cohort.unmasking_s < 150.0


def test_regions_are_the_datasets_own(tmp_path: Path) -> None:
    assert read_regions(write_dataset(tmp_path / "two", regions=REGIONS, users=3)) == REGIONS
    (tmp_path / "users.csv").write_text("user_id,region\nu,\n")
    with pytest.raises(InvalidInputError, match="names no region"):
        read_regions(tmp_path)
