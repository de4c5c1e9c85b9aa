"""One call for a list: whose hands act, and the account of how it was answered."""

from edge.answering.climb import climb
from edge.answering.local import LocalHands
from edge.answering.parts import Hands, Parts, Served
from edge.answering.traveller import TravellerHands
from edge.calls import Caller, ListQuery
from infra.contracts.messages import RecommendationType
from infra.plumbing.errors import UnauthorizedError


async def recommend(parts: Parts, query: ListQuery, caller: Caller, *, deadline_s: float) -> Served:
    """The best list that can be had for a valid call before `deadline_s` (monotonic).

    Raises:
        UnauthorizedError: a personal list without a token, or the traveller's home refuses the token.
        UnavailableError: nobody answers and this edge has never seen a release's lists (a cold edge in a dark world).
    """
    hands = _hands(parts, query, caller)
    served = await climb(hands, query, parts, deadline_s=deadline_s)
    parts.metrics.answers.labels(served.step.value, query.type.value).inc()
    return served


def _hands(parts: Parts, query: ListQuery, caller: Caller) -> Hands:
    if query.type is not RecommendationType.PERSONAL:
        return LocalHands(parts, query, caller)
    if caller.subject is not None:
        return LocalHands(parts, query, caller)
    if caller.principal is None or caller.token is None:
        raise UnauthorizedError("a personal list needs a token.", fix="Send `Authorization: Bearer <token>`.")
    return TravellerHands(parts, query, home=caller.principal.home, token=caller.token)
