"""Flower's two sides without Flower's processes, and the supervisor's pieces."""

import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.error import URLError

import msgspec
import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from federation.flower import supervisor
from federation.flower.certificates import make_credentials
from federation.flower.client_app import BODY, PLAN, RESULT, Gateway, train
from federation.flower.deployment import DeploymentError, RunOptions, run_rounds
from federation.flower.plan import PROGRESS_FILE, DeploymentPlan, PrivacyPlan, RegionLink, RunPlan
from federation.flower.processes import ProcessError, descendants, die_with_parent
from federation.flower.programs import flower_environment, supernode_command
from federation.flower.server_app import GridRegions, main, run_plan
from federation.flower.supervisor import free_ports, superlink_address
from federation.messages import Phase, RegionalSum, RoundPlan, to_bytes
from federation.rounds.outcome import load_outcome
from infra.plumbing.clock import ManualClock, SystemClock
from tests.unit.federation.building import round_plan, write_release


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who this process is to Flower: messages carry it."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


class _Answering(BaseHTTPRequestHandler):
    """A gateway that is still reporting at the first look and closed at the second."""

    looks: ClassVar[list[str]] = []
    status: ClassVar[int] = 202

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Authorization"] == "Bearer the-key"
        self._say(Phase.SELECTING, json.loads(body)["round_id"], self.status)

    def do_GET(self) -> None:
        self.looks.append(self.path)
        phase = Phase.CLOSED if len(self.looks) > 1 else Phase.REPORTING
        self._say(phase, self.path.rsplit("/", 1)[1].split("?")[0], 200)

    def _say(self, phase: Phase, round_id: str, status: int) -> None:
        body = msgspec.json.encode(RegionalSum(round_id=round_id, region="us-east", phase=phase))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def gateway_url() -> Iterator[str]:
    _Answering.looks.clear()
    _Answering.status = 202
    server = HTTPServer(("127.0.0.1", 0), _Answering)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "round.key"
    path.write_text("the-key\n")
    path.chmod(0o600)
    return path


def _message(record: RecordDict) -> Message:
    message = Message(content=record, dst_node_id=1, message_type="train")
    message.metadata._message_id = "m" * 64
    return message


def test_the_client_app_brings_the_gateways_result_back(gateway_url: str, key_file: Path) -> None:
    config = {"gateway": gateway_url, "round-key-file": str(key_file)}
    context = Context(run_id=1, node_id=1, node_config=config, state=RecordDict(), run_config={})
    plan = msgspec.json.encode(round_plan())
    reply = train(_message(RecordDict({PLAN: ConfigRecord({BODY: plan})})), context)
    result = msgspec.json.decode(reply.content[RESULT][BODY], type=RegionalSum)
    assert (result.phase, result.round_id) == (Phase.CLOSED, "a" * 16)
    assert len(_Answering.looks) == 2


def test_a_gateway_that_refuses_or_never_ends_is_said(gateway_url: str, key_file: Path) -> None:
    gateway = Gateway(url=gateway_url, round_key_file=key_file)
    plan = msgspec.json.encode(round_plan())
    with pytest.raises(TimeoutError):
        gateway.run_round(plan, timeout_s=-1.0, clock=ManualClock())
    _Answering.status = 403
    with pytest.raises(URLError, match="403"):
        gateway.run_round(plan, timeout_s=1.0, clock=ManualClock())


