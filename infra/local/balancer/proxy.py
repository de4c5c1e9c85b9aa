"""Passing calls on: try edges in order until one answers, hold what is needed to try again, stream the rest."""

import asyncio
import ssl
from collections.abc import Iterable
from dataclasses import dataclass

import aiohttp
from aiohttp import ClientResponse, ClientSession, ClientTimeout, web
from multidict import CIMultiDict
from prometheus_client import Counter
from yarl import URL

from infra.local.balancer.edges import EdgeBoard, base_url
from infra.local.balancer.headers import add_via, body_length, end_to_end
from infra.local.balancer.health import Outcome
from infra.local.balancer.patience import Patience
from infra.local.balancer.routing import CLIENT_REGION_HEADER, Routes, affinity, attempt_order, client_region
from infra.local.balancer.settings import BalancerSettings, EdgeAddress
from infra.plumbing.errors import InvalidInputError, OverloadedError, UnavailableError
from infra.plumbing.http.middleware import REQUEST_ID
from infra.plumbing.http.problems import problem_response
from infra.plumbing.telemetry import Telemetry, inject

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
_LISTS = "/v1/recommendations/"
_UNREADY = frozenset({502, 503, 504})
_STREAM_CHUNK_BYTES = 64 << 10


class EdgesDarkError(UnavailableError):
    """No edge of any region answered."""


