"""Events that a phone tells late are not logged again when their subject was erased after they happened.

Only a batch with an event older than LATE_MS asks the store: what is told in time pays nothing. What slips through by
being told within LATE_MS of an erasure, or while the store does not answer, is logged and has no effect: the store's
own mark covers it (`region.store.port.Erasure`).
"""

from msgspec.structs import replace

from infra.contracts.event_schema import ReadBatch
from infra.contracts.events import EventAck, RejectedEvent
from infra.plumbing.clock import Clock
from infra.plumbing.errors import UnavailableError
from region.api.ports import EventTaker
from region.store.port import Erasure, Store

LATE_MS = 60_000
TRIES_MAX = 5
REASON = "it happened before its subject was erased"


class LateEvents:
    """Passes batches on to intake without the events that an erasure covers."""

    def __init__(self, *, intake: EventTaker, store: Store, clock: Clock) -> None:
        self._intake = intake
        self._store = store
        self._clock = clock

    async def take_read(self, read: ReadBatch) -> EventAck:
        """As `EventTaker.take_read`."""
        subject, late_ms = read.batch.subject, self._clock.now_ms() - LATE_MS
        if subject is None or all(event.at_ms > late_ms for event in read.batch.events):
            return await self._intake.take_read(read)
        erasure = await self._erasure(subject)
        return await self._intake.take_read(read if erasure is None else without_covered(read, erasure))

    async def _erasure(self, subject: str) -> Erasure | None:
        """The subject's erasure; None as well when the store does not answer: events are not turned away for that."""
        for _ in range(TRIES_MAX):
            try:
                return await self._store.erasure(subject)
            except UnavailableError:
                continue  # each try has the store's own bound on time, and nobody waits for what is told late
        return None


def without_covered(read: ReadBatch, erasure: Erasure) -> ReadBatch:
    """The batch with the events of before the erasure rejected, each told by its place in what was sent."""
    places = read.places if read.rejected else tuple(range(len(read.batch.events)))
    kept = [one for one in zip(read.batch.events, places, strict=True) if one[0].at_ms > erasure.erased_ms]
    gone = sorted(set(places).difference(place for _, place in kept))
    if not gone:
        return read
    return replace(
        read,
        batch=replace(read.batch, events=tuple(event for event, _ in kept)),
        places=tuple(place for _, place in kept),
        rejected=(*read.rejected, *(RejectedEvent(index=place, reason=REASON) for place in gone)),
    )
