"""Amazon Personalize's runtime and events APIs: `endpoint_url` of their clients is the edge's `/personalize`.

Requests are signed (`signatures`) with a service key: its id is the access key id, its secret the secret access key.
What AWS keeps on its side and this platform does not have, a filter's expression say, is refused, not ignored.
"""

import dataclasses
import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, TypeVar

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from msgspec import Meta

from edge.calls import PAGE_MAX, ListQuery
from edge.compatibility.desk import CompatibleDesk, TooManyCallsError, event_id, list_type
from edge.compatibility.signatures import Message, check_signature, parse_authorization
from infra.contracts.events import Event, EventType
from infra.contracts.messages import AttributeFilter, Context, DeviceKind, ItemFilters, RecommendationType
from infra.plumbing.errors import (
    AtollError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    UnauthorizedError,
)
from infra.plumbing.http.bodies import NOT_JSON, body_in_time
from infra.plumbing.http.middleware import REQUEST_ID
from infra.plumbing.service_keys import Scope, ServiceKey, require

PREFIX: Final = "/personalize"
RESULTS_DEFAULT: Final = 25
RESULTS_MAX: Final = 500
MOMENT_S_MAX: Final = 253_402_300_799
"""The last second of the year 9999."""
VALUES_MAX: Final = 20
_QUOTED = re.compile(r'"([^"]{1,128})"')
Text = Annotated[str, Meta(max_length=256)]
M = TypeVar("M", bound=msgspec.Struct)


class GetRecommendations(msgspec.Struct, frozen=True, rename="camel"):
    """`GetRecommendations`. At most `edge.calls.PAGE_MAX` items come back, however many are asked for."""

    campaign_arn: Text = ""
    recommender_arn: Text = ""
    user_id: Text | None = None
    item_id: Text | None = None
    num_results: Annotated[int, Meta(ge=0, le=RESULTS_MAX)] = RESULTS_DEFAULT
    context: Annotated[dict[Text, Text], Meta(max_length=150)] = {}
    filter_arn: Text | None = None
    filter_values: Annotated[dict[Text, Annotated[str, Meta(max_length=1000)]], Meta(max_length=25)] = {}


class GetPersonalizedRanking(msgspec.Struct, frozen=True, rename="camel"):
    """`GetPersonalizedRanking`."""

    user_id: Text
    input_list: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=500)]
    campaign_arn: Text = ""
    context: Annotated[dict[Text, Text], Meta(max_length=150)] = {}
    filter_arn: Text | None = None
    filter_values: Annotated[dict[Text, Annotated[str, Meta(max_length=1000)]], Meta(max_length=25)] = {}


class PutEvent(msgspec.Struct, frozen=True, rename="camel"):
    """One event of `PutEvents`."""

    event_type: Text
    sent_at: Annotated[float, Meta(ge=0, le=MOMENT_S_MAX)]
    event_id: Text | None = None
    event_value: float | None = None
    item_id: Text | None = None
    recommendation_id: Text | None = None
    impression: Annotated[tuple[Text, ...], Meta(max_length=25)] = ()


class PutEvents(msgspec.Struct, frozen=True, rename="camel"):
    """`PutEvents`."""

    session_id: Text
    event_list: Annotated[tuple[PutEvent, ...], Meta(min_length=1, max_length=10)]
    tracking_id: Text = ""
    user_id: Text | None = None


_EVENT_TYPES: Final = {
    **{kind.value: kind for kind in EventType},
    "viewitem": EventType.VIEW, "detailpageview": EventType.VIEW, "addtocart": EventType.CART,
    "order": EventType.PURCHASE, "buy": EventType.PURCHASE, "rate": EventType.RATING, "watched": EventType.WATCH,
}  # fmt: skip
_SAYS: Final[tuple[tuple[type[AtollError], int, str], ...]] = (
    (TooManyCallsError, 429, "ThrottlingException"),
    (InvalidInputError, 400, "InvalidInputException"),
    (NotFoundError, 404, "ResourceNotFoundException"),
    (UnauthorizedError, 403, "InvalidSignatureException"),
    (ForbiddenError, 403, "AccessDeniedException"),
    (AtollError, 503, "ServiceUnavailableException"),
)


