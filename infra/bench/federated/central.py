"""Central's commands and jobs in central's own environment: the measurement itself has no TensorFlow."""

import subprocess

from infra.bench.catalogue import BenchRequest
from infra.local.tiers import source_root, tier_python
from infra.plumbing.environment import environment_with
from infra.plumbing.errors import AtollError


class CentralJobError(AtollError):
    """A command or job of central's failed, or took too long."""


def run_central(request: BenchRequest, module: str, *arguments: str, within_s: float) -> None:
    """`python -m module arguments` in central's environment.

    Raises:
        CentralJobError: it ends with a failure, or not within `within_s`.
    """
    command = [tier_python("central", request.environments), "-m", module, *arguments]
    try:
        done = subprocess.run(
            command, cwd=source_root(), env=environment_with({}), capture_output=True, text=True, check=False,
            timeout=within_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise CentralJobError(f"{module} took more than {within_s:.0f} s.") from None
    if done.returncode:
        raise CentralJobError(f"{module} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
