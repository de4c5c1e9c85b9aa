"""`python -m infra.local.balancer --settings FILE`: the embedded balancer."""

import asyncio
import sys

from infra.local.balancer.process import run_balancer
from infra.local.balancer.settings import BalancerSettings
from infra.local.running import run_local
from infra.plumbing.clock import Clock
from infra.plumbing.telemetry import Telemetry


async def _main(settings: BalancerSettings, stop: asyncio.Event, telemetry: Telemetry, clock: Clock) -> None:
    await run_balancer(settings, stop=stop, telemetry=telemetry, clock=clock)


if __name__ == "__main__":
    sys.exit(run_local("balancer", BalancerSettings, _main))
