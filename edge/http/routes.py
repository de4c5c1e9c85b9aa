"""The public doors of an edge. Handlers read, ask, write; what is decided is decided elsewhere."""

import re
from collections.abc import Mapping

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from opentelemetry import trace

from edge.answering.parts import Parts
from edge.answering.recommender import recommend
from edge.calls import Caller
from edge.discovery.desk import DiscoveryDesk
from edge.discovery.onboarding import events_of
from edge.hot.learning import OFFER
from edge.http.bulk import BulkDesk
from edge.http.discovery import kept_response, parse_choices, parse_suggest
from edge.http.events import opt_out, parse_choice, parse_events, parse_onboarding, take_events, take_read
from edge.http.identity import Identities
from edge.http.openapi import encode_document, openapi_document
from edge.http.operations import OPERATIONS
from edge.http.pages import page_routes, problem_page
from edge.http.parameters import LOCALE
from edge.http.query import parse_deadline_ms, parse_list_query
from edge.http.reading import checked_name
from edge.http.rendering import list_response, offer_of
from edge.http.rights import RightsDesk
from edge.limits.buckets import CallerLimits
from edge.routing.port import Right
from edge.settings import EdgeSettings
from infra.contracts.residency import encode_global, encode_regional
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.http.bodies import body_in_time
from infra.plumbing.http.middleware import REQUEST_ID
from infra.plumbing.http.problems import TOO_MANY, problem_response
from infra.plumbing.service_keys import Scope, require


