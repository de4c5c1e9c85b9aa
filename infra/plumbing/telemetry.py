"""Telemetry of one process: OpenTelemetry spans, Prometheus metrics, JSON logs with trace ids. No personal data.

Attributes, labels and log fields hold names of things (route, step, region, release, stage), counts and durations;
never a subject, a session, an event or a feature. A test greps everything a world wrote.
"""

import json
import logging
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, TraceFlags, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry

from infra.plumbing.ids import uniform
from infra.plumbing.sampling import GapSampler
from infra.plumbing.span_file import SpanFile

_PROPAGATOR = TraceContextTextMapPropagator()
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_SCOPE = InstrumentationScope("atoll")
DURATION_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class TelemetrySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where telemetry goes. Empty paths: logs to stderr, no spans kept."""

    log_file: str = ""
    spans_file: str = ""
    log_level: str = "INFO"
    sample_ratio: float = 0.01
    """Share of requests without a caller's own decision whose spans are kept, 0 to 1."""
    request_log_ratio: float = 0.001
    """Share of requests that leave a line in the log, 0 to 1: a line each would cost more than a cached answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """What a process is given to speak with."""

    tracer: Tracer
    registry: CollectorRegistry
    logger: logging.Logger
    traced: GapSampler
    """Picks the requests whose span is kept, for those that make one without a context (`record_span`)."""
    logged: GapSampler
    """Picks the requests that leave a line in the log."""
    _provider: TracerProvider
    _processor: SpanProcessor | None
    _files: tuple[IO[str], ...]

    @contextmanager
    def span(
        self, name: str, *, headers: Mapping[str, str] | None = None, kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, str | int | float | bool] | None = None, traceparents: Sequence[str] = (),
    ) -> Iterator[Span]:  # fmt: skip
        """A span around a block; a child of the caller's span when `headers` carry a `traceparent`.

        It links to the spans that `traceparents` name, and belongs to the trace of the first of them: whoever looks
        at the call that brought the work sees what became of it.
        """
        origins = [extract({"traceparent": one}) for one in traceparents]
        context = extract(headers) if headers is not None else origins[0] if origins else None
        links = [Link(trace.get_current_span(origin).get_span_context()) for origin in origins]
        with self.tracer.start_as_current_span(
            name, context=context, kind=kind, attributes=attributes, links=links
        ) as span:
            yield span

    def record_span(
        self, name: str, *, started_ns: int, ended_ns: int, attributes: Mapping[str, str | int | float | bool]
    ) -> None:
        """Keep the span of a request that is over and called nobody: no context is entered for it.

        For requests that `traced` picked; times are nanoseconds of the Unix epoch.
        """
        if self._processor is None:
            return
        ids = self._provider.id_generator
        context = SpanContext(ids.generate_trace_id(), ids.generate_span_id(), is_remote=False, trace_flags=_SAMPLED)
        self._processor.on_end(
            ReadableSpan(
                name, context=context, resource=self._provider.resource, attributes=attributes, kind=SpanKind.SERVER,
                start_time=started_ns, end_time=ended_ns, instrumentation_scope=_SCOPE,
            )
        )  # fmt: skip

    def log_request(self, route: str, method: str, status: int, *, took_s: float, request_id: str) -> None:
        """The line of a request that `logged` picked."""
        fields = {
            "route": route, "method": method, "status": status, "took_ms": round(took_s * 1000, 3),
            "request_id": request_id,
        }  # fmt: skip
        self.logger.info("answered", extra={"fields": fields})

    def close(self) -> None:
        """Flush spans and close files."""
        self._provider.shutdown()
        for handler in list(self.logger.handlers):
            self.logger.removeHandler(handler)
            handler.close()
        for file in self._files:
            file.close()


def start_telemetry(*, service: str, region: str, node: str, settings: TelemetrySettings) -> Telemetry:
    """Build the telemetry of one process. Nothing global is touched, so several can live in one test."""
    files: list[IO[str]] = []
    resource = Resource.create({"service.name": service, "cloud.region": region, "service.instance.id": node})
    provider = TracerProvider(
        resource=resource, sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)), shutdown_on_exit=False
    )
    processor: SpanProcessor | None = None
    if settings.spans_file:
        Path(settings.spans_file).parent.mkdir(parents=True, exist_ok=True)
        file = Path(settings.spans_file).open("a", encoding="utf-8")  # noqa: SIM115 - closed in close()
        files.append(file)
        processor = BatchSpanProcessor(SpanFile(file), schedule_delay_millis=500)
        provider.add_span_processor(processor)
    return Telemetry(
        tracer=provider.get_tracer("atoll"),
        registry=CollectorRegistry(),
        logger=_logger(service, region, node, settings),
        traced=GapSampler(ratio=settings.sample_ratio, uniform=uniform),
        logged=GapSampler(ratio=settings.request_log_ratio, uniform=uniform),
        _provider=provider,
        _processor=processor,
        _files=tuple(files),
    )


def extract(headers: Mapping[str, str]) -> Context:
    """The trace context that a caller sent (W3C Trace Context); an empty one when there is none.

    Its `tracestate` is free text and is left out: what it holds would go on to the next process and, where it does not
    read, into the log.
    """
    return _PROPAGATOR.extract(
        {name.lower(): value for name, value in headers.items() if name.lower() == "traceparent"}
    )


def inject(headers: MutableMapping[str, str]) -> None:
    """Put the current span's `traceparent` into `headers`."""
    _PROPAGATOR.inject(headers)


def current_span_is_kept() -> bool:
    """Whether the current span is sampled; without one, a span made now would begin a trace and be asked itself."""
    context = trace.get_current_span().get_span_context()
    return bool(context.trace_flags.sampled) or not context.is_valid


def current_traceparent() -> str:
    """The current span's `traceparent` when it is kept, else nothing: what a record carries to who works it off."""
    if not trace.get_current_span().get_span_context().trace_flags.sampled:
        return ""
    headers: dict[str, str] = {}
    inject(headers)
    return headers.get("traceparent", "")


class JsonFormatter(logging.Formatter):
    """One JSON object a line; what a caller passes as `extra={"fields": {...}}` stands beside the message."""

    def __init__(self, identity: Mapping[str, str]) -> None:
        super().__init__()
        self._identity = dict(identity)

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        context = trace.get_current_span().get_span_context()
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **self._identity,
            **getattr(record, "fields", {}),
        }
        if context.is_valid:
            line["trace_id"] = format(context.trace_id, "032x")
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _logger(service: str, region: str, node: str, settings: TelemetrySettings) -> logging.Logger:
    logger = logging.Logger(f"atoll.{service}", level=settings.log_level.upper())
    if settings.log_file:
        Path(settings.log_file).parent.mkdir(parents=True, exist_ok=True)
        handler: logging.Handler = logging.FileHandler(settings.log_file)
    else:
        handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter({"service": service, "region": region, "node": node}))
    logger.addHandler(handler)
    return logger
