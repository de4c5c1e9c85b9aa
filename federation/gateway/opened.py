"""The round that is open in a gateway, and who may not take part in it."""

from federation.gateway.cohorts import Cohorts
from federation.messages import PROTOCOL, CheckIn, RoundPlan
from federation.rounds.machine import Round
from federation.secure_aggregation.messages import Advert


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
        self.cohorts: Cohorts | None = None


def ineligible(phone: CheckIn, current: OpenRound | None) -> str:
    """Why a phone may not take part now; empty when it may."""
    if phone.protocol != PROTOCOL:
        return "other-protocol"
    if not (phone.idle and phone.charging and phone.unmetered):
        return "not-eligible"
    if current is not None and current.plan.release not in phone.releases:
        return "other-release"
    return ""
