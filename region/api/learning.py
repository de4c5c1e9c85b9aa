"""Events on their way to intake, from which the node learns what is taken in which circumstances."""

from collections.abc import Callable

from infra.contracts.event_schema import ReadBatch
from infra.contracts.events import EventAck, EventWeights, ItemLabels, enters_history
from infra.contracts.features import INTEREST_STRENGTH
from region.api.ports import EventTaker
from region.funnel.contexts import ContextTastes


class LearnedEvents:
    """Passes batches on, and counts what was taken with interest once it is durable.

    Args:
        intake: makes them durable.
        tastes: counts.
        weights: the region's, which say what is interest.
        labels: what the catalogue says of an item now.
    """

    def __init__(
        self, *, intake: EventTaker, tastes: ContextTastes, weights: EventWeights, labels: Callable[[str], ItemLabels]
    ) -> None:
        self._intake = intake
        self._tastes = tastes
        self._weights = weights
        self._labels = labels

    async def take_read(self, read: ReadBatch) -> EventAck:
        """As `EventTaker.take_read`. A batch that is sent again counts again: these are hints, not features."""
        ack, batch = await self._intake.take_read(read), read.batch
        if batch.subject is None or not ack.accepted:
            return ack
        for event in batch.events:
            if enters_history(event.type) and self._weights.of(event.type, event.value).strength >= INTEREST_STRENGTH:
                self._tastes.note_taken(batch.subject, self._labels(event.item).categories)
        return ack
