"""What an edge may ask a region's node: the port, and the one error that every adapter raises."""

import enum
from typing import Protocol

from infra.contracts.discovery import ChoicesAnswer, ChoicesCall, SuggestAnswer, SuggestCall
from infra.contracts.events import EventAck, EventBatch
from infra.contracts.messages import (
    AwayAnswer,
    AwayRequest,
    HomeAnswer,
    HomeRequest,
    Notices,
    NoticesCall,
    OptOutAnswer,
    OptOutCall,
    RightsCall,
    SealedAnswer,
    SealedCall,
)
from infra.plumbing.errors import AtollError


class CallFailure(enum.StrEnum):
    """Why a call gave no answer. All but REFUSED and SHED speak against the node."""

    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    SERVER_ERROR = "server-error"
    MALFORMED = "malformed"
    REFUSED = "refused"
    """The node is well and says that the call itself is wrong (4xx): asking another node would not help."""
    SHED = "shed"
    """No call was made: every node that could answer has as many in flight as it can carry."""


class Right(enum.StrEnum):
    """What a subject may ask of its region."""

    EXPORT = "export"
    ERASE = "erase"
    WHY = "why"


class RegionCallError(AtollError):
    """A region's node gave no usable answer. `status` is its HTTP status, 0 when there was none."""

    def __init__(self, failure: CallFailure, *, status: int = 0) -> None:
        super().__init__(f"the region's node gave no usable answer ({failure.value}).")
        self.failure = failure
        self.status = status


class RegionPort(Protocol):
    """Calls to one node, by its base URL. Every call ends within `timeout_s` and raises `RegionCallError` only."""

    async def recommend(self, url: str, request: HomeRequest, *, timeout_s: float) -> HomeAnswer:
        """A list from a node of this edge's own region."""
        ...

    async def recommend_away(self, url: str, request: AwayRequest, *, timeout_s: float) -> AwayAnswer:
        """A list from a node of another region."""
        ...

    async def relay(self, url: str, call: SealedCall, *, timeout_s: float) -> SealedAnswer:
        """A traveller's sealed call to its home region."""
        ...

    async def send_events(self, url: str, batch: EventBatch, *, timeout_s: float) -> EventAck:
        """Events to a node of this edge's own region; returns when they are durable there."""
        ...

    async def opt_out(self, url: str, call: OptOutCall, *, timeout_s: float) -> OptOutAnswer:
        """A subject's choice to a node of this edge's own region."""
        ...

    async def exercise(self, url: str, right: Right, call: RightsCall, *, timeout_s: float) -> bytes:
        """A subject's right to a node of this edge's own region; returns its answer as it stands."""
        ...

    async def choices(self, url: str, call: ChoicesCall, *, timeout_s: float) -> ChoicesAnswer:
        """What somebody new may choose from, from a node of this edge's own region."""
        ...

    async def suggest(self, url: str, call: SuggestCall, *, timeout_s: float) -> SuggestAnswer:
        """What a few letters may mean, from a node of this edge's own region."""
        ...

    async def notices(self, url: str, call: NoticesCall, *, timeout_s: float) -> Notices:
        """What this edge may have missed, from a node of its own region."""
        ...

    async def probe(self, url: str, *, timeout_s: float) -> None:
        """Ask whether the node is ready."""
        ...
