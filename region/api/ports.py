"""What the doors need of the rooms behind them."""

from typing import Protocol

from infra.contracts.events import EventAck, EventBatch


class EventTaker(Protocol):
    """Makes batches durable (`region.events.intake.Intake`)."""

    async def take(self, batch: EventBatch) -> EventAck:
        """Acknowledged means durable.

        Raises:
            InvalidInputError: the batch as a whole cannot be used.
            OverloadedError: nothing was taken; send it again later.
            UnavailableError: nothing was acknowledged; sending again is safe.
        """
        ...