class PersonalizeDoor:
    """Handlers of both APIs."""

    def __init__(self, *, desk: CompatibleDesk) -> None:
        self._desk = desk

    def routes(self) -> list[web.RouteDef]:
        """The routes to put into the application."""
        handlers: dict[str, tuple[Scope, Callable[[web.Request, ServiceKey, bytes], Awaitable[Any]]]] = {
            "recommendations": (Scope.READ, self._recommendations),
            "personalize-ranking": (Scope.READ, self._ranking),
            "events": (Scope.EVENTS, self._events),
            "items": (Scope.EVENTS, _from_releases),
            "users": (Scope.EVENTS, _from_releases),
            "actions": (Scope.EVENTS, _from_releases),
            "action-interactions": (Scope.EVENTS, _from_releases),
            "action-recommendations": (Scope.READ, _from_releases),
        }
        return [
            web.post(f"{PREFIX}/{path}", self._signed(scope, handler)) for path, (scope, handler) in handlers.items()
        ]

    def _signed(self, scope: Scope, handler: Callable[[web.Request, ServiceKey, bytes], Awaitable[Any]]) -> Handler:
        async def answer(request: web.Request) -> web.Response:
            try:
                self._desk.admit(f"address:{request.remote}")
                body = await body_in_time(request, timeout_s=self._desk.body_timeout_s)
                key = self._key(request, body)
                self._desk.admit(f"service:{key.id}")
                return _json(await handler(request, require(key, scope), body), 200, request[REQUEST_ID])
            except AtollError as error:
                return _refusal(error, request[REQUEST_ID])

        return answer

    def _key(self, request: web.Request, body: bytes) -> ServiceKey:
        signed = parse_authorization(request.headers.get("Authorization"))
        key = self._desk.identities.service_key(signed.key_id)
        message = Message(
            method=request.method, path=request.rel_url.raw_path, query=list(request.query.items()),
            headers=request.headers, body=body,
        )  # fmt: skip
        check_signature(signed, message, key.secret, now_s=self._desk.now_s)
        return key

    async def _recommendations(self, request: web.Request, key: ServiceKey, body: bytes) -> Any:
        asked = _decoded(body, GetRecommendations)
        name = (asked.campaign_arn or asked.recommender_arn).rsplit("/", 1)[-1]
        kind = list_type(name, item=asked.item_id, named=asked.user_id is not None)
        query = _query(asked, kind, n=min(PAGE_MAX, max(1, asked.num_results)))
        item = asked.item_id if kind is RecommendationType.SIMILAR else None
        items = await self._desk.items(
            dataclasses.replace(query, item=item), self._desk.caller(key, asked.user_id)
        )  # fmt: skip
        found = [{"itemId": one.item, "score": one.score, "reason": [one.reason.text]} for one in items]
        return {"itemList": found[: asked.num_results], "recommendationId": request[REQUEST_ID]}

    async def _ranking(self, request: web.Request, key: ServiceKey, body: bytes) -> Any:
        asked = _decoded(body, GetPersonalizedRanking)
        query = _query(asked, RecommendationType.PERSONAL, n=min(PAGE_MAX, len(asked.input_list)))
        ranked = await self._desk.ranked(asked.input_list, self._desk.caller(key, asked.user_id), query)
        found = [{"itemId": item, "score": score} for item, score in ranked]
        return {"personalizedRanking": found, "recommendationId": request[REQUEST_ID]}

    async def _events(self, _request: web.Request, key: ServiceKey, body: bytes) -> Any:
        asked = _decoded(body, PutEvents)
        caller = self._desk.caller(key, asked.user_id, asked.session_id)
        events = [event for one in asked.event_list for event in _events_of(one, asked)]
        ack = await self._desk.take(events, caller)
        if ack.rejected:
            raise InvalidInputError(f"event {ack.rejected[0].index} was refused: {ack.rejected[0].reason}")
        return {}


