"""Events on their way: given an id when they happen, held until the edge has them. No I/O, bounded."""

from collections import deque
from collections.abc import Callable, Sequence

from edge.client.errors import AtollClientError
from edge.client.types import Event

BATCH_MAX = 500
HELD_MAX = 10_000


class BufferFullError(AtollClientError):
    """More events wait to be sent than may be held."""


class EventBuffer:
    """Holds events between `add` and the acknowledgement.

    What is not acknowledged stays, in order, with its id: sent again it counts once.

    Args:
        make: an event of this moment with a fresh id.
        batch: how many make a batch that is worth sending.
    """

    def __init__(self, make: Callable[..., Event], *, batch: int = 50, held_max: int = HELD_MAX) -> None:
        if not 1 <= batch <= BATCH_MAX:
            raise AtollClientError(f"a batch of {batch} events cannot be sent.", fix=f"Use 1 to {BATCH_MAX}.")
        self._make = make
        self._batch = batch
        self._held_max = held_max
        self._events: deque[Event] = deque()

    def __len__(self) -> int:
        return len(self._events)

    def add(self, kind: str, item: str, *, value: float | None = None, request_id: str | None = None) -> bool:
        """Hold an event of now; whether there is a batch to send.

        Raises:
            BufferFullError: HELD_MAX events wait.
        """
        if len(self._events) >= self._held_max:
            raise BufferFullError(f"{len(self._events)} events wait.", fix="Flush the buffer.")
        self._events.append(self._make(kind, item, value=value, request_id=request_id))
        return len(self._events) >= self._batch

    def batch(self) -> Sequence[Event]:
        """The oldest events, up to BATCH_MAX of them; they stay until `done` is told of them."""
        return [self._events[index] for index in range(min(BATCH_MAX, len(self._events)))]

    def done(self, batch: Sequence[Event]) -> None:
        """`batch` was acknowledged."""
        sent = {event.event_id for event in batch}
        while self._events and self._events[0].event_id in sent:
            self._events.popleft()
