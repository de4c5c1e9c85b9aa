"""The region port over HTTP: aiohttp, bounded connections, bounded bodies, one client span around every call."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import aiohttp
import msgspec
from opentelemetry.trace import SpanKind, StatusCode

from edge.routing.port import CallFailure, RegionCallError, Right
from infra.contracts.discovery import ChoicesAnswer, ChoicesCall, SuggestAnswer, SuggestCall
from infra.contracts.events import EventAck, EventBatch
from infra.contracts.messages import (
    AwayAnswer,
    AwayRequest,
    HomeAnswer,
    HomeRequest,
    Notices,
    NoticesCall,
    OptOutAnswer,
    OptOutCall,
    RightsCall,
    SealedAnswer,
    SealedCall,
)
from infra.contracts.residency import encode_global, encode_regional
from infra.plumbing.telemetry import Telemetry, inject

ANSWER_BYTES_MAX = 1 << 20
EXPORT_BYTES_MAX = 64 << 20
"""A hundred thousand events, which is what one export takes."""
NOTICES_BYTES_MAX = 16 << 20
"""A hundred thousand withdrawn items, and purges."""
_READ_BYTES = 1 << 16
M = TypeVar("M")


class HttpRegion:
    """Implements `edge.routing.port.RegionPort`.

    Args:
        service_key: shown to nodes of this edge's own region, and to no other.
        counted: told the path and the outcome of every call.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        service_key: str,
        connect_timeout_s: float,
        telemetry: Telemetry,
        counted: Callable[[str, str], None],
    ) -> None:
        self._session = session
        self._own = {"Atoll-Service-Key": service_key, "Content-Type": "application/json"}
        self._foreign = {"Content-Type": "application/json"}
        self._connect_timeout_s = connect_timeout_s
        self._telemetry = telemetry
        self._counted = counted

    async def recommend(self, url: str, request: HomeRequest, *, timeout_s: float) -> HomeAnswer:
        """See `RegionPort.recommend`."""
        body = encode_regional(request)
        return _decoded(await self._post(url, "/v1/recommend", body, self._own, timeout_s), HomeAnswer)

    async def recommend_away(self, url: str, request: AwayRequest, *, timeout_s: float) -> AwayAnswer:
        """See `RegionPort.recommend_away`."""
        body = encode_global(request)
        return _decoded(await self._post(url, "/v1/away", body, self._foreign, timeout_s), AwayAnswer)

    async def relay(self, url: str, call: SealedCall, *, timeout_s: float) -> SealedAnswer:
        """See `RegionPort.relay`."""
        return _decoded(await self._post(url, "/v1/relay", encode_global(call), self._foreign, timeout_s), SealedAnswer)

    async def send_events(self, url: str, batch: EventBatch, *, timeout_s: float) -> EventAck:
        """See `RegionPort.send_events`."""
        return _decoded(await self._post(url, "/v1/events", encode_regional(batch), self._own, timeout_s), EventAck)

    async def opt_out(self, url: str, call: OptOutCall, *, timeout_s: float) -> OptOutAnswer:
        """See `RegionPort.opt_out`."""
        body = encode_regional(call)
        return _decoded(await self._post(url, "/v1/privacy/opt-out", body, self._own, timeout_s), OptOutAnswer)

    async def exercise(self, url: str, right: Right, call: RightsCall, *, timeout_s: float) -> bytes:
        """See `RegionPort.exercise`."""
        path = f"/v1/privacy/{right.value}"
        return await self._post(url, path, encode_regional(call), self._own, timeout_s, bytes_max=EXPORT_BYTES_MAX)

    async def choices(self, url: str, call: ChoicesCall, *, timeout_s: float) -> ChoicesAnswer:
        """See `RegionPort.choices`."""
        body = encode_global(call)
        return _decoded(await self._post(url, "/v1/onboarding/choices", body, self._own, timeout_s), ChoicesAnswer)

    async def suggest(self, url: str, call: SuggestCall, *, timeout_s: float) -> SuggestAnswer:
        """See `RegionPort.suggest`."""
        return _decoded(
            await self._post(url, "/v1/suggest", encode_regional(call), self._own, timeout_s), SuggestAnswer
        )

    async def notices(self, url: str, call: NoticesCall, *, timeout_s: float) -> Notices:
        """See `RegionPort.notices`. Without a span: it belongs to no request."""
        body = await self._exchange(
            "POST", url + "/v1/notices", encode_global(call), self._own, timeout_s, bytes_max=NOTICES_BYTES_MAX
        )
        return _decoded(body, Notices)

    async def probe(self, url: str, *, timeout_s: float) -> None:
        """See `RegionPort.probe`. Without a span: it belongs to no request."""
        await self._exchange("GET", url + "/health/ready", None, {}, timeout_s)

    async def _post(
        self, url: str, path: str, body: bytes, headers: dict[str, str], timeout_s: float,
        *, bytes_max: int = ANSWER_BYTES_MAX,
    ) -> bytes:  # fmt: skip
        with self._telemetry.span(f"POST {path}", kind=SpanKind.CLIENT) as span:
            sent = dict(headers)
            inject(sent)
            try:
                answer = await self._exchange("POST", url + path, body, sent, timeout_s, bytes_max=bytes_max)
            except RegionCallError as error:
                span.set_status(StatusCode.ERROR, error.failure.value)
                self._counted(path, error.failure.value)
                raise
            self._counted(path, "answered")
            return answer

    async def _exchange(
        self, method: str, url: str, body: bytes | None, headers: dict[str, str], timeout_s: float,
        *, bytes_max: int = ANSWER_BYTES_MAX,
    ) -> bytes:  # fmt: skip
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(self._connect_timeout_s, timeout_s))
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                content = await _bounded_body(response, bytes_max)
                _check_status(response.status)
                return content
        except TimeoutError as error:
            raise RegionCallError(CallFailure.TIMEOUT) from error
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as error:
            raise RegionCallError(CallFailure.UNREACHABLE) from error


async def _bounded_body(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(_READ_BYTES):
        body += chunk
        if len(body) > bytes_max:
            response.close()
            raise RegionCallError(CallFailure.MALFORMED, status=response.status)
    return bytes(body)


def _check_status(status: int) -> None:
    if status == 200:
        return
    # Other 4xx say something about the node's load (408, 429) or about our own key (401, 403), not about the call.
    refused = status in (400, 404, 409, 413, 422)
    raise RegionCallError(CallFailure.REFUSED if refused else CallFailure.SERVER_ERROR, status=status)


def _decoded(body: bytes, kind: type[M]) -> M:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RegionCallError(CallFailure.MALFORMED, status=200) from error