async def _from_releases(_request: web.Request, _key: ServiceKey, _body: bytes) -> Any:
    raise NotFoundError(
        "there is no such dataset here.", fix="Items come with releases, and what is known of users from their events."
    )


def _events_of(one: PutEvent, asked: PutEvents) -> list[Event]:
    """The event and its impressions, all at the same moment. A type that is not known counts as a view."""
    kind = _EVENT_TYPES.get(one.event_type.lower().replace("-", "").replace("_", ""), EventType.VIEW)
    at_ms = round(one.sent_at * 1000)
    about = (asked.user_id or "", asked.session_id, one.event_type, at_ms)
    shown = [
        Event(event_id=event_id(None, *about, "shown", item), type=EventType.IMPRESSION, item=item, at_ms=at_ms)
        for item in dict.fromkeys(one.impression)
    ]
    if one.item_id is None:
        return shown
    value = one.event_value if kind in (EventType.RATING, EventType.WATCH) else None
    offered = None if one.event_id is None else f"{one.event_id}"
    return [
        Event(event_id=event_id(offered, *about, one.item_id), type=kind, item=one.item_id, at_ms=at_ms, value=value),
        *shown,
    ]


def _query(asked: GetRecommendations | GetPersonalizedRanking, kind: RecommendationType, *, n: int) -> ListQuery:
    category, filters = _filters(asked)
    return ListQuery(type=kind, n=n, category=category, filters=filters, context=_context(asked.context))


def _filters(asked: GetRecommendations | GetPersonalizedRanking) -> tuple[str | None, ItemFilters | None]:
    """A filter is its values here: `CATEGORY` is the category, any other name an attribute of the catalogue."""
    if asked.filter_arn is not None and not asked.filter_values:
        raise NotFoundError("filters are not kept here.", fix='Send filterValues, such as {"COLOUR": "\\"red\\""}.')
    values = {name.lower(): tuple(_QUOTED.findall(text)) or (text,) for name, text in asked.filter_values.items()}
    if any(len(some) > VALUES_MAX for some in values.values()):
        raise InvalidInputError(f"a filter has more than {VALUES_MAX} values.")
    category = values.pop("category", None)
    attributes = tuple(AttributeFilter(name=name, values=values[name]) for name in sorted(values))
    return category[0] if category else None, ItemFilters(attributes=attributes) if attributes else None


def _context(given: dict[str, str]) -> Context:
    """What of the context is known here; the rest is a feature of somebody else's model."""
    lower = {name.lower(): value for name, value in given.items()}
    device, country = lower.get("device", "").lower(), lower.get("country", "").upper()
    locale = lower.get("locale", "en")
    return Context(
        device=device if device in set(DeviceKind) else "",
        country=country if len(country) == 2 and country.isascii() and country.isalpha() else "",
        locale=locale if re.fullmatch("[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,2}", locale) else "en",
    )


def _decoded(body: bytes, kind: type[M]) -> M:
    try:
        return msgspec.json.decode(body, type=kind)
    except NOT_JSON:
        raise InvalidInputError(f"the body is not one of {kind.__name__}.") from None


def _refusal(error: AtollError, request_id: str) -> web.Response:
    status, name = next((status, name) for kind, status, name in _SAYS if isinstance(error, kind))
    response = _json({"__type": name, "message": str(error)}, status, request_id)
    response.headers["x-amzn-ErrorType"] = name
    return response


def _json(body: Any, status: int, request_id: str) -> web.Response:
    headers = {"x-amzn-RequestId": request_id, "Cache-Control": "no-store"}
    return web.Response(
        status=status, body=msgspec.json.encode(body), content_type="application/json", headers=headers
    )  # fmt: skip
