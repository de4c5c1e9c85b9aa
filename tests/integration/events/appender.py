"""A process that takes events in and says on its standard output which batches it has acknowledged.

`python -m tests.integration.events.appender STATE_DIRECTORY SUBJECT FIRST LAST`
"""

import asyncio
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry

from infra.contracts.events import Event, EventBatch, EventType
from infra.plumbing.clock import SystemClock
from region.events.intake import Intake
from region.events.sqlite import SqliteLog
from tests.support.keeping import file_keys, seals

BATCH = 5
CALLERS = 4


def batch_of(subject: str, number: int, now_ms: int) -> EventBatch:
    """Batch `number` of a subject: the same events each time it is sent."""
    return EventBatch(
        subject=subject,
        events=tuple(
            Event(
                event_id=f"{subject[:4]}-{number:05d}-{place}", type=EventType.VIEW, item=f"{number}-{place}",
                at_ms=now_ms,
            )
            for place in range(BATCH)
        ),
    )  # fmt: skip


async def main(state: Path, subject: str, first: int, last: int) -> None:
    """Send batches `first` to `last` from several callers at once."""
    clock = SystemClock()
    log = SqliteLog(state / "log.sqlite", queue_max=2000, seals=seals(state, clock=clock), keys=file_keys(state))
    intake = Intake(log=log, clock=clock, wake=lambda: None, registry=CollectorRegistry())

    async def call(start: int) -> None:
        for number in range(start, last + 1, CALLERS):
            await intake.take(batch_of(subject, number, clock.now_ms()))
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()

    await asyncio.gather(*(call(first + offset) for offset in range(CALLERS)))
    await log.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