class _Grid:
    """A grid with two regions; the second one's ClientApp can fail, or stay silent."""

    def __init__(self, *, second: str = "answers", nodes: int = 2) -> None:
        self._second = second
        self._nodes = nodes
        self.sent: list[Message] = []
        self._pulls = 0

    def get_node_ids(self) -> list[int]:
        return list(range(1, self._nodes + 1))

    def push_messages(self, messages: list[Message]) -> list[str]:
        for index, message in enumerate(messages):
            message.metadata._message_id = f"{index}" * 64
        self.sent = list(messages)
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, waiting: set[str]) -> list[Message]:
        self._pulls += 1
        message = self.sent[(self._pulls - 1) % len(self.sent)]
        if message.metadata.message_id not in waiting:
            return []
        node = message.metadata.dst_node_id
        if node == 2 and self._second == "silent":
            return []
        if node == 2 and self._second == "fails":
            return [Message(Error(code=0, reason="boom"), reply_to=message)]
        plan = msgspec.json.decode(message.content[PLAN][BODY], type=RoundPlan)
        answer = RegionalSum(
            round_id=plan.round_id, region=f"r{node}", phase=Phase.CLOSED, shape=(plan.rank, plan.rank),
            total=to_bytes(np.full((plan.rank, plan.rank), 1.0)), weight=10, clipping_norm=plan.clipping_norm,
            noise_multiplier=plan.noise_multiplier,
        )  # fmt: skip
        return [
            Message(content=RecordDict({RESULT: ConfigRecord({BODY: msgspec.json.encode(answer)})}), reply_to=message)
        ]


@pytest.mark.parametrize(("second", "answers"), [("answers", 2), ("fails", 1), ("silent", 1)])
def test_the_grid_brings_what_came_in_time(second: str, answers: int) -> None:
    regions = GridRegions(_Grid(second=second), names=("r1", "r2"), nodes_wait_s=0.0, clock=SystemClock())
    found = regions.ask(round_plan(), timeout_s=1.0)
    assert [one.region for one in found] == ["r1", "r2"][:answers]


def test_the_grid_does_not_wait_for_ever_for_nodes() -> None:
    regions = GridRegions(_Grid(nodes=1), names=("r1", "r2"), nodes_wait_s=0.3, clock=SystemClock())
    assert regions.wait_for_nodes() == [1]


def _run_plan(tmp_path: Path) -> RunPlan:
    links = {name: RegionLink(gateway_url="http://127.0.0.1:1", round_key_file="k") for name in ("r1", "r2")}
    return RunPlan(
        rounds=1, regions=links, release_directory=str(write_release(tmp_path)),
        outcome_directory=str(tmp_path / "outcome"), nodes_wait_s=1.0, round_timeout_s=5.0,
        privacy=PrivacyPlan(ledger_file=str(tmp_path / "ledger"), population="p"),
    )  # fmt: skip


def test_the_server_app_runs_a_plan_over_a_grid(tmp_path: Path) -> None:
    plan = _run_plan(tmp_path)
    (tmp_path / "outcome").mkdir()
    run_plan(plan, _Grid(), clock=SystemClock())
    outcome = load_outcome(tmp_path / "outcome")
    assert (outcome.ok, outcome.devices) == (True, 20)
    assert len((tmp_path / "outcome" / PROGRESS_FILE).read_bytes().splitlines()) == 1


def test_the_server_app_says_what_failed(tmp_path: Path) -> None:
    plan = msgspec.structs.replace(_run_plan(tmp_path), release_directory=str(tmp_path / "nothing"))
    (tmp_path / "plan.json").write_bytes(msgspec.json.encode(plan))
    context = Context(
        run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={"plan": str(tmp_path / "plan.json")}
    )  # fmt: skip
    with pytest.raises(Exception, match="adapter"):
        main(_Grid(), context)
    assert "OutcomeError" in (tmp_path / "outcome" / "failure.txt").read_text()


# --- processes


def _deployment(tmp_path: Path, **changes) -> DeploymentPlan:
    run = msgspec.structs.replace(_run_plan(tmp_path), outcome_directory=str(tmp_path / "outcome"))
    plan = DeploymentPlan(
        run=run, state_directory=str(tmp_path), superlink_port=free_ports(1)[0], import_root="/root-of-imports",
        timeout_s=20.0,
    )  # fmt: skip
    return msgspec.structs.replace(plan, **changes)


