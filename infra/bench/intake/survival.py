"""SIGKILLs of a region's API and worker while events flow: nothing acknowledged is lost, nothing counts twice."""

import asyncio
from dataclasses import dataclass

import numpy as np

from infra.bench.intake.counting import Account, account_of, applied
from infra.bench.intake.region import KillableRegion
from infra.bench.intake.stream import Stream
from infra.plumbing.progress import Progress
from region.events.opening import open_dead_letters, open_log
from region.store.opening import open_store

FLOW_SHARE = 0.95
"""The last kill comes before this share of the events is acknowledged: events flow behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survived:
    """What became of a stream."""

    account: Account
    kills: int
    acknowledged: int
    sent_again: int
    """Batches that were not acknowledged at the first try."""
    caught_up: bool
    """Whether the worker had applied the whole log in time; if not, what it had not counts as lost."""
    records: int
    """In the log; more than were acknowledged where a batch was written twice, which the store must see."""
    dead_letters: int
    seconds: float


async def survive(region: KillableRegion, stream: Stream, *, kills: int, seed: int, progress: Progress) -> Survived:
    """Run the stream; at `kills` random places in it kill the API or the worker, and start it again at once.

    Raises:
        UnavailableError: a batch was never acknowledged.
    """
    began_s = region.clock.monotonic_s()
    rng = np.random.default_rng(seed)
    places = sorted(rng.integers(round(FLOW_SHARE * stream.total), size=kills).tolist())
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(stream.run())
        for number, place in enumerate(places):
            await stream.until(place)
            # Somewhere inside of what it does, not always right behind an acknowledgement.
            await asyncio.sleep(rng.uniform(0.0, 0.3))
            killed = ("api", "worker")[int(rng.integers(2))]
            region.kill(killed)
            # From this thread: the kernel ends a child with the thread that started it.
            region.start(killed)
            progress.advance(number + 1, kills, "kills")
    settings = region.settings
    store, log = open_store(settings, clock=region.clock, read_timeout_s=30.0), open_log(settings)
    letters = open_dead_letters(settings)
    try:
        caught_up = await applied(log, store)
        account = await account_of(stream, store)
        return Survived(
            account=account, kills=kills, acknowledged=stream.acknowledged, sent_again=stream.sent_again,
            caught_up=caught_up,
            records=sum((await log.last_offsets()).values()),
            dead_letters=await letters.count(), seconds=region.clock.monotonic_s() - began_s,
        )  # fmt: skip
    finally:
        for part in (store, log, letters):
            await part.close()
