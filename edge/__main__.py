"""`python -m edge --settings FILE`: one edge node."""

import sys

from edge.process import run
from edge.settings import EdgeSettings
from infra.plumbing.http.serving import run_with_settings


def main(arguments: list[str]) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code."""
    return run_with_settings("edge", EdgeSettings, run, description="Run one edge node.", arguments=arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
