"""Running rounds for real: a supervisor with SuperLink and SuperNodes, from one call, leaving nothing behind."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

import federation
from federation.flower.plan import DeploymentPlan, PrivacyPlan, RegionLink, RunPlan, StandingLink, TrainingPlan
from federation.flower.supervisor import FAILURE_FILE, free_ports
from federation.flower.watching import steps, steps_done
from federation.rounds.outcome import OUTCOME_FILE, RunOutcome, load_outcome
from infra.plumbing.environment import environment_with
from infra.plumbing.errors import AtollError
from infra.plumbing.files import write_atomically
from infra.plumbing.progress import Progress, SilentProgress

_GRACE_S = 20.0
_LOOK_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run is carried out, whatever it trains.

    superlink_port: where the SuperLink listens; 0 picks a free port.
    timeout_s: after which the run is ended.
    round_timeout_s: how long regions may take over one round.
    restarts_max: SuperNodes and ServerApps that are started again after they were killed, in all.
    tls: whether SuperLink and SuperNodes speak TLS and SuperNodes prove who they are.
    engine: interpreter of an environment with Flower's simulation engine, which then stands for SuperLink's network
        and SuperNodes; None: a deployment.
    standing: a SuperLink that runs already, with the regions' SuperNodes; None: the run starts its own.
    progress: told of every process that is up and every round that is over.
    """

    superlink_port: int = 0
    timeout_s: float = 240.0
    round_timeout_s: float = 60.0
    restarts_max: int = 20
    tls: bool = True
    engine: Path | None = None
    standing: StandingLink | None = None
    progress: Progress = field(default_factory=SilentProgress)


class DeploymentError(AtollError):
    """The run did not come to an outcome."""


def run_rounds(
    *, state_directory: Path, release_directory: Path, regions: Mapping[str, RegionLink], rounds: int,
    privacy: PrivacyPlan, training: TrainingPlan | None = None, options: RunOptions | None = None,
) -> RunOutcome:  # fmt: skip
    """Train `rounds` rounds over these regions in a Flower deployment, and return what came of it.

    The gateways must be running; everything else (SuperLink, one SuperNode per region, the ServerApp) is started
    here, on the loopback, and has ended when this returns, by an outcome, an error, or because the caller was killed.
    With `options.standing` SuperLink and SuperNodes run already and go on; the ServerApp is the standing SuperLink's.

    Args:
        state_directory: logs, Flower's home and the outcome (in `outcome/`).
        release_directory: the bundle that is trained on; its name is the release id.
        regions: how each region takes part, by its name.
        rounds: how many rounds.
        privacy: ledger, noise and budget.
        training: how the core is trained.
        options: how it is carried out.

    Raises:
        DeploymentError: no outcome; says which process failed and where its log is.
    """
    state, options = state_directory.resolve(), options or RunOptions()
    outcome = state / "outcome"
    run = RunPlan(
        rounds=rounds, regions=dict(regions), release_directory=str(release_directory.resolve()),
        outcome_directory=str(outcome), training=training or TrainingPlan(), privacy=privacy,
        round_timeout_s=options.round_timeout_s,
    )  # fmt: skip
    plan = DeploymentPlan(
        run=run, state_directory=str(state), superlink_port=options.superlink_port or free_ports(1)[0],
        import_root=str(Path(federation.__file__).resolve().parents[1]), timeout_s=options.timeout_s,
        tls=options.tls and options.engine is None, simulated=options.engine is not None,
        standing=options.standing, restarts_max=options.restarts_max,
    )  # fmt: skip
    plan_file = state / "deployment-plan.json"
    write_atomically(plan_file, msgspec.json.encode(plan))
    python = str(options.engine or sys.executable)
    code = _supervised(python, plan, plan_file, options.timeout_s + _GRACE_S, options.progress)
    if code != 0 or not (outcome / OUTCOME_FILE).exists():
        failure = outcome / FAILURE_FILE
        reason = failure.read_text().strip() if failure.exists() else f"the supervisor ended with {code}."
        raise DeploymentError(f"the federated run came to no outcome: {reason}", fix=f"The logs are in {state}.")
    return load_outcome(outcome)


def _supervised(python: str, plan: DeploymentPlan, plan_file: Path, timeout_s: float, progress: Progress) -> int:
    """Run the supervisor; on an exception here (Ctrl-C, say) it is told to end and waited for."""
    command = [python, "-m", "federation.flower", "--plan", str(plan_file), "--parent", str(os.getpid())]
    environment = environment_with({"PYTHONPATH": plan.import_root})
    with (Path(plan.state_directory) / "supervisor.log").open("ab") as log:
        # Its own session: Ctrl-C reaches this process, which then ends the supervisor in order.
        supervisor = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment,
            cwd=plan.state_directory, start_new_session=True,
        )  # fmt: skip
    try:
        return _wait(supervisor, plan, since_s=plan_file.stat().st_mtime, timeout_s=timeout_s, progress=progress)
    finally:
        if supervisor.poll() is None:
            supervisor.terminate()
            supervisor.wait(timeout=_GRACE_S)


def _wait(
    supervisor: "subprocess.Popen[bytes]", plan: DeploymentPlan, *, since_s: float, timeout_s: float, progress: Progress
) -> int:
    """The supervisor's exit code, or -1 when it goes on after `timeout_s`; says on the way how far the run is."""
    for _ in range(max(1, round(timeout_s / _LOOK_S))):
        progress.advance(steps_done(plan, since_s=since_s), steps(plan), "federated run")
        with contextlib.suppress(subprocess.TimeoutExpired):
            return supervisor.wait(timeout=_LOOK_S)
    return -1
