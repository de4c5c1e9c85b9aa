"""The decision of the hot path: the bytes that answer a request, or None when it must go the long way.

Sans I/O: bytes in, bytes out. Whatever the long way does for a fresh list is done here too: the token, the caller's
limits, hard filters, what was heard since the entry was made, counters, sampled spans and log lines. The order matters
in one place: a caller's limit is asked last, so that a request that is handed over is not counted twice.
"""

from collections.abc import Callable
from dataclasses import dataclass

from edge.cache.entry import ListKey
from edge.cache.invalidation import Ledger
from edge.cache.policy import Standing
from edge.hot.heads import HeadReader
from edge.hot.ready import Offer, Pattern, Ready, ReadyAnswers, Sent, WallSecond
from edge.http.identity import Identities
from edge.http.tags import names_tag
from edge.limits.buckets import CallerLimits
from edge.metrics import EdgeMetrics
from infra.contracts.messages import DegradationStep, RecommendationType
from infra.plumbing.clock import Clock
from infra.plumbing.http.middleware import RequestStats
from infra.plumbing.ids import RequestIds, is_request_id
from infra.plumbing.telemetry import Telemetry

ROUTE = "/v1/recommendations/{type}"
PREFIX = b"/v1/recommendations/"


@dataclass(frozen=True, slots=True, kw_only=True)
class HotParts:
    """What the hot path shares with the long way. `touched` is told of every list that was served past the cache."""

    identities: Identities
    caller_limits: CallerLimits
    address_limits: CallerLimits
    ledger: Ledger
    answers: ReadyAnswers
    touched: Callable[[ListKey], object]
    metrics: EdgeMetrics
    stats: RequestStats
    telemetry: Telemetry
    clock: Clock


class HotPath:
    """Answers plain requests for lists that went out before. Not for several threads: the event loop's only."""

    def __init__(self, parts: HotParts) -> None:
        self.answers = parts.answers
        self._parts = parts
        self._reader = HeadReader()
        self._second = WallSecond(parts.clock)
        self._ids = RequestIds()
        self._identities, self._ledger, self._touched = parts.identities, parts.ledger, parts.touched
        self._caller_limits, self._address_limits = parts.caller_limits, parts.address_limits
        self._monotonic_s = parts.clock.monotonic_s
        self._traced, self._logged = parts.telemetry.traces_this_request, parts.telemetry.logs_this_request
        fresh = DegradationStep.FRESH.value
        self._counts = {type_: parts.metrics.answers.labels(fresh, type_.value) for type_ in RecommendationType}
        self._requests = {status: parts.stats.requests.labels(ROUTE, "GET", str(status)) for status in (200, 304)}
        self._durations = parts.stats.durations.labels(ROUTE)
        self._answered = parts.metrics.hot.labels("answered")
        self.handed_over = parts.metrics.hot.labels("handed-over")

    def answer(self, data: bytes, peer: str) -> bytes | None:
        """The answer to the one request that `data` is, or None: then nothing has happened.

        Args:
            data: what one read brought, at the start of a message.
            peer: the address at the other end, whose limit holds for callers that show no token.
        """
        reader = self._reader
        target = reader.read(data)
        if target is None:
            return None
        now_s = self._monotonic_s()
        second = self._second
        if now_s >= second.ends_s:
            second.renew(now_s)
        owner = caller = None
        if reader.token is not None:
            held = self._identities.recall(reader.token, epoch_s=second.epoch_s)
            if held is None:
                return None
            owner, caller = held.subject, held.subject or held.principal.sealed_subject
        ready = self._find(target, owner, now_s)
        if ready is None:
            return None
        status = 304 if reader.tags is not None and self._has(reader.tags, ready) else 200
        pattern = ready.full if status == 200 else ready.short
        if pattern is None or not self._allowed(caller, peer, now_s):
            return None
        if now_s >= pattern.ends_s:
            pattern.render(ready.entry, now_s, second)
        return self._sent(ready, pattern, status, now_s)

    def learn(self, raw_target: str, offer: Offer, sent: Sent) -> None:
        """Take in what the long way is about to send for a plain GET of `raw_target`."""
        if not raw_target.isascii() or not raw_target.isprintable():
            return
        target = raw_target.encode()
        if target.startswith(PREFIX) and b" " not in target:
            self.answers.learn(target, offer, sent)

    def _find(self, target: bytes, owner: str | None, now_s: float) -> Ready | None:
        """The ready answer of `target` for `owner`, if all that it was made under still holds."""
        answers, ledger = self.answers.get, self._ledger
        ready = answers((target, owner)) if owner is not None else None
        if ready is None:
            ready = answers((target, None))
            if ready is None:
                return None
        if (
            now_s >= ready.fresh_until_s
            or ready.withdrawn_epoch != ledger.withdrawn_epoch
            or ready.filter_epoch != ledger.filter_epoch(owner)
            or ledger.standing(ready.entry, ready.key.subject) is not Standing.CURRENT
        ):
            return None
        return ready

    def _has(self, tags: bytes, ready: Ready) -> bool:
        return tags == ready.etag or names_tag(tags.decode(), ready.etag.decode())

    def _allowed(self, caller: str | None, peer: str, now_s: float) -> bool:
        if caller is None:
            return self._address_limits.allow(peer, now_s=now_s)
        return self._caller_limits.allow(caller, now_s=now_s)

    def _sent(self, ready: Ready, pattern: Pattern, status: int, now_s: float) -> bytes:
        offered = self._reader.request_id
        request_id = offered if offered is not None and is_request_id(offered.decode()) else self._ids.take()
        answer = b"".join((pattern.before, request_id, pattern.after))
        key = ready.key
        self._touched(key)
        self._counts[key.type].count += 1
        self._requests[status].count += 1
        self._answered.count += 1
        if status == 304:
            self._parts.metrics.not_modified.inc()
        took_s = self._monotonic_s() - now_s
        self._durations.observe(took_s)
        if self._traced():
            self._trace(ready, status, took_s)
        if self._logged():
            self._parts.telemetry.log_request(ROUTE, "GET", status, took_s=took_s, request_id=request_id.decode())
        return answer

    def _trace(self, ready: Ready, status: int, took_s: float) -> None:
        ended_ns = self._parts.clock.now_ms() * 1_000_000
        self._parts.telemetry.record_span(
            f"GET {ROUTE}", started_ns=ended_ns - int(took_s * 1e9), ended_ns=ended_ns,
            attributes={
                "atoll.step": DegradationStep.FRESH.value, "atoll.type": ready.key.type.value, "atoll.hot": True,
                "http.response.status_code": status,
            },
        )  # fmt: skip