def test_flowers_processes_reach_nothing_outside(tmp_path: Path) -> None:
    given = {"PATH": "/bin", "HOME": "/root", "PYTHONDONTWRITEBYTECODE": "1"}
    found = flower_environment(tmp_path, "/root-of-imports", given)
    assert found["FLWR_TELEMETRY_ENABLED"] == "0"
    assert found["FLWR_DISABLE_UPDATE_CHECK"] == found["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert found["FLWR_HOME"].startswith(str(tmp_path))
    assert found["HOME"] == str(tmp_path)
    assert found["PATH"].endswith(":/bin")
    assert "PYTHONDONTWRITEBYTECODE" not in found


def test_a_supernode_goes_where_its_link_says_and_is_never_told_a_key(tmp_path: Path) -> None:
    link = RegionLink(gateway_url="http://127.0.0.1:7", round_key_file="/k", superlink_address="127.0.0.1:9")
    superlink = superlink_address(_deployment(tmp_path, superlink_port=6))
    command = supernode_command(link, superlink=superlink, port=8)
    assert command[command.index("--superlink") + 1] == "127.0.0.1:9"
    assert command[-1] == 'gateway="http://127.0.0.1:7" round-key-file="/k"'
    direct = supernode_command(msgspec.structs.replace(link, superlink_address=""), superlink=superlink, port=8)
    assert direct[direct.index("--superlink") + 1] == "127.0.0.1:6"
    with pytest.raises(ProcessError, match="quotes"):
        supernode_command(msgspec.structs.replace(link, round_key_file='a"b'), superlink=superlink, port=8)


_FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_the_family_of_a_process_is_found(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", _FAMILY], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    grandchild = int(parent.stdout.readline())
    try:
        assert descendants(parent.pid) == [grandchild]
        assert {parent.pid, grandchild} <= set(descendants(os.getpid()))
    finally:
        for pid in (grandchild, parent.pid):
            os.kill(pid, signal.SIGKILL)
        parent.wait()
        parent.stdout.close()


_STARTS = """
import os, sys
from pathlib import Path
from federation.flower.processes import start

log = Path(sys.argv[1])
child = start(
    [sys.executable, "-c", "print('hello')"], log_file=log, environment=dict(os.environ), directory=log.parent
)
sys.exit(child.wait(30))
"""


def test_a_child_logs_to_its_file(tmp_path: Path) -> None:
    # From a small process with one thread, as it asks for: the tests' own may be too large to fork.
    subprocess.run([sys.executable, "-c", _STARTS, str(tmp_path / "log")], check=True, timeout=60)
    assert (tmp_path / "log").read_text() == "hello\n"


def test_who_lost_the_parent_does_not_go_on() -> None:
    with pytest.raises(ProcessError, match="has ended"):
        die_with_parent(0, parent=1 if os.getppid() != 1 else 2)


_SUPERVISED = """
import os, sys
from federation.flower import supervisor
from federation.flower.plan import PROGRESS_FILE, DeploymentPlan
from infra.plumbing.clock import SystemClock
from infra.plumbing.settings import load_settings
from pathlib import Path

def run(plan, environment, clock):
    import subprocess, time
    child = subprocess.Popen([sys.executable, "-c", {family!r}], stdout=subprocess.PIPE)
    Path(plan.state_directory, "pids").write_text(f"{{child.pid}} {{int(child.stdout.readline())}}")
    os.rename(Path(plan.state_directory, "pids"), Path(plan.state_directory, "pids.ready"))
    time.sleep(60)

supervisor._run = run
supervisor.supervise(load_settings(Path(sys.argv[1]), DeploymentPlan), parent=os.getppid(), environment={{}},
                     clock=SystemClock())
"""


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _wait_until(condition, *, within_s: float = 20.0) -> None:
    ends_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < ends_s
        threading.Event().wait(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_supervisor_that_is_told_to_end_takes_its_whole_family_along(tmp_path: Path, number: int) -> None:
    plan_file = tmp_path / "plan.json"
    plan_file.write_bytes(msgspec.json.encode(_deployment(tmp_path)))
    code = _SUPERVISED.format(family=_FAMILY)
    process = subprocess.Popen([sys.executable, "-c", code, str(plan_file)], stderr=subprocess.DEVNULL)
    _wait_until((tmp_path / "pids.ready").exists)
    family = [int(pid) for pid in (tmp_path / "pids.ready").read_text().split()]
    process.send_signal(number)
    process.wait(20)
    assert all(_gone(pid) for pid in family)


class _Child:
    def __init__(self, code: int | None) -> None:
        self.returncode = code

    def poll(self) -> int | None:
        return self.returncode


def _running(plan: DeploymentPlan, *, within_s: float = 10.0) -> supervisor._Deployment:
    return supervisor._Deployment(plan, {}, None, supervisor.Deadline(ManualClock(), within_s))


def test_the_supervisor_notices_what_ended_early_failed_or_took_too_long(tmp_path: Path) -> None:
    plan = _deployment(tmp_path)
    supervisor._prepare(plan, tmp_path, None)
    with pytest.raises(ProcessError, match="in time"):
        _running(plan, within_s=-1.0).wait_for_outcome()
    run = _running(plan)
    run._superlink = _Child(1)  # type: ignore[assignment]
    with pytest.raises(ProcessError, match="superlink ended early with 1"):
        run.wait_for_outcome()
    run = _running(plan)
    run._submitted = _Child(2)  # type: ignore[assignment]
    with pytest.raises(ProcessError, match="flwr run ended with 2"):
        run.wait_for_outcome()
    (tmp_path / "outcome" / "failure.txt").write_text("no luck\n")
    with pytest.raises(ProcessError, match="no luck"):
        _running(plan).wait_for_outcome()
    (tmp_path / "outcome" / "outcome.json").write_text("{}")
    _running(plan).wait_for_outcome()
    supervisor._prepare(plan, tmp_path, None)
    assert not (tmp_path / "outcome" / "outcome.json").exists()


def test_what_was_killed_is_started_again_a_bounded_number_of_times(tmp_path: Path) -> None:
    plan = msgspec.structs.replace(_deployment(tmp_path), restarts_max=3)
    supervisor._prepare(plan, tmp_path, None)
    run = _running(plan)
    started: list[str] = []

    def start_and_die(_command: list[str], log: str) -> _Child:
        started.append(log)
        return _Child(-9)

    run._start = start_and_die  # type: ignore[method-assign,assignment]
    run.start_supernode("r1", 1)
    with pytest.raises(ProcessError, match="once too often"):
        run.wait_for_outcome()
    assert started == ["supernode-r1.log"] * 4


def test_a_server_app_that_was_killed_is_submitted_again(tmp_path: Path) -> None:
    plan = _deployment(tmp_path)
    supervisor._prepare(plan, tmp_path, None)
    run = _running(plan)
    assert not run._server_app_died()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    file = tmp_path / "outcome" / "server-app.pid"
    file.write_text(str(child.pid))
    assert not run._server_app_died()
    child.kill()
    child.wait(20)
    assert run._server_app_died()
    submitted: list[list[str]] = []

    def start_and_finish(command: list[str], _log: str) -> _Child:
        submitted.append(command)
        (tmp_path / "outcome" / "outcome.json").write_text("{}")
        return _Child(None)

    run._start = start_and_finish  # type: ignore[method-assign,assignment]
    run.wait_for_outcome()
    assert [command[1] for command in submitted] == ["run"]


def test_credentials_verify_against_their_authority_and_are_private(tmp_path: Path) -> None:
    made = make_credentials(tmp_path, host="127.0.0.1", regions=("us-east",), clock=SystemClock())
    context = ssl.create_default_context(cafile=str(made.authority))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made.certificate, made.key)
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(theirs, ours, server_hostname="127.0.0.1")
    peer = server.wrap_bio(ours, theirs, server_side=True)
    for one in (client, peer, client, peer, client):
        with contextlib.suppress(ssl.SSLWantReadError):
            one.do_handshake()
    assert client.version() == "TLSv1.3"
    for secret in (made.key, made.node_key("us-east")):
        assert secret.stat().st_mode & 0o077 == 0


def test_a_run_without_an_outcome_says_where_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _run_plan(tmp_path)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(DeploymentError, match="supervisor ended with 1"):
        run_rounds(
            state_directory=tmp_path / "state", release_directory=Path(plan.release_directory), regions=plan.regions,
            rounds=1, privacy=plan.privacy, options=RunOptions(timeout_s=10.0),
        )  # fmt: skip
