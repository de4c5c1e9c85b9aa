"""The ladder's hands for callers whose home is another region: nothing of theirs is looked up or kept here."""

from dataclasses import replace

from edge.answering.climb import GUARD_S, climb
from edge.answering.local import LocalHands, ask_regions_with_vector, served_with_vector
from edge.answering.parts import Parts, Served
from edge.answering.relay import relay
from edge.answering.requests import audience_query, can_use_vector, home_request
from edge.cache.entry import Entry
from edge.cache.policy import Usability
from edge.cache.words import BYPASS, RELAYED, forwarded_status
from edge.calls import Caller, ListQuery
from edge.routing.concurrency import priority_of
from edge.routing.ladder import Situation, Try
from edge.routing.port import CallFailure, RegionCallError
from infra.contracts.messages import DegradationStep, HomeAnswer, RelayedCall


class TravellerHands:
    """Implements `edge.answering.parts.Hands`: the sealed relay, then this region without anything personal."""

    def __init__(self, parts: Parts, query: ListQuery, *, home: str, token: str) -> None:
        self._parts = parts
        self._query = query
        self._home = home
        self._token = token
        self._attempts = parts.dispatcher.attempts(priority_of(query.surface))

    def opening(self) -> tuple[Entry | None, Situation]:
        """See `Hands.opening`."""
        vector = Try.NOT_YET if can_use_vector(self._query) else Try.POINTLESS
        fill = Try.NOT_YET if self._parts.dispatcher.reachable(self._home) else Try.POINTLESS
        return None, Situation(fill=fill, vector=vector)

    def judge(self, _entry: Entry) -> Usability:
        """See `Hands.judge`: nothing is kept."""
        return Usability.NEVER

    def refresh(self) -> None:
        """See `Hands.refresh`: nothing is kept, so nothing is refreshed."""

    async def fill(self, timeout_s: float) -> Served:
        """See `Hands.fill`: the sealed relay."""
        request = home_request(self._query, subject=None, explain=self._query.explain, timeout_ms=timeout_s * 1000)
        call = RelayedCall(token=self._token, request=request)
        answer = await relay(self._parts, self._home, call, HomeAnswer, self._attempts, timeout_s=timeout_s)
        if not answer.items:
            raise RegionCallError(CallFailure.MALFORMED, status=200)
        return Served(answer=answer, step=DegradationStep.HOME, cache=forwarded_status(BYPASS, detail=RELAYED))

    async def ask_with_vector(self, timeout_s: float) -> Served:
        """See `Hands.ask_with_vector`: this region first, for it is the nearest."""
        parts = self._parts
        started_s = parts.clock.monotonic_s()
        half_s = timeout_s / 2
        request = home_request(self._query, subject=None, with_vector=True)
        try:
            reply = await parts.desk.ask_home(request, deadline_s=started_s + half_s, attempts=self._attempts)
        except RegionCallError:
            others = tuple(region for region in parts.away_regions if region != self._home)
            left_s = started_s + timeout_s - parts.clock.monotonic_s()
            return await ask_regions_with_vector(parts, self._query, others, self._attempts, timeout_s=left_s)
        return served_with_vector(reply.answer)

    async def ask_away(self, timeout_s: float) -> Served:
        """See `Hands.ask_away`: the list that anybody here would get, from the caches if they have it."""
        parts, query = self._parts, audience_query(self._query)
        deadline_s = parts.clock.monotonic_s() + timeout_s + GUARD_S
        served = await climb(LocalHands(parts, query, Caller()), query, parts, deadline_s=deadline_s)
        if served.step is DegradationStep.RELEASE:
            return served
        return replace(served, step=DegradationStep.FAILOVER, fresh_for_s=0.0)