@dataclass(frozen=True, slots=True)
class Call:
    """A caller's request, read once, so that it can be sent more than once."""

    method: str
    target: str
    """Path and query exactly as they came."""
    headers: CIMultiDict[str]
    body: bytes | None
    repeatable: bool


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of asking one edge: an answer, or why there is none."""

    outcome: Outcome
    answer: ClientResponse | None = None
    body: bytes | None = None
    """The whole body when it was small enough to hold, else None: it is streamed from `answer`."""
    sent: bool = True
    """Whether the edge may have seen the call."""
    given_up_early: bool = False
    """Whether it was not given all the time that it may take: that speaks for haste, not against the edge, and whether
    it is frozen the probes find out."""


class Proxy:
    """The handler behind every path that is not the balancer's own."""

    def __init__(
        self, *, settings: BalancerSettings, routes: Routes, board: EdgeBoard, session: ClientSession,
        telemetry: Telemetry,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._routes = routes
        self._board = board
        self._session = session
        self._patience = Patience()
        self._in_flight = 0
        self._attempts = Counter(
            "atoll_balancer_attempts", "Calls to edges by outcome.", ("edge", "outcome"), registry=telemetry.registry
        )
        self._away = Counter(
            "atoll_balancer_away", "Calls answered by an edge of another region.", ("region",),
            registry=telemetry.registry,
        )  # fmt: skip
        self._home_edges = {
            name: frozenset(edge.name for edge in region.edges) for name, region in routes.regions.items()
        }

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one call.

        Raises:
            OverloadedError: too many calls are in flight.
            EdgesDarkError: no edge answered.
        """
        if self._in_flight >= self._settings.calls_in_flight_max:
            raise OverloadedError("the balancer carries as many calls as it may.", fix="Try again in a moment.")
        self._in_flight += 1
        try:
            region = client_region(self._routes, request.headers.get(CLIENT_REGION_HEADER), request.remote)
            call = await self._read(request, region)
            if call is None:
                return _too_large(request, self._settings.request_bytes_max)
            return await self._first_answer(request, call, region)
        finally:
            self._in_flight -= 1

    async def _read(self, request: web.Request, region: str) -> Call | None:
        """The call with its body; None when the body is larger than this balancer holds."""
        if not request.raw_path.startswith("/"):
            raise InvalidInputError("the request target is not a path.", fix="Send GET /path HTTP/1.1.")
        announced = body_length(request.headers)
        if announced is not None and announced > self._settings.request_bytes_max:
            return None
        try:
            # aiohttp stops reading at the application's client_max_size.
            body = await request.read() if request.body_exists else None
        except web.HTTPRequestEntityTooLarge:
            return None
        # `Host` stays what the caller wrote: signed requests (AWS Signature Version 4) cover it.
        headers = end_to_end(request.headers.items(), also=frozenset({"content-length", "expect"}))
        headers[CLIENT_REGION_HEADER] = region
        headers["Atoll-Request-Id"] = request[REQUEST_ID]
        inject(headers)
        add_via(headers)
        repeatable = request.method in IDEMPOTENT or request.path in self._settings.repeatable_posts
        return Call(request.method, request.raw_path, headers, body, repeatable)

    async def _first_answer(self, request: web.Request, call: Call, region: str) -> web.StreamResponse:
        order = attempt_order(
            self._routes, region, affinity(call.target, call.headers), is_up=self._board.is_up, load=self._board.load,
            load_factor=self._settings.load_factor, warmth=self._board.warmth,
        )  # fmt: skip
        self._patience.note_call()
        unready: Attempt | None = None
        tried = order[: self._settings.attempts_max]
        for edge in tried:
            with self._board.calling(edge.name):
                attempt = await self._attempt(call, edge, last=edge is tried[-1])
                self._note(edge, attempt)
                if attempt.answer is not None and attempt.outcome is Outcome.ANSWERED:
                    if edge.name not in self._home_edges[region]:
                        self._away.labels(region).inc()
                    return await _pass_on(request, attempt.answer, attempt.body)
            unready = attempt if attempt.answer is not None else unready
            if attempt.sent and not call.repeatable:
                break
        if unready is not None and unready.answer is not None and unready.body is not None:
            return await _pass_on(request, unready.answer, unready.body)
        raise EdgesDarkError("no edge answered.", fix="Try again in a moment.")

    def _note(self, edge: EdgeAddress, attempt: Attempt) -> None:
        self._attempts.labels(edge.name, attempt.outcome.value).inc()
        if attempt.outcome is Outcome.SILENT:
            self._patience.note_given_up()
        if not attempt.given_up_early:
            self._board.note_call(edge.name, attempt.outcome)

    async def _attempt(self, call: Call, edge: EdgeAddress, *, last: bool) -> Attempt:
        url = URL(base_url(edge, self._settings) + call.target, encoded=True)
        answer: ClientResponse | None = None
        # Nobody is left to be asked instead of the last one.
        timeout_s = self._settings.answer_timeout_s if last else self._timeout_s(call)
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._session.request(
                    call.method, url, headers=call.headers, data=call.body, allow_redirects=False
                )
                body = await self._held_body(answer)
        except aiohttp.ClientConnectorError:
            return Attempt(Outcome.BROKEN, sent=False)
        except TimeoutError:
            _drop(answer)
            return Attempt(Outcome.SILENT, given_up_early=timeout_s < self._settings.answer_timeout_s)
        except aiohttp.ClientError:
            _drop(answer)
            return Attempt(Outcome.BROKEN)
        if answer.status in _UNREADY and body is not None:
            return Attempt(Outcome.UNREADY, answer, body)
        return Attempt(Outcome.ANSWERED, answer, body)

    def _timeout_s(self, call: Call) -> float:
        """How long to wait for the answer: lists are given up early, as long as few of them are.

        When every edge is slow, giving up early only doubles the work that made them slow.
        """
        if call.method == "GET" and call.target.startswith(_LISTS) and self._patience.may_give_up_early():
            return min(self._settings.list_timeout_s, self._settings.answer_timeout_s)
        return self._settings.answer_timeout_s

    async def _held_body(self, answer: ClientResponse) -> bytes | None:
        length = answer.content_length
        if answer.method == "HEAD" or answer.status in (204, 304):
            await answer.read()
            return b""
        if length is not None and length <= self._settings.answer_held_bytes_max:
            return await answer.read()
        return None


async def _pass_on(request: web.Request, answer: ClientResponse, body: bytes | None) -> web.StreamResponse:
    headers = end_to_end(answer.headers.items())
    add_via(headers)
    if body is not None:
        return web.Response(status=answer.status, reason=answer.reason, headers=headers, body=body or None)
    response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers)
    try:
        await response.prepare(request)
        async for chunk in answer.content.iter_chunked(_STREAM_CHUNK_BYTES):
            await response.write(chunk)
        await response.write_eof()
    except aiohttp.ClientError:
        # The head has left already: the caller must see a broken answer, not a short one.
        if request.transport is not None:
            request.transport.abort()
    finally:
        answer.close()
    return response


def _drop(answer: ClientResponse | None) -> None:
    if answer is not None:
        answer.close()


def _too_large(request: web.Request, bytes_max: int) -> web.Response:
    response = problem_response(
        413, "Content too large", f"A request body has at most {bytes_max} bytes.", request[REQUEST_ID]
    )
    response.force_close()
    return response


def new_session(
    settings: BalancerSettings, edges: Iterable[EdgeAddress], tls: ssl.SSLContext | None = None
) -> ClientSession:
    """The pool of connections to the edges."""
    count = sum(1 for _ in edges)
    connector = aiohttp.TCPConnector(
        limit=count * settings.connections_per_edge_max,
        limit_per_host=settings.connections_per_edge_max,
        keepalive_timeout=30.0,
        use_dns_cache=True,
        ssl=True if tls is None else tls,
    )
    timeout = ClientTimeout(total=None, sock_connect=settings.connect_timeout_s, connect=settings.answer_timeout_s)
    return ClientSession(
        connector=connector,
        timeout=timeout,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        trust_env=False,
    )
