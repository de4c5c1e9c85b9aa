"""`python -m region --settings FILE`: one region node."""

import sys

from infra.plumbing.environment import ONE_THREAD, OVERWRITING
from infra.plumbing.http.serving import run_with_settings
from region import collecting
from region.app import run
from region.settings import RegionSettings


def main(arguments: list[str]) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code."""
    collecting.settle()
    return run_with_settings(
        "region",
        RegionSettings,
        run,
        description="Serve one region node: lists, events, privacy and the operators' API.",
        arguments=arguments,
        environment=lambda settings: ONE_THREAD | (OVERWRITING if settings.overwrite_freed_memory else {}),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
