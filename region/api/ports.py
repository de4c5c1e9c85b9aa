"""What the doors need of the rooms behind them."""

from typing import Protocol

from infra.contracts.event_schema import ReadBatch
from infra.contracts.events import EventAck
from infra.contracts.messages import AwayAnswer, AwayRequest, HomeAnswer, HomeRequest


class EventTaker(Protocol):
    """Makes batches durable (`region.events.intake.Intake`)."""

    async def take_read(self, read: ReadBatch) -> EventAck:
        """Acknowledged means durable.

        Raises:
            InvalidInputError: the batch as a whole cannot be used.
            OverloadedError: nothing was taken; send it again later.
            UnavailableError: nothing was acknowledged; sending again is safe.
        """
        ...


class ListMaker(Protocol):
    """Makes lists (`region.funnel.recommender.Recommender`, or `region.api.trying.TrialDesk` before it)."""

    async def home(self, request: HomeRequest) -> HomeAnswer:
        """The answer for this region's own edge.

        Raises:
            InvalidInputError: the request does not fit.
            OverloadedError, UnavailableError: no answer now.
        """
        ...

    async def away(self, request: AwayRequest) -> AwayAnswer:
        """The answer for another region's edge. Raises as `home` does."""
        ...
