"""`python -m infra.local.repository --settings FILE`: the release repository."""

import asyncio
import sys

from infra.local.repository.process import RepositorySettings, run_repository
from infra.local.running import run_local
from infra.plumbing.clock import Clock
from infra.plumbing.telemetry import Telemetry


async def _main(settings: RepositorySettings, stop: asyncio.Event, telemetry: Telemetry, clock: Clock) -> None:
    await run_repository(settings, stop=stop, telemetry=telemetry, clock=clock)


if __name__ == "__main__":
    sys.exit(run_local("repository", RepositorySettings, _main))
