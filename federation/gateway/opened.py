"""The round that is open in a gateway, and who may not take part in it."""

from collections.abc import Callable

import numpy as np

from federation.gateway.cohorts import Cohorts, Seating, divide
from federation.messages import PROTOCOL, CheckIn, Phase, RoundPlan
from federation.privacy.noise import Entropy
from federation.rounds.machine import Round, Verdict
from federation.secure_aggregation.messages import Advert, Placed, Seat
from federation.secure_aggregation.server import AggregationError
from federation.settings import CohortSettings
from infra.plumbing.errors import AtollError, ConflictError, ForbiddenError


class OpenRound:
    """The round in progress: its plan, its state and, once selection has ended, its secure sums."""

    def __init__(self, plan: RoundPlan, state: Round, *, session: str, opened_ms: int, key: bytes) -> None:
        self.key = key
        """Makes names of users that nobody can tell outside this round; it goes with the round."""
        self.plan = plan
        self.state = state
        self.session = session
        self.opened_ms = opened_ms
        self.adverts: dict[str, Advert] = {}
        """By ticket."""
        self.devices: set[bytes] = set()
        """Keys of the devices that were selected: a phone that gives its key away must not fill the round with it."""
        self.seating: Seating | None = None
        """The phones, divided, once selection has ended."""
        self.cohorts: Cohorts | None = None
        """Once they have their seats."""

    def seat_phones(self, policy: CohortSettings, *, entropy: Entropy) -> None:
        """Divide the phones once selection has ended, draw again when some left, and give them their seats."""
        if self.seating is None:
            rng = np.random.default_rng(int.from_bytes(entropy(16), "big"))
            self.seating = divide(self.adverts, session=self.session, plan=self.plan, policy=policy, rng=rng)
        if self.seating is None:
            return self.state.abandon("too few phones for a secure sum")
        while self.state.draw > self.seating.draw:
            self.seating.again(self.state.drawing())
        if self.state.phase is not Phase.SEATING:
            self.cohorts = self.seating.seated()
        return None

    def place(self, ticket: str, *, drawn: int) -> Placed | None:
        """A phone's place, or the draw of the seats behind the one that it was in; None while that goes on.

        Raises:
            ConflictError: it left a draw, and was seated nowhere.
        """
        if self.cohorts is not None:
            self.require_seat(ticket)
            return Placed(roster=self.cohorts.sum_of(ticket).roster(self.cohorts.position(ticket)))
        if self.seating is None or self.state.phase is not Phase.SEATING:
            return None
        gathering = self.seating.gathering(ticket)
        if gathering is None:
            raise _not_seated()
        return Placed(gathering=gathering) if gathering.draw > drawn else None

    def require_seat(self, ticket: str) -> None:
        """Raises ConflictError where the phone was seated nowhere, for it left while seats were drawn."""
        if self.cohorts is not None and ticket not in self.cohorts:
            raise _not_seated()

    def take_seat(self, ticket: str, seat: Seat) -> None:
        """Take a phone's nonce.

        Raises:
            AggregationError: it is not that of the present draw.
        """
        if self.seating is None or self.seating.draw != self.state.draw:
            raise AggregationError("the seats are drawn again")
        self.seating.take(ticket, seat)


def ineligible(phone: CheckIn, current: OpenRound | None) -> str:
    """Why a phone may not take part now; empty when it may."""
    if phone.protocol != PROTOCOL:
        return "other-protocol"
    if not (phone.idle and phone.charging and phone.unmetered):
        return "not-eligible"
    if current is not None and current.plan.release not in phone.releases:
        return "other-release"
    return ""


def in_sum(ticket: str, act: Callable[[Cohorts, int], None]) -> Callable[[OpenRound], None]:
    """What a step does in the sum that the ticket belongs to."""

    def run(current: OpenRound) -> None:
        current.require_seat(ticket)
        if current.cohorts is None:
            raise ConflictError("this round has no cohorts yet.", fix="Wait for the roster.")
        act(current.cohorts, current.cohorts.position(ticket))

    return run


def refuse(verdict: Verdict) -> AtollError:
    """What a phone is told whose message is not taken."""
    if verdict is Verdict.UNKNOWN_TICKET:
        return unknown_ticket()
    what = {
        Verdict.DUPLICATE: "has reported before", Verdict.EARLY: "is ahead of the others",
    }.get(verdict, "came too late")  # fmt: skip
    return ConflictError(f"this phone {what}; nothing was used.", fix="Check in for the next round.")


def unknown_ticket() -> AtollError:
    """A ticket of another round, or of none."""
    return ForbiddenError("this ticket is not one of this round.", fix="Check in to get one.")


def _not_seated() -> AtollError:
    return ConflictError("this phone left while seats were drawn.", fix="Check in for the next round.")
