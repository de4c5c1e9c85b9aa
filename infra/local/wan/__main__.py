"""`python -m infra.local.wan --settings FILE`: the links of a world."""

import asyncio
import sys

from infra.local.running import run_local
from infra.local.wan.process import run_wan
from infra.local.wan.settings import WanSettings
from infra.plumbing.clock import Clock
from infra.plumbing.telemetry import Telemetry


async def _main(settings: WanSettings, stop: asyncio.Event, telemetry: Telemetry, clock: Clock) -> None:
    await run_wan(settings, stop=stop, telemetry=telemetry, clock=clock)


if __name__ == "__main__":
    sys.exit(run_local("wan", WanSettings, _main))
