"""The supervisor of one run: SuperLink, a SuperNode per region, `flwr run`; ends them all, whatever happens.

It is a process of its own because it needs what a library must not take: the main thread, parent-death signals and
the adoption of orphans.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import msgspec

from federation.flower.certificates import Credentials, make_credentials, make_node_keys
from federation.flower.exporter import kind_of
from federation.flower.plan import PROGRESS_FILE, SERVER_APP_FILE, TARGETS, DeploymentPlan
from federation.flower.processes import ProcessError, adopt_orphans, die_with_parent, end_descendants, start
from federation.flower.programs import (
    CONNECTION,
    HOST,
    flower_environment,
    register_command,
    superlink_command,
    supernode_command,
    tools_directory,
    write_connection,
)
from federation.rounds.outcome import ITEM_MOVES_FILE, OUTCOME_FILE
from infra.contracts.release import FEDERATED_ADAPTER
from infra.plumbing.clock import Clock
from infra.plumbing.errors import AtollError
from infra.plumbing.files import write_atomically

FAILURE_FILE = "failure.txt"
PLAN_FILE = "run-plan.json"
_LOOK_S = 0.1

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
    # Ray's sockets lie in a folder whose name has to be short, and which it does not clear away.
    with tempfile.TemporaryDirectory(prefix="atoll-ray-", ignore_cleanup_errors=True) as sockets:
        try:
            seen = flower_environment(Path(plan.state_directory), plan.import_root, environment)
            _run(plan, seen | {"RAY_TMPDIR": sockets}, clock)
        finally:
            if plan.standing is not None and not (Path(plan.run.outcome_directory) / OUTCOME_FILE).exists():
                _recall(plan)
            end_descendants(clock=clock)
            _targets_file(plan).unlink(missing_ok=True)


def _targets_file(plan: DeploymentPlan) -> Path:
    return Path(plan.state_directory) / TARGETS / "flower.json"


def _run(plan: DeploymentPlan, environment: Mapping[str, str], clock: Clock) -> None:
    state = Path(plan.state_directory)
    regions = sorted(plan.run.regions)
    keys = None
    if plan.standing is None and plan.tls:
        keys = make_credentials(state / "credentials", host=HOST, regions=regions, clock=clock)
    _prepare(plan, state, keys)
    run = _Deployment(plan, environment, keys, Deadline(clock, plan.timeout_s))
    run.start_exporter()
    if plan.standing is None:
        run.start_superlink()
        # One after the other: each takes an interpreter's start, but together they would write one configuration.
        for region, port in [] if plan.simulated else zip(regions, free_ports(len(regions)), strict=True):
            run.register_node(region)
            run.start_supernode(region, port)
    run.submit()
    run.wait_for_outcome()


class _Deployment:
    """The processes of one run; what was killed from outside is started again, `restarts_max` times in all."""

    def __init__(
        self, plan: DeploymentPlan, environment: Mapping[str, str], keys: Credentials | None, deadline: Deadline
    ) -> None:  # fmt: skip
        self._plan = plan
        self._environment = environment
        self._keys = keys
        self._deadline = deadline
        self._state = Path(plan.state_directory)
        self._outcome = Path(plan.run.outcome_directory)
        self._superlink: subprocess.Popen[bytes] | None = None
        self._supernodes: dict[str, tuple[subprocess.Popen[bytes], int]] = {}
        self._submitted: subprocess.Popen[bytes] | None = None
        self._starts: dict[str, int] = {}
        """How often each region's SuperNode was started again."""
        self._restarts = 0

    def start_exporter(self) -> None:
        """Flower's processes have no page of figures: one stands beside them. It ends with this process."""
        command = [
            sys.executable, "-m", "federation.flower.exporter", "--watch", str(os.getpid()),
            "--targets", str(_targets_file(self._plan)),
        ]  # fmt: skip
        self._start(command, "exporter.log")

    def start_superlink(self) -> None:
        """Start it and wait until it listens."""
        command = superlink_command(self._keys, port=self._plan.superlink_port, simulated=self._plan.simulated)
        self._superlink = self._start(command, "superlink.log")
        self._await_superlink()

    def _await_superlink(self) -> None:
        """Until it listens; a standing one may be on its way back."""
        host, _, port = superlink_address(self._plan).rpartition(":")
        while True:
            self._require_time()
            with socket.socket() as probe:
                probe.settimeout(1.0)
                if probe.connect_ex((host, int(port))) == 0:
                    return
            time.sleep(_LOOK_S)

    def register_node(self, region: str) -> None:
        """Tell the SuperLink the key of a region's SuperNode."""
        if self._keys is None:
            return
        public = self._keys.node_public(region, self._starts.get(region, 0))
        registering = self._start(register_command(public), "register.log")
        while (code := registering.poll()) is None:
            self._require_time()
            time.sleep(_LOOK_S)
        if code:
            raise ProcessError(f"a SuperNode could not be registered ({code}).", fix="See register.log.")

    def start_supernode(self, region: str, port: int) -> None:
        """Start one region's SuperNode."""
        keys = self._keys
        command = supernode_command(
            self._plan.run.regions[region], superlink=superlink_address(self._plan), port=port,
            authority=None if keys is None else keys.authority,
            key=None if keys is None else keys.node_key(region, self._starts.get(region, 0)),
        )  # fmt: skip
        self._supernodes[region] = (self._start(command, f"supernode-{region}.log"), port)

    def _start_supernode_again(self, region: str, port: int) -> None:
        # Until heartbeats run out the SuperLink takes the old key for online, and would refuse it: a new one.
        self._starts[region] = self._starts.get(region, 0) + 1
        if self._keys is not None:
            make_node_keys(self._keys, region, self._starts[region])
        self.register_node(region)
        self.start_supernode(region, port)

    def submit(self) -> None:
        """Submit the run: Flower starts the ServerApp."""
        (self._outcome / SERVER_APP_FILE).unlink(missing_ok=True)
        if self._plan.standing is not None:
            self._await_superlink()
        command = [
            str(tools_directory() / "flwr"), "run", str(self._state / "app"), CONNECTION, "--run-config",
            f'plan="{self._state / PLAN_FILE}"',
        ]  # fmt: skip
        if self._plan.simulated:
            command += ["--federation-config", engine_config(len(self._plan.run.regions))]
        self._submitted = self._start(command, "flwr-run.log")

    def wait_for_outcome(self) -> None:
        """Until the outcome is there.

        Raises:
            ProcessError: the run failed, a process ended once too often, or time was up.
        """
        while not (self._outcome / OUTCOME_FILE).exists():
            if (self._outcome / FAILURE_FILE).exists():
                raise ProcessError(f"the run failed: {(self._outcome / FAILURE_FILE).read_text().strip()}")
            self._require_time()
            for region, (process, port) in list(self._supernodes.items()):
                if process.poll() is not None:
                    self._count_restart(f"supernode {region}", process.returncode)
                    self._start_supernode_again(region, port)
            if self._submitted is not None and self._submitted.poll():
                raise ProcessError(f"flwr run ended with {self._submitted.returncode}.", fix="See flwr-run.log.")
            if self._server_app_died():
                self._count_restart("the ServerApp", -signal.SIGKILL)
                self.submit()
            time.sleep(_LOOK_S)

    def _server_app_died(self) -> bool:
        """Whether the ServerApp said that it runs, and does not any more, without an outcome or a failure."""
        try:
            pid = int((self._outcome / SERVER_APP_FILE).read_text())
        except (OSError, ValueError):
            return False
        if _alive(pid):
            return False
        return not (self._outcome / OUTCOME_FILE).exists() and not (self._outcome / FAILURE_FILE).exists()

    def _count_restart(self, name: str, code: int) -> None:
        self._restarts += 1
        if self._restarts > self._plan.restarts_max:
            raise ProcessError(f"{name} ended with {code} once too often.", fix="Its log is in the state directory.")

    def _require_time(self) -> None:
        if self._superlink is not None and self._superlink.poll() is not None:
            raise ProcessError(
                f"superlink ended early with {self._superlink.returncode}.", fix="Its log is in the state directory."
            )
        if self._deadline.passed:
            raise ProcessError("the run did not end in time.", fix="See the logs in the state directory.")

    def _start(self, command: Sequence[str], log: str) -> subprocess.Popen[bytes]:
        return start(
            command, log_file=self._state / log, environment=self._environment, directory=self._state
        )  # fmt: skip


