"""The region's doors for callers: recommend, events and privacy for its own edges; away and relay for everybody's."""

from dataclasses import dataclass

from aiohttp import web
from msgspec.structs import replace

from infra.contracts.messages import AwayRequest, HomeRequest, OptOutCall, SealedCall
from infra.contracts.residency import RegionalMessage, encode_global, encode_regional
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.http.middleware import REQUEST_ID
from region.api.answers import away_response, home_response
from region.api.checking import check_request
from region.api.choices import Choices
from region.api.decoding import decode_batch, decode_body, read_body
from region.api.doors import Door
from region.api.ports import EventTaker, ListMaker
from region.api.relay import RelayDesk
from region.store.subjects import is_subject

AWAY_BYTES_MAX = 64 << 10
RELAY_BYTES_MAX = 256 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerDoors:
    """Handlers of `/v1/...`."""

    recommender: ListMaker
    intake: EventTaker
    relay: RelayDesk
    choices: Choices
    home_only: Door
    body_bytes_max: int

    def routes(self) -> list[web.RouteDef]:
        """The routes to put into the application."""
        return [
            web.post("/v1/recommend", self.recommend),
            web.post("/v1/away", self.away),
            web.post("/v1/relay", self.relayed),
            web.post("/v1/events", self.events),
            web.post("/v1/privacy/opt-out", self.opt_out),
        ]

    async def recommend(self, request: web.Request) -> web.Response:
        """A list for this region's own edge."""
        self.home_only(request)
        call = decode_body(await self._body(request), HomeRequest)
        check_request(call)
        check_subject(call.subject)
        answer = await self.recommender.home(named(call, request[REQUEST_ID]))
        return home_response(answer, if_none_match=request.headers.get("If-None-Match"))

    async def away(self, request: web.Request) -> web.Response:
        """A list for another region's edge; no secret, and nothing that names anybody is read."""
        call = decode_body(await read_body(request, bytes_max=AWAY_BYTES_MAX), AwayRequest)
        check_request(call)
        answer = await self.recommender.away(call)
        return away_response(answer, if_none_match=request.headers.get("If-None-Match"))

    async def relayed(self, request: web.Request) -> web.Response:
        """A traveller's sealed call; the answer is sealed as well."""
        call = decode_body(await read_body(request, bytes_max=RELAY_BYTES_MAX), SealedCall)
        answer = await self.relay.answer(call, request[REQUEST_ID])
        return json_response(encode_global(answer))

    async def events(self, request: web.Request) -> web.Response:
        """Events of one subject, acknowledged when durable."""
        self.home_only(request)
        read = decode_batch(await self._body(request))
        return regional_response(await self.intake.take_read(read))

    async def opt_out(self, request: web.Request) -> web.Response:
        """A subject's choice: durable, then told to the edges."""
        self.home_only(request)
        call = decode_body(await self._body(request), OptOutCall)
        check_subject(call.subject)
        return regional_response(await self.choices.set_opt_out(call.subject, opted_out=call.opted_out))

    async def _body(self, request: web.Request) -> bytes:
        return await read_body(request, bytes_max=self.body_bytes_max)


def named(call: HomeRequest, request_id: str) -> HomeRequest:
    """The call under its own id, or under that of the request that brought it."""
    return call if call.request_id else replace(call, request_id=request_id)


def check_subject(subject: str | None) -> None:
    """Refuse what is not a pseudonym, so that a raw user id gets no further.

    Raises:
        InvalidInputError: `subject` is given and has not the form of a pseudonym.
    """
    if subject is not None and not is_subject(subject):
        raise InvalidInputError("subject is not a pseudonym of this region.", fix="Edges take it from the token.")


def regional_response(message: RegionalMessage) -> web.Response:
    """A message for a process of this region."""
    return json_response(encode_regional(message))


def json_response(body: bytes) -> web.Response:
    """A JSON body that nobody keeps."""
    return web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})
