"""The frame around every handler: request id, span, metrics, errors as problem documents, `/metrics` and health."""

from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from opentelemetry.trace import SpanKind
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from infra.plumbing.clock import Clock
from infra.plumbing.errors import AtollError
from infra.plumbing.http.bodies import unreadable_body
from infra.plumbing.http.problems import INTERNAL, kind_of_status, problem_for, problem_response
from infra.plumbing.ids import accept_request_id
from infra.plumbing.tallies import LoopCounter, LoopHistogram
from infra.plumbing.telemetry import DURATION_BUCKETS_S, Telemetry

REQUEST_ID = web.RequestKey("atoll_request_id", str)
"""Where handlers find the id of their request: `request[REQUEST_ID]`."""


class RequestStats:
    """What every answer is counted in, by whichever way it was made."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = LoopCounter(
            "atoll_http_requests", "Requests by route and status.", ("route", "method", "status"), registry=registry
        )
        self.durations = LoopHistogram(
            "atoll_http_request_seconds", "Time to answer by route.", "route", bounds=DURATION_BUCKETS_S,
            registry=registry,
        )  # fmt: skip


def frame(telemetry: Telemetry, clock: Clock, stats: RequestStats | None = None) -> Middleware:
    """The middleware; put it first. `stats` is given where others count in it too."""
    counted = stats if stats is not None else RequestStats(telemetry.registry)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id = accept_request_id(request.headers.get("Atoll-Request-Id"))
        request[REQUEST_ID] = request_id
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "unmatched"
        started_s = clock.monotonic_s()
        with telemetry.span(f"{request.method} {route}", headers=request.headers, kind=SpanKind.SERVER) as span:
            response = await _answer(telemetry, request, handler, request_id)
            span.set_attribute("http.response.status_code", response.status)
        if not response.prepared:
            response.headers.setdefault("Atoll-Request-Id", request_id)
        took_s = clock.monotonic_s() - started_s
        counted.requests.labels(route, request.method, str(response.status)).inc()
        counted.durations.labels(route).observe(took_s)
        if telemetry.logged.due():
            telemetry.log_request(route, request.method, response.status, took_s=took_s, request_id=request_id)
        return response

    return middleware


async def _answer(telemetry: Telemetry, request: web.Request, handler: Handler, request_id: str) -> web.StreamResponse:
    try:
        return await handler(request)
    except Exception as error:
        begun = request.writer.output_size > 0
        if begun and isinstance(error, ConnectionError):
            raise  # Whoever was being answered has hung up.
        answer = _refusal(error, request_id)
        if answer is None:
            telemetry.logger.exception("a handler failed", extra={"fields": {"request_id": request_id}})
        if begun or (isinstance(error, web.HTTPException) and error.status < 400):
            # In the middle of an answer the head of another one would be read as part of it: aiohttp hangs up.
            raise
        if answer is not None:
            return answer
        return problem_response(INTERNAL.status, INTERNAL.title, "The request could not be answered.", request_id)


def _refusal(error: Exception, request_id: str) -> web.Response | None:
    """What the caller is told of an error that is the caller's or was foreseen; None for faults of ours."""
    if isinstance(error, AtollError):
        return problem_for(error, request_id)
    if isinstance(error, web.RequestPayloadError):
        answer = problem_for(unreadable_body(), request_id)
        answer.force_close()  # Where the next request begins, nobody knows.
        return answer
    if not isinstance(error, web.HTTPException):
        return None
    kind = kind_of_status(error.status)
    answer = problem_response(error.status, kind.title, kind.means, request_id)
    if "Allow" in error.headers:
        answer.headers["Allow"] = error.headers["Allow"]
    return answer


def operations_routes(telemetry: Telemetry, ready: Callable[[], str | None]) -> list[web.RouteDef]:
    """`/metrics`, `/health/live` and `/health/ready`.

    Args:
        telemetry: whose registry is shown.
        ready: None when the process can take requests, else what it waits for.
    """

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(telemetry.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def live(_request: web.Request) -> web.Response:
        return web.json_response({"status": "live"})

    async def is_ready(_request: web.Request) -> web.Response:
        waiting = ready()
        if waiting is None:
            return web.json_response({"status": "ready"})
        return web.json_response({"status": "waiting", "for": waiting}, status=503)

    return [web.get("/metrics", metrics), web.get("/health/live", live), web.get("/health/ready", is_ready)]