def _alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in ("Z", "X")
    except (OSError, IndexError):
        return False


def superlink_address(plan: DeploymentPlan) -> str:
    """host:port of the SuperLink of a run."""
    return f"{HOST}:{plan.superlink_port}" if plan.standing is None else plan.standing.address


def _recall(plan: DeploymentPlan) -> None:
    """End the ServerApp of a run without an outcome: it is the child of a SuperLink that goes on.

    First the plan goes: a ServerApp that starts only now finds none, and one that says it runs was seen here.
    """
    (Path(plan.state_directory) / PLAN_FILE).unlink(missing_ok=True)
    with contextlib.suppress(OSError, ValueError):
        pid = int((Path(plan.run.outcome_directory) / SERVER_APP_FILE).read_text())
        # The number may be another process's by now, but then hardly a ServerApp's.
        if kind_of(Path(f"/proc/{pid}/cmdline").read_bytes()) == "serverapp":
            os.kill(pid, signal.SIGKILL)


def engine_config(supernodes: int) -> str:
    """What Flower's simulation engine is told: every simulated SuperNode waits for its gateway, all at once."""
    return f"num-supernodes={supernodes} client-resources-num-cpus=1 init-args-num-cpus={supernodes}"


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


def _prepare(plan: DeploymentPlan, state: Path, keys: Credentials | None) -> None:
    outcome = Path(plan.run.outcome_directory)
    outcome.mkdir(parents=True, exist_ok=True)
    for name in (OUTCOME_FILE, FAILURE_FILE, PROGRESS_FILE, FEDERATED_ADAPTER, ITEM_MOVES_FILE, SERVER_APP_FILE):
        (outcome / name).unlink(missing_ok=True)
    authority = None if keys is None else keys.authority
    if plan.standing is not None:
        authority = Path(plan.standing.authority)
    write_connection(state, address=superlink_address(plan), authority=authority)
    write_atomically(state / "app" / "pyproject.toml", _APP.encode())
    write_atomically(state / PLAN_FILE, msgspec.json.encode(plan.run))


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise RunInterruptedError("the run was told to end.")
