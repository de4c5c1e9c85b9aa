"""`python -m region.worker --settings FILE`: the worker of one node."""

import sys

from infra.plumbing.environment import OVERWRITING
from infra.plumbing.http.serving import run_with_settings
from region.settings import RegionSettings
from region.worker.process import run_worker


def main(arguments: list[str]) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code."""
    return run_with_settings(
        "region.worker",
        RegionSettings,
        run_worker,
        description="Apply the region's log of events to its store, and tell the edges.",
        arguments=arguments,
        environment=lambda settings: OVERWRITING if settings.overwrite_freed_memory else {},
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
