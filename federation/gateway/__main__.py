"""`python -m federation.gateway --settings FILE`: one region's device gateway."""

import argparse
import asyncio
import secrets
import sys
from pathlib import Path

from federation.gateway.app import build_app
from federation.settings import GatewaySettings
from infra.plumbing.clock import SystemClock
from infra.plumbing.http.serving import run_process, serve
from infra.plumbing.keys import RegionKeys, TrustDirectory
from infra.plumbing.settings import load_settings
from infra.plumbing.telemetry import start_telemetry


def main() -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m federation.gateway", description=__doc__)
    parser.add_argument("--settings", type=Path, required=True, help="GatewaySettings, .toml or .json")
    path = parser.parse_args().settings

    async def run(stop: asyncio.Event) -> None:
        settings = load_settings(path, GatewaySettings)
        telemetry = start_telemetry(
            service="gateway", region=settings.region, node=settings.node, settings=settings.telemetry
        )
        try:
            app = build_app(
                settings=settings, keys=RegionKeys.load(Path(settings.keys_file)),
                trust=TrustDirectory.load(Path(settings.trust_file)), telemetry=telemetry, clock=SystemClock(),
                entropy=secrets.token_bytes,
            )  # fmt: skip
            await serve(app, host=settings.host, port=settings.port, stop=stop, telemetry=telemetry)
        finally:
            telemetry.close()

    return run_process(run)


if __name__ == "__main__":
    sys.exit(main())
