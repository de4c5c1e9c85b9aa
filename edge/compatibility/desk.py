"""What every compatible door does: who calls and how often, one list, a ranking of given items, events of anybody."""

import hashlib
from collections.abc import Sequence

from edge.answering.parts import Parts
from edge.answering.recommender import recommend
from edge.answering.requests import home_request
from edge.calls import Caller, ListQuery
from edge.http.events import take_events
from edge.http.identity import Identities
from edge.http.rendering import page_of
from edge.limits.buckets import CallerLimits
from edge.routing.port import RegionCallError
from infra.contracts.events import EVENT_ID_PATTERN, EVENTS_PER_BATCH_MAX, Event, EventAck, EventBatch
from infra.contracts.messages import SLATE_ITEMS_MAX, RecommendationType, SlateItem
from infra.plumbing.errors import AtollError, InvalidInputError
from infra.plumbing.service_keys import ServiceKey


class TooManyCallsError(AtollError):
    """The caller makes more calls than it may."""


class CompatibleDesk:
    """Answers for the compatible doors. Callers are services with a key, each for users of this region.

    Args:
        limits: for keys and addresses: a service calls for many users.
        deadline_s: for lists; events_deadline_s: for events; body_timeout_s: for a body to arrive.
    """

    def __init__(
        self, *, parts: Parts, identities: Identities, limits: CallerLimits, deadline_s: float,
        events_deadline_s: float, body_timeout_s: float,
    ) -> None:  # fmt: skip
        self.identities = identities
        self.body_timeout_s = body_timeout_s
        self._parts = parts
        self._limits = limits
        self._deadline_s = deadline_s
        self._events_deadline_s = events_deadline_s

    @property
    def now_s(self) -> float:
        """Unix time in seconds."""
        return self._parts.clock.now_ms() / 1000

    def admit(self, name: str) -> None:
        """Count a call of `name`: an address, before anything of it was believed, or a key.

        Raises:
            TooManyCallsError: it makes too many.
        """
        if not self._limits.allow(name, now_s=self._parts.clock.monotonic_s()):
            self._parts.metrics.limited.inc()
            raise TooManyCallsError("this caller makes too many calls.", fix="Wait a second.")

    def caller(self, key: ServiceKey, user: str | None, session: str | None = None) -> Caller:
        """The caller that acts for `user`, or for an anonymous session."""
        caller = self.identities.of_service(key, user)
        if user is None and session is not None:
            return Caller(service=key, session=self.identities.session_subject(session))
        return caller

    async def items(self, query: ListQuery, caller: Caller) -> tuple[SlateItem, ...]:
        """The items of one list, best first; who has no subject gets what is popular in place of a personal list."""
        deadline_s = self._parts.clock.monotonic_s() + self._deadline_s
        served = await recommend(self._parts, query, caller, deadline_s=deadline_s)
        return page_of(self._parts, query, caller, served).items

    async def ranked(self, items: Sequence[str], caller: Caller, query: ListQuery) -> list[tuple[str, float]]:
        """`items` in the order in which the home region ranks them for the caller, with scores; all of them, each once.

        What the region does not rank (unknown to its release, or too much) follows in the order given, score 0; so does
        everything while the region is away.
        """
        distinct = [item for item in dict.fromkeys(items) if item not in self._parts.ledger.withdrawn]
        request = home_request(query, subject=caller.subject, among=tuple(distinct[:SLATE_ITEMS_MAX]))
        deadline_s = self._parts.clock.monotonic_s() + self._deadline_s
        attempts = self._parts.dispatcher.attempts()
        try:
            reply = await self._parts.desk.ask_home(request, deadline_s=deadline_s, attempts=attempts)
            ranked = {item.item: item.score for item in reply.answer.items}
        except RegionCallError:
            ranked = {}
        known = set(distinct)
        first = [(item, score) for item, score in ranked.items() if item in known]
        return first + [(item, 0.0) for item in distinct if item not in ranked]

    async def take(self, events: Sequence[Event], caller: Caller) -> EventAck:
        """Hand events to the home region; returns when they are durable there.

        Raises:
            InvalidInputError: none, or too many.
        """
        if not 1 <= len(events) <= EVENTS_PER_BATCH_MAX:
            raise InvalidInputError("the batch has the wrong size.", fix=f"Send 1 to {EVENTS_PER_BATCH_MAX} events.")
        return await take_events(
            self._parts, EventBatch(events=tuple(events)), caller, timeout_s=self._events_deadline_s
        )


def event_id(offered: str | None, *parts: object) -> str:
    """The id that makes an event count once: the one offered if it can be used, else one made of what happened."""
    if offered is not None and EVENT_ID_PATTERN.fullmatch(offered):
        return offered
    said = "\0".join(str(part) for part in (offered or "", *parts))
    return hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()


def list_type(name: str, *, item: str | None, named: bool) -> RecommendationType:
    """The type of list that a campaign or recommender of this name stands for.

    A name that is a type, or ends with one behind a dash, is that type; any other is similar items where an item is
    named, and a personal list where a user is, or what is popular.
    """
    last = name.rsplit("-", 1)[-1].lower()
    by_name = next((kind for kind in RecommendationType if kind.value in (last, name.lower())), None)
    if by_name is RecommendationType.SIMILAR and item is None:
        raise InvalidInputError("similar items need an item.", fix="Send itemId.")
    if by_name is not None and (by_name is not RecommendationType.PERSONAL or named):
        return by_name
    if item is not None:
        return RecommendationType.SIMILAR
    return RecommendationType.PERSONAL if named else RecommendationType.POPULAR
