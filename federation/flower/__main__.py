"""`python -m federation.flower --plan FILE --parent PID`: supervises one run; started by `run_rounds`."""

import argparse
import sys
from pathlib import Path

from federation.flower.plan import DeploymentPlan
from federation.flower.supervisor import FAILURE_FILE, RunInterruptedError, supervise
from infra.plumbing.clock import SystemClock
from infra.plumbing.environment import environment_with
from infra.plumbing.errors import AtollError
from infra.plumbing.files import write_atomically
from infra.plumbing.settings import load_settings


def main() -> int:
    """Run one deployment to its end."""
    parser = argparse.ArgumentParser(prog="python -m federation.flower", description=__doc__)
    parser.add_argument("--plan", type=Path, required=True, help="DeploymentPlan, JSON")
    parser.add_argument("--parent", type=int, required=True, help="process id of the starter; this ends with it")
    arguments = parser.parse_args()
    plan = load_settings(arguments.plan, DeploymentPlan)
    try:
        supervise(plan, parent=arguments.parent, environment=environment_with({}), clock=SystemClock())
    except RunInterruptedError:
        return 130
    except AtollError as error:
        write_atomically(Path(plan.run.outcome_directory) / FAILURE_FILE, f"{error}\n".encode())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
