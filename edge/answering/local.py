"""The ladder's hands for callers of this region and for anonymous ones."""

from dataclasses import replace

import msgspec

from edge.answering.climb import from_entry
from edge.answering.parts import Parts, Served, is_enough
from edge.answering.requests import audience_query, away_request, can_use_vector, home_request
from edge.cache.coalescing import wait_for
from edge.cache.entry import Entry
from edge.cache.filling import Filled, as_home_answer
from edge.cache.policy import Usability
from edge.cache.words import AWAY, BYPASS, EXPLAIN, MISS, PARTIAL, STALE, URI_MISS, forwarded_status, hit_status
from edge.calls import Caller, ListQuery, list_key
from edge.routing.concurrency import Priority, priority_of
from edge.routing.dispatch import Attempts
from edge.routing.ladder import Rung, Situation, Try
from edge.routing.port import CallFailure, RegionCallError
from infra.contracts.messages import DegradationStep, HomeAnswer, HomeRequest
from infra.plumbing.errors import OverloadedError


class LocalHands:
    """Implements `edge.answering.parts.Hands` with this edge's caches, its region, and other regions behind that."""

    def __init__(self, parts: Parts, query: ListQuery, caller: Caller) -> None:
        self._parts = parts
        self._query = query
        self._key = list_key(query, caller)
        self._viewer = caller.viewer
        self._opted_out = parts.ledger.has_opted_out(caller.viewer)
        self._attempts = parts.dispatcher.attempts(priority_of(query.surface))
        self._forwarded_why = URI_MISS if self._key.subject is None else MISS
        self._asked_home = False
        self._shed = False

    def opening(self) -> tuple[Entry | None, Situation]:
        """See `Hands.opening`. Who wants an explanation wants to see the list being made: no cache for them."""
        found = None if self._query.explain else self._parts.filler.find(self._key)
        entry, usable = found if found is not None else (None, None)
        # Somebody who opted out gets nothing personal, whatever the phone sends.
        vector = Try.NOT_YET if can_use_vector(self._query) and not self._opted_out else Try.POINTLESS
        refused = self._parts.filler.was_refused(self._key)
        enough = entry is not None and is_enough(entry, self._query)
        if usable is Usability.FRESH:
            self._forwarded_why = PARTIAL
        elif usable is not None and usable is not Usability.NEVER:
            self._forwarded_why = STALE
        fill = Try.REFUSED if refused else Try.NOT_YET
        return entry, Situation(entry=usable, enough=enough, fill=fill, vector=vector)

    def judge(self, entry: Entry) -> Usability:
        """See `Hands.judge`."""
        return self._parts.filler.judge(self._key, entry)

    def refresh(self) -> None:
        """See `Hands.refresh`."""
        if self._parts.filler.was_refused(self._key):
            return
        try:
            self._parts.filler.fill(self._key, self._request(), self._parts.dispatcher.attempts(Priority.REFRESH))
        except OverloadedError:
            return  # This caller has its list, and the next one will try again.

    async def fill(self, timeout_s: float) -> Served:
        """See `Hands.fill`."""
        try:
            if self._query.explain:
                return await self._explained(timeout_s)
            self._asked_home = True
            flight, joined = self._parts.filler.fill(self._key, self._request(), self._attempts)
            return self._served(await wait_for(flight, timeout_s=timeout_s), joined=joined)
        except RegionCallError as error:
            self._shed = error.failure is CallFailure.SHED
            raise
        except OverloadedError:
            self._shed = True
            raise

    async def ask_with_vector(self, timeout_s: float) -> Served:
        """See `Hands.ask_with_vector`."""
        if not await self._parts.filler.may_use_vector(self._key, self._viewer):
            raise RegionCallError(CallFailure.REFUSED)
        regions = self._parts.away_regions
        return await ask_regions_with_vector(self._parts, self._query, regions, self._attempts, timeout_s=timeout_s)

    async def ask_away(self, timeout_s: float) -> Served:
        """See `Hands.ask_away`."""
        parts, query = self._parts, audience_query(self._query)
        key = replace(list_key(query, Caller()), away=True)
        found = parts.filler.find(key)
        if found is not None and found[1] is Usability.FRESH and is_enough(found[0], query):
            now_s = parts.clock.monotonic_s()
            kept = from_entry(found[0], Rung.SERVE_FRESH, now_s=now_s)
            ttl_s = found[0].life.fresh_until_s - found[0].age_s(now_s)
            words = hit_status(ttl_s, detail=AWAY)
            if self._asked_home and not self._shed:
                words = forwarded_status(self._forwarded_why, detail=AWAY)
            return replace(kept, step=DegradationStep.FAILOVER, cache=words, fresh_for_s=0.0)
        if self._shed:
            raise RegionCallError(CallFailure.SHED)
        request = away_request(query)
        flight, joined = parts.filler.fill_away(key, request, self._attempts)
        return self._served(await wait_for(flight, timeout_s=timeout_s), joined=joined)

    def _request(self) -> HomeRequest:
        return home_request(self._query, subject=self._key.subject)

    async def _explained(self, timeout_s: float) -> Served:
        parts = self._parts
        parts.filler.count_call(self._key)
        request = home_request(self._query, subject=self._key.subject, explain=True)
        deadline_s = parts.clock.monotonic_s() + timeout_s
        reply = await parts.desk.ask_home(request, deadline_s=deadline_s, attempts=self._attempts)
        step = DegradationStep.HOME if reply.target.place == 0 else DegradationStep.REPLICA
        return Served(answer=reply.answer, step=step, cache=forwarded_status(BYPASS, detail=EXPLAIN))

    def _served(self, filled: Filled, *, joined: bool) -> Served:
        entry = filled.entry
        age_s = entry.age_s(self._parts.clock.monotonic_s())
        away = filled.step is DegradationStep.FAILOVER
        words = forwarded_status(
            self._forwarded_why, stored=entry.is_held, collapsed=joined, detail=AWAY if away else ""
        )  # fmt: skip
        if filled.step is DegradationStep.GRID:
            # The cache nearest the region comes first (RFC 9211, 2).
            words = f"{hit_status(entry.life.fresh_until_s - age_s, cache='atoll-grid')}, {words}"
        return Served(
            answer=entry.answer, step=filled.step, cache=words, entry=entry, age_s=age_s,
            fresh_for_s=0.0 if away else entry.life.fresh_until_s,
        )  # fmt: skip


async def ask_regions_with_vector(
    parts: Parts, query: ListQuery, regions: tuple[str, ...], attempts: Attempts, *, timeout_s: float
) -> Served:
    """A list of the first of other `regions` that answers, ranked with the caller's own vector. Nothing is kept.

    Raises:
        RegionCallError: none answers in time.
    """
    request = away_request(query, with_vector=True)
    deadline_s = parts.clock.monotonic_s() + timeout_s
    answer = await parts.desk.ask_away(request, regions, deadline_s=deadline_s, attempts=attempts)
    return served_with_vector(as_home_answer(answer))


def served_with_vector(answer: HomeAnswer) -> Served:
    """The answer of a region that was sent the caller's vector; it may not have used it (another release, say)."""
    used = answer.personal and "vector-release" not in answer.degraded
    step = DegradationStep.FAILOVER_VECTOR if used else DegradationStep.FAILOVER
    return Served(answer=msgspec.structs.replace(answer, personal=used), step=step, cache=forwarded_status(BYPASS))