class EdgeRoutes:
    """Handlers of the public API.

    Args:
        identities: who calls.
        caller_limits: for callers that are known.
        address_limits: for callers that show nothing, and for tokens that are not known yet: a token costs a signature
            check, so guessing must not be free.
    """

    def __init__(
        self,
        *,
        parts: Parts,
        identities: Identities,
        caller_limits: CallerLimits,
        address_limits: CallerLimits,
        discovery: DiscoveryDesk,
        settings: EdgeSettings,
    ) -> None:
        self._parts = parts
        self._identities = identities
        self._caller_limits = caller_limits
        self._address_limits = address_limits
        self._settings = settings
        self._bulk = BulkDesk(
            parts=parts, width=settings.bulk_width, calls_max=settings.bulk_calls_max,
            deadline_s=settings.bulk_deadline_ms / 1000,
        )  # fmt: skip
        self._rights = RightsDesk(parts)
        self._discovery = discovery
        self._document = encode_document(openapi_document(OPERATIONS))

    def table(self) -> list[web.RouteDef]:
        """Every public route: what OPERATIONS describes, no more and no less."""
        handlers: dict[str, Handler] = {
            "recommendations": self.recommendations,
            "events": self.events,
            "suggest": self.suggest,
            "onboarding_choices": self.onboarding_choices,
            "onboarding": self.onboarding,
            "opt_out": self.opt_out,
            "export": self.export,
            "erase": self.erase,
            "why": self.why,
            "bulk": self.bulk,
            "document": self.document,
            "problem": problem_page,
        }
        return [*(web.route(one.method, one.path, handlers.pop(one.id)) for one in OPERATIONS), *page_routes()]

    async def bulk(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/bulk/recommendations`."""
        caller = self._admitted(request)
        if caller is None:
            return self._too_many(request)
        key = require(caller.service, Scope.BULK)
        return await self._bulk.answer(request, lambda user: self._identities.of_service(key, user))

    async def document(self, _request: web.Request) -> web.Response:
        """`GET /openapi.json`."""
        return web.Response(
            body=self._document, content_type="application/json",
            headers={"Cache-Control": "max-age=300", "Access-Control-Allow-Origin": "*"},
        )  # fmt: skip

    async def recommendations(self, request: web.Request) -> web.Response:
        """`GET /v1/recommendations/{type}`."""
        started_s = self._parts.clock.monotonic_s()
        caller = self._admitted(request)
        if caller is None:
            return self._too_many(request)
        if caller.service is not None:
            require(caller.service, Scope.READ)
        lists = self._parts.lists()
        query = parse_list_query(
            request.match_info["type"], request.query, request.headers, dim=lists.dim if lists is not None else None
        )
        deadline_ms = parse_deadline_ms(
            request.headers.get("Atoll-Deadline-Ms"), deadline_ms_max=self._settings.deadline_ms
        )
        if query.arm is not None:
            require(caller.service, Scope.TEST)
        served = await recommend(self._parts, query, caller, deadline_s=started_s + deadline_ms / 1000)
        span = trace.get_current_span()
        span.set_attribute("atoll.step", served.step.value)
        span.set_attribute("atoll.type", query.type.value)
        response = list_response(self._parts, query, caller, served, if_none_match=request.headers.get("If-None-Match"))
        offer = offer_of(self._parts, query, caller, served, etag=response.headers["ETag"])
        if offer is not None:
            request[OFFER] = offer
        return response

    async def events(self, request: web.Request) -> web.Response:
        """`POST /v1/events`."""
        caller = self._admitted(request)
        if caller is None:
            return self._too_many(request)
        if caller.service is not None:
            require(caller.service, Scope.EVENTS)
        read = parse_events(await self._body(request))
        ack = await take_read(self._parts, read, caller, timeout_s=self._settings.event_deadline_ms / 1000)
        return _json(encode_regional(ack))

    async def suggest(self, request: web.Request) -> web.Response:
        """`GET /v1/suggest`."""
        caller = self._admitted(request)
        if caller is None:
            return self._too_many(request)
        if caller.service is not None:
            require(caller.service, Scope.READ)
        told = await self._discovery.suggest(parse_suggest(request.query, subject=caller.subject))
        personal = told.answer.personal or caller.subject is not None
        has = request.headers.get("If-None-Match")
        return kept_response(encode_regional(told.answer), told, if_none_match=has, personal=personal)

    async def onboarding_choices(self, request: web.Request) -> web.Response:
        """`GET /v1/onboarding`."""
        caller = self._admitted(request)
        if caller is None:
            return self._too_many(request)
        if caller.service is not None:
            require(caller.service, Scope.READ)
        told = await self._discovery.choices(parse_choices(request.query))
        return kept_response(encode_global(told.answer), told, if_none_match=request.headers.get("If-None-Match"))

    async def onboarding(self, request: web.Request) -> web.Response:
        """`POST /v1/onboarding`."""
        caller = self._admitted(request)
        if caller is None:
            return self._too_many(request)
        if caller.service is not None:
            require(caller.service, Scope.EVENTS)
        batch = events_of(parse_onboarding(await self._body(request)), now_ms=self._parts.clock.now_ms())
        ack = await take_events(self._parts, batch, caller, timeout_s=self._settings.event_deadline_ms / 1000)
        return _json(encode_regional(ack))

    async def opt_out(self, request: web.Request) -> web.Response:
        """`PUT /v1/privacy/opt-out`."""
        caller = self._admitted(request)
        if caller is None:
            return self._too_many(request)
        opted_out = parse_choice(await self._body(request))
        timeout_s = self._settings.event_deadline_ms / 1000
        await opt_out(self._parts, caller, opted_out=opted_out, timeout_s=timeout_s)
        return _json(msgspec.json.encode({"opted_out": opted_out}))

    async def export(self, request: web.Request) -> web.Response:
        """`GET /v1/privacy/export`."""
        return await self._exercise(request, Right.EXPORT)

    async def erase(self, request: web.Request) -> web.Response:
        """`DELETE /v1/privacy/me`."""
        return await self._exercise(request, Right.ERASE)

    async def why(self, request: web.Request) -> web.Response:
        """`GET /v1/privacy/why/{item}`."""
        locale = request.query.get("locale", "en")
        if not re.fullmatch(LOCALE, locale):
            raise InvalidInputError(
                "locale is not a language tag.", fix="Send locale=en or locale=de-AT.", field="locale"
            )
        item = checked_name(request.match_info["item"], "item") or ""
        return await self._exercise(request, Right.WHY, item=item, locale=locale)

    async def _exercise(
        self, request: web.Request, right: Right, *, item: str = "", locale: str = "en"
    ) -> web.Response:  # fmt: skip
        caller = self._admitted(request)
        if caller is None:
            return self._too_many(request)
        return _json(await self._rights.exercise(right, caller, item=item, locale=locale))

    async def _body(self, request: web.Request) -> bytes:
        return await body_in_time(request, timeout_s=self._settings.body_timeout_s)

    def _admitted(self, request: web.Request) -> Caller | None:
        """The caller, or None when the caller makes too many calls."""
        now_s = self._parts.clock.monotonic_s()
        headers: Mapping[str, str] = request.headers
        known = self._identities.is_remembered(headers)
        if not known and not self._address_limits.allow(request.remote or "", now_s=now_s):
            return None
        caller = self._identities.caller(headers)
        name = _limit_name(caller)
        return caller if name is None or self._caller_limits.allow(name, now_s=now_s) else None

    def _too_many(self, request: web.Request) -> web.Response:
        self._parts.metrics.limited.inc()
        return problem_response(TOO_MANY.status, TOO_MANY.title, TOO_MANY.means, request[REQUEST_ID])


def _limit_name(caller: Caller) -> str | None:
    if caller.service is not None and caller.subject is not None:
        return caller.subject
    if caller.principal is not None:
        # Inside its life a token's sealed subject is as good a name as the subject, and travellers have one too.
        return caller.subject or caller.principal.sealed_subject
    return caller.session or (f"service:{caller.service.id}" if caller.service is not None else None)


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})
