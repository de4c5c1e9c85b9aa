"""How far a run is, by what its processes have written so far."""

from pathlib import Path

from federation.flower.plan import PROGRESS_FILE, DeploymentPlan
from federation.rounds.outcome import OUTCOME_FILE

SUPERLINK_LOG = "superlink.log"


def steps(plan: DeploymentPlan) -> int:
    """Steps of a whole run: the SuperLink and each SuperNode that it starts, each round, the outcome."""
    return 1 + len(_logs(plan)) + plan.run.rounds


def steps_done(plan: DeploymentPlan, *, since_s: float) -> int:
    """Steps that are done; what files say from before `since_s` (Unix time) is another run's."""
    outcome = Path(plan.run.outcome_directory)
    started = sum(_written_since(log, since_s) for log in _logs(plan))
    finished = _written_since(outcome / OUTCOME_FILE, since_s)
    progress = outcome / PROGRESS_FILE
    rounds = len(progress.read_bytes().splitlines()) if _written_since(progress, since_s) else 0
    return min(steps(plan), started + rounds + finished)


def _logs(plan: DeploymentPlan) -> list[Path]:
    """One for the SuperLink and each SuperNode that the run starts."""
    state = Path(plan.state_directory)
    if plan.standing is not None:
        return []
    regions = [] if plan.simulated else sorted(plan.run.regions)
    return [state / SUPERLINK_LOG, *(state / f"supernode-{region}.log" for region in regions)]


def _written_since(path: Path, since_s: float) -> bool:
    try:
        return path.stat().st_mtime >= since_s
    except FileNotFoundError:
        return False
