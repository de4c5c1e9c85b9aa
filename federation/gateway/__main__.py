"""`python -m federation.gateway --settings FILE`: one region's device gateway."""

import sys

from federation.gateway.process import run
from federation.settings import GatewaySettings
from infra.plumbing.http.serving import run_with_settings


def main(arguments: list[str]) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code."""
    return run_with_settings(
        "federation.gateway", GatewaySettings, run, description="Run one region's device gateway.", arguments=arguments
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
