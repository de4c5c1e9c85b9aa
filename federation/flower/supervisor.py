"""The supervisor of one run: SuperLink, a SuperNode per region, `flwr run`; ends them all, whatever happens.

It is a process of its own because it needs what a library must not take: the main thread, parent-death signals and
the adoption of orphans.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import msgspec

from federation.flower.plan import PROGRESS_FILE, DeploymentPlan, RegionLink
from federation.flower.processes import ProcessError, adopt_orphans, die_with_parent, end_descendants, start
from federation.rounds.outcome import OUTCOME_FILE
from infra.contracts.release import FEDERATED_ADAPTER
from infra.plumbing.clock import Clock
from infra.plumbing.errors import AtollError
from infra.plumbing.files import write_atomically

HOST = "127.0.0.1"
FAILURE_FILE = "failure.txt"
PLAN_FILE = "run-plan.json"
_LOOK_S = 0.1
_CONNECTION = "atoll"

_APP = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "atoll-federation"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "atoll"

[tool.flwr.app.components]
serverapp = "federation.flower.server_app:app"
clientapp = "federation.flower.client_app:app"

[tool.flwr.app.config]
plan = ""
"""
"""The app that Flower carries around holds no code: each side runs what is installed there."""


@dataclass(slots=True)
class Deadline:
    """A moment after which nobody waits any more."""

    clock: Clock
    timeout_s: float
    _ends_s: float = 0.0

    def __post_init__(self) -> None:
        self._ends_s = self.clock.monotonic_s() + self.timeout_s

    @property
    def passed(self) -> bool:
        """Whether it is over."""
        return self.clock.monotonic_s() > self._ends_s


class RunInterruptedError(AtollError):
    """SIGTERM or SIGINT came, or the parent ended."""


def supervise(plan: DeploymentPlan, *, parent: int, environment: Mapping[str, str], clock: Clock) -> None:
    """Run `plan` to its end. The outcome, or a text saying what failed, lies in the outcome directory.

    Raises:
        ProcessError: a process ended early, or time was up.
        RunInterruptedError: a signal came.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    die_with_parent(signal.SIGTERM, parent=parent)
    adopt_orphans()
    try:
        _run(plan, flower_environment(plan, environment), clock)
    finally:
        end_descendants(clock=clock)


def _run(plan: DeploymentPlan, environment: Mapping[str, str], clock: Clock) -> None:
    state = Path(plan.state_directory)
    _prepare(plan, state)
    tools = Path(sys.executable).parent
    deadline = Deadline(clock, plan.timeout_s)
    children = {"superlink": _start_superlink(plan, tools, environment, state)}
    _wait_for_port(plan.superlink_port, children, deadline)
    ports = free_ports(len(plan.run.regions))
    for (region, link), port in zip(sorted(plan.run.regions.items()), ports, strict=True):
        command = supernode_command(tools, link, plan, port)
        children[f"supernode {region}"] = start(
            command, log_file=state / f"supernode-{region}.log", environment=environment, directory=state
        )
    submit = [
        str(tools / "flwr"), "run", str(state / "app"), _CONNECTION, "--run-config",
        f'plan="{state / PLAN_FILE}"',
    ]  # fmt: skip
    submitted = start(submit, log_file=state / "flwr-run.log", environment=environment, directory=state)
    _wait_for_outcome(plan, children, submitted, deadline)


def flower_environment(plan: DeploymentPlan, inherited: Mapping[str, str]) -> dict[str, str]:
    """What Flower's processes see: no telemetry, no update check, no installer, their own home, our packages."""
    state = Path(plan.state_directory)
    tools = Path(sys.executable).parent
    # Flower starts about fifteen interpreters a run; without byte code each one compiles its 40 MB of imports anew.
    kept = {name: value for name, value in inherited.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {
        "PATH": f"{tools}{os.pathsep}{inherited.get('PATH', os.defpath)}",
        "PYTHONPATH": plan.import_root,
        "HOME": str(state),
        "FLWR_HOME": str(state / "flower"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
        "NO_PROXY": HOST,
        "no_proxy": HOST,
    }


def supernode_command(tools: Path, link: RegionLink, plan: DeploymentPlan, port: int) -> list[str]:
    """The SuperNode of one region; its ClientApp learns the gateway and where its key lies, not the key."""
    superlink = link.superlink_address or f"{HOST}:{plan.superlink_port}"
    config = f"gateway={_quoted(link.gateway_url)} round-key-file={_quoted(link.round_key_file)}"
    return [
        str(tools / "flower-supernode"), "--insecure", "--superlink", superlink, "--host", HOST, "--port", str(port),
        "--node-config", config,
    ]  # fmt: skip


def free_ports(count: int) -> list[int]:
    """So many ports of the loopback that are free now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _quoted(text: str) -> str:
    if '"' in text or "\n" in text:
        raise ProcessError("a path or address with quotes cannot be given to Flower.", fix="Choose another path.")
    return f'"{text}"'


def _prepare(plan: DeploymentPlan, state: Path) -> None:
    outcome = Path(plan.run.outcome_directory)
    outcome.mkdir(parents=True, exist_ok=True)
    for name in (OUTCOME_FILE, FAILURE_FILE, PROGRESS_FILE, FEDERATED_ADAPTER):
        (outcome / name).unlink(missing_ok=True)
    connection = f'[superlink]\ndefault = "{_CONNECTION}"\n\n[superlink.{_CONNECTION}]\n'
    connection += f'address = "{HOST}:{plan.superlink_port}"\ninsecure = true\n'
    write_atomically(state / "flower" / "config.toml", connection.encode())
    write_atomically(state / "app" / "pyproject.toml", _APP.encode())
    write_atomically(state / PLAN_FILE, msgspec.json.encode(plan.run))


def _start_superlink(
    plan: DeploymentPlan, tools: Path, environment: Mapping[str, str], state: Path
) -> subprocess.Popen[bytes]:
    command = [
        str(tools / "flower-superlink"), "--insecure", "--host", HOST, "--port", str(plan.superlink_port),
        "--disable-runtime-dependency-installation",
    ]  # fmt: skip
    return start(command, log_file=state / "superlink.log", environment=environment, directory=state)


def _wait_for_port(port: int, children: Mapping[str, subprocess.Popen[bytes]], deadline: Deadline) -> None:
    while True:
        _require_alive(children, deadline)
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(_LOOK_S)


def _wait_for_outcome(
    plan: DeploymentPlan, children: Mapping[str, subprocess.Popen[bytes]], submitted: subprocess.Popen[bytes],
    deadline: Deadline,
) -> None:  # fmt: skip
    outcome = Path(plan.run.outcome_directory)
    while not (outcome / OUTCOME_FILE).exists():
        if (outcome / FAILURE_FILE).exists():
            raise ProcessError(f"the run failed: {(outcome / FAILURE_FILE).read_text().strip()}")
        if submitted.poll():
            raise ProcessError(f"flwr run ended with {submitted.returncode}.", fix="See flwr-run.log.")
        _require_alive(children, deadline)
        time.sleep(_LOOK_S)


def _require_alive(children: Mapping[str, subprocess.Popen[bytes]], deadline: Deadline) -> None:
    for name, child in children.items():
        if child.poll() is not None:
            raise ProcessError(f"{name} ended early with {child.returncode}.", fix="Its log is in the state directory.")
    if deadline.passed:
        raise ProcessError("the run did not end in time.", fix="See the logs in the state directory.")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise RunInterruptedError("the run was told to end.")
