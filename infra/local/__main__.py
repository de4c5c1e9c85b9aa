"""The supervisor of a world: `python -m infra.local --state DIR [--attached]`; `infra.local.world` starts it."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from infra.local.layout import layout_of
from infra.local.supervisor import Supervisor, read_record, take_lock, watch_owner
from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import AtollError


async def _run(state: Path, *, attached: bool) -> None:
    layout = layout_of(state)
    layout.create()
    take_lock(layout.lock)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if attached:
        watch_owner(sys.stdin.fileno(), stop)
    await Supervisor(record=read_record(layout), layout=layout, clock=SystemClock()).run(stop)


def main() -> int:
    """Run the supervisor; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m infra.local", description="Supervise a world of Atoll.")
    parser.add_argument("--state", type=Path, required=True, help="state directory that `world up` prepared")
    parser.add_argument("--attached", action="store_true", help="end when standard input is closed")
    arguments = parser.parse_args()
    try:
        asyncio.run(_run(arguments.state, attached=arguments.attached))
    except AtollError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
