"""Gorse's REST API, for clients that have it: the entry point is the edge's `/gorse`, the API key a service key.

Lists, neighbours, sessions and feedback are answered; what Gorse stores and this platform does not (items and users,
feedback to be read back) is refused with the reason.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from msgspec import Meta

from edge.calls import PAGE_MAX, Caller, ListQuery
from edge.compatibility.desk import CompatibleDesk, TooManyCallsError, event_id
from edge.http.reading import checked_name
from infra.contracts.events import EVENTS_PER_BATCH_MAX, Event, EventType
from infra.contracts.messages import RecommendationType, SlateItem
from infra.plumbing.errors import AtollError, InvalidInputError, NotFoundError
from infra.plumbing.http.bodies import NOT_JSON, body_in_time
from infra.plumbing.http.problems import kind_of
from infra.plumbing.service_keys import Scope, ServiceKey, require

PREFIX: Final = "/gorse/api"
RESULTS_DEFAULT: Final = 10
USERS_PER_CALL_MAX: Final = 100
Text = Annotated[str, Meta(max_length=256)]
GorseHandler = Callable[[web.Request, ServiceKey], Awaitable[Any]]


class Feedback(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """One feedback. Gorse takes a moment as ISO 8601, or nothing."""

    feedback_type: Text
    user_id: Text = ""
    item_id: Annotated[str, Meta(min_length=1, max_length=128)]
    timestamp: Text = ""
    value: float = 0.0
    comment: Text = ""


_EVENT_TYPES: Final = {
    **{kind.value: kind for kind in EventType},
    "read": EventType.VIEW, "star": EventType.LIKE, "favorite": EventType.LIKE, "favourite": EventType.LIKE,
    "collect": EventType.LIKE, "share": EventType.LIKE, "buy": EventType.PURCHASE, "rate": EventType.RATING,
}  # fmt: skip


class GorseDoor:
    """Handlers of the API."""

    def __init__(self, *, desk: CompatibleDesk) -> None:
        self._desk = desk

    def routes(self) -> list[web.RouteDef]:
        """The routes to put into the application."""
        lists: dict[str, GorseHandler] = {
            "/recommend/{user}": self._recommend,
            "/recommend/{user}/{category:[^/]*}": self._recommend,
            "/item/{item}/neighbors": self._neighbors,
            "/item/{item}/neighbors/{category:[^/]*}": self._neighbors,
            "/popular": self._popular,
            "/popular/{category:[^/]*}": self._popular,
            "/non-personalized/{name}": self._non_personalized,
            "/latest": self._trending,
            "/latest/{category:[^/]*}": self._trending,
        }
        return [
            *(web.get(PREFIX + path, self._keyed(Scope.READ, handler)) for path, handler in lists.items()),
            web.post(f"{PREFIX}/session/recommend", self._keyed(Scope.READ, self._session)),
            web.post(f"{PREFIX}/feedback", self._keyed(Scope.EVENTS, self._feedback)),
            web.put(f"{PREFIX}/feedback", self._keyed(Scope.EVENTS, self._feedback)),
            web.route("*", PREFIX + "/{rest:.*}", self._keyed(Scope.READ, _not_kept)),
        ]

    def _keyed(self, scope: Scope, handler: GorseHandler) -> Handler:
        async def answer(request: web.Request) -> web.Response:
            try:
                self._desk.admit(f"address:{request.remote}")
                key = self._desk.identities.verify_service(request.headers.get("X-API-Key", ""))
                self._desk.admit(f"service:{key.id}")
                return _json(await handler(request, require(key, scope)))
            except AtollError as error:
                status = 429 if isinstance(error, TooManyCallsError) else kind_of(error).status
                return web.Response(status=status, text=str(error))

        return answer

    async def _recommend(self, request: web.Request, key: ServiceKey) -> Any:
        caller = self._desk.caller(key, request.match_info["user"])
        items = await self._list(request, RecommendationType.PERSONAL, caller)
        # Version 2 of Gorse's API says scores too; before that, ids.
        scored = request.headers.get("X-API-Version") == "2"
        return _scored(items) if scored else [one.item for one in items]

    async def _neighbors(self, request: web.Request, key: ServiceKey) -> Any:
        item = checked_name(request.match_info["item"], "item")
        return _scored(await self._list(request, RecommendationType.SIMILAR, self._desk.caller(key, None), item=item))

    async def _popular(self, request: web.Request, key: ServiceKey) -> Any:
        return _scored(await self._list(request, RecommendationType.POPULAR, self._desk.caller(key, None)))

    async def _trending(self, request: web.Request, key: ServiceKey) -> Any:
        return _scored(await self._list(request, RecommendationType.TRENDING, self._desk.caller(key, None)))

    async def _non_personalized(self, request: web.Request, key: ServiceKey) -> Any:
        named = {"popular": RecommendationType.POPULAR, "trending": RecommendationType.TRENDING,
                 "latest": RecommendationType.TRENDING}  # fmt: skip
        kind = named.get(request.match_info["name"])
        if kind is None:
            raise NotFoundError("there is no such recommender.", fix=f"There are: {', '.join(named)}.")
        return _scored(await self._list(request, kind, self._desk.caller(key, None)))

    async def _session(self, request: web.Request, key: ServiceKey) -> Any:
        given = _decoded(await body_in_time(request, timeout_s=self._desk.body_timeout_s))
        liked = [one.item_id for one in sorted(given, key=lambda one: one.timestamp)]
        recent = tuple(dict.fromkeys(reversed(liked)))[:50][::-1]
        query = ListQuery(type=RecommendationType.SESSION, n=_number(request, "n", 1, RESULTS_DEFAULT), recent=recent)
        return _scored(await self._desk.items(query, self._desk.caller(key, None)))

    async def _feedback(self, request: web.Request, key: ServiceKey) -> Any:
        by_user: dict[str, list[Event]] = {}
        for one in _decoded(await body_in_time(request, timeout_s=self._desk.body_timeout_s)):
            if not one.user_id:
                raise InvalidInputError("a feedback has no UserId.")
            by_user.setdefault(one.user_id, []).append(_event(one, now_s=self._desk.now_s))
        if not 1 <= len(by_user) <= USERS_PER_CALL_MAX:
            raise InvalidInputError(f"feedback of {len(by_user)} users.", fix=f"Send 1 to {USERS_PER_CALL_MAX}.")
        taken = 0
        for user, events in by_user.items():
            ack = await self._desk.take(events, self._desk.caller(key, user))
            if ack.rejected:
                raise InvalidInputError(f"a feedback was refused: {ack.rejected[0].reason}")
            taken += ack.accepted + ack.duplicates
        return {"RowAffected": taken}

    async def _list(
        self, request: web.Request, kind: RecommendationType, caller: Caller, *, item: str | None = None
    ) -> Sequence[SlateItem]:
        offset = _number(request, "offset", 0, 0)
        n = _number(request, "n", 1, RESULTS_DEFAULT)
        category = checked_name(request.match_info.get("category") or request.query.get("category") or None, "category")
        if offset >= PAGE_MAX:
            return ()
        query = ListQuery(type=kind, n=min(PAGE_MAX, n + offset), category=category, item=item)
        return (await self._desk.items(query, caller))[offset : offset + n]


async def _not_kept(_request: web.Request, _key: ServiceKey) -> Any:
    raise NotFoundError(
        "this part of Gorse's API is not here.",
        fix="Items come with releases; what is known of users, from their feedback, which is not read back here.",
    )


def _event(one: Feedback, *, now_s: float) -> Event:
    kind = _EVENT_TYPES.get(one.feedback_type.lower(), EventType.VIEW)
    at_ms = _moment_ms(one.timestamp) if one.timestamp else round(now_s * 1000)
    rated = kind in (EventType.RATING, EventType.WATCH) and math.isfinite(one.value) and one.value > 0.0
    # As in Gorse, a feedback is what a user did with an item: the same one at the same time is the same one.
    return Event(
        event_id=event_id(None, one.feedback_type, one.user_id, one.item_id, one.timestamp or at_ms), type=kind,
        item=one.item_id, at_ms=at_ms, value=one.value if rated else None,
    )  # fmt: skip


def _moment_ms(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInputError("Timestamp is not a moment.", fix="Write it as ISO 8601.") from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _number(request: web.Request, name: str, low: int, default: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and int(text) >= low):
        raise InvalidInputError(f"{name} is not usable.", fix=f"Send a whole number, {low} or more.", field=name)
    return int(text)


def _decoded(body: bytes) -> list[Feedback]:
    try:
        given = msgspec.json.decode(body, type=list[Feedback])
    except NOT_JSON:
        raise InvalidInputError("the body is not a list of feedback.") from None
    if not 1 <= len(given) <= EVENTS_PER_BATCH_MAX:
        raise InvalidInputError("the list has the wrong size.", fix=f"Send 1 to {EVENTS_PER_BATCH_MAX} feedbacks.")
    return given


def _scored(items: Sequence[SlateItem]) -> list[dict[str, Any]]:
    return [{"Id": one.item, "Score": one.score} for one in items]


def _json(body: Any) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body), content_type="application/json", headers={"Cache-Control": "no-store"}
    )  # fmt: skip
