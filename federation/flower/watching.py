"""How far a run is, by what its processes have written so far."""

from pathlib import Path

from federation.flower.plan import PROGRESS_FILE, DeploymentPlan
from federation.rounds.outcome import OUTCOME_FILE

SUPERLINK_LOG = "superlink.log"


def steps(plan: DeploymentPlan) -> int:
    """Steps of a whole run: the SuperLink, each SuperNode, each round, the outcome."""
    return 2 + len(_supernodes(plan)) + plan.run.rounds


def steps_done(plan: DeploymentPlan, *, since_s: float) -> int:
    """Steps that are done; what files say from before `since_s` (Unix time) is another run's."""
    state, outcome = Path(plan.state_directory), Path(plan.run.outcome_directory)
    logs = [state / SUPERLINK_LOG, *(state / f"supernode-{region}.log" for region in _supernodes(plan))]
    started = sum(_written_since(log, since_s) for log in logs)
    finished = _written_since(outcome / OUTCOME_FILE, since_s)
    progress = outcome / PROGRESS_FILE
    rounds = len(progress.read_bytes().splitlines()) if _written_since(progress, since_s) else 0
    return min(steps(plan), started + rounds + finished)


def _supernodes(plan: DeploymentPlan) -> list[str]:
    """Regions with a SuperNode process of their own."""
    return [] if plan.simulated else sorted(plan.run.regions)


def _written_since(path: Path, since_s: float) -> bool:
    try:
        return path.stat().st_mtime >= since_s
    except FileNotFoundError:
        return False
