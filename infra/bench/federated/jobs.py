"""Commands and jobs in the environment of another tier: the measurement itself has no TensorFlow."""

import subprocess

from infra.bench.catalogue import BenchRequest
from infra.local.tiers import source_root, tier_python
from infra.plumbing.environment import environment_with
from infra.plumbing.errors import AtollError


class JobError(AtollError):
    """A command or job of another tier failed, or took too long."""


def run_job(request: BenchRequest, tier: str, module: str, *arguments: str, within_s: float) -> str:
    """What `python -m module arguments` prints in a tier's environment.

    Raises:
        JobError: it ends with a failure, or not within `within_s`.
    """
    command = [tier_python(tier, request.environments), "-m", module, *arguments]
    try:
        done = subprocess.run(
            command, cwd=source_root(), env=environment_with({}), capture_output=True, text=True, check=False,
            timeout=within_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise JobError(f"{module} took more than {within_s:.0f} s.") from None
    if done.returncode:
        raise JobError(f"{module} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout
