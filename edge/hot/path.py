"""The decision of the hot path: the bytes that answer a request, or None when it must go the long way.

Sans I/O: bytes in, bytes out. Whatever the long way does for a fresh list is done here too: the token, the caller's
limits, hard filters, what was heard since the entry was made, counters, sampled spans and log lines. The order matters
in one place: a caller's limit is asked last, so that a request that is handed over is not counted twice.
"""

from dataclasses import dataclass

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
_SHORTEST_S = 0.001
"""Upper bound of the first bin of durations: almost every answer falls into it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HotParts:
    """What the hot path shares with the long way."""

    identities: Identities
    caller_limits: CallerLimits
    address_limits: CallerLimits
    ledger: Ledger
    answers: ReadyAnswers
    metrics: EdgeMetrics
    stats: RequestStats
    telemetry: Telemetry
    clock: Clock


class HotPath:
    """Answers plain requests for lists that went out before. Not for several threads: the event loop's only."""

    def __init__(self, parts: HotParts) -> None:
        self._parts = parts
        self._reader = HeadReader()
        self._second = WallSecond(parts.clock)
        self._next_id = RequestIds().take
        self._find, self._ledger = parts.answers.get, parts.ledger
        self._recall = parts.identities.recall
        self._caller_allowed, self._address_allowed = parts.caller_limits.allow, parts.address_limits.allow
        self._monotonic_s = parts.clock.monotonic_s
        fresh = DegradationStep.FRESH.value
        self._types = {type_.value: parts.metrics.answers.labels(fresh, type_.value) for type_ in RecommendationType}
        self._statuses = {status: parts.stats.requests.labels(ROUTE, "GET", str(status)) for status in (200, 304)}
        self._durations = parts.stats.durations.labels(ROUTE)
        self._answered = parts.metrics.hot.labels("answered")
        self.handed_over = parts.metrics.hot.labels("handed-over")
        self._unsampled = 0
        self._sample_at = self._draw()

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
        if reader.token is None:
            ready = self._find((target, None))
            owner = caller = None
        else:
            held = self._recall(reader.token, epoch_s=second.epoch_s)
            if held is None:
                return None
            owner = held.subject
            caller = owner or held.principal.sealed_subject
            ready = self._find((target, owner)) or self._find((target, None))
        if ready is None or not self._holds(ready, owner, now_s):
            return None
        pattern = ready.full if reader.tags is None else self._form(ready, reader.tags)
        if pattern is None:
            return None
        if not (
            self._address_allowed(peer, now_s=now_s) if caller is None else self._caller_allowed(caller, now_s=now_s)
        ):
            return None
        if now_s >= pattern.ends_s:
            pattern.render(ready.entry, now_s, second)
        offered = reader.request_id
        request_id = offered if offered is not None and is_request_id(offered.decode()) else self._next_id()
        self._account(ready, pattern, request_id, now_s)
        return b"".join((pattern.before, request_id, pattern.after))

    def learn(self, raw_target: str, offer: Offer, sent: Sent) -> None:
        """Take in what the long way is about to send for a plain GET of `raw_target`."""
        if not raw_target.isascii() or not raw_target.isprintable():
            return
        target = raw_target.encode()
        if target.startswith(PREFIX) and b" " not in target:
            self._parts.answers.learn(target, offer, sent)

    def _holds(self, ready: Ready, viewer: str | None, now_s: float) -> bool:
        """Whether all that the ready answer was made under still holds for `viewer`."""
        ledger = self._ledger
        return (
            now_s < ready.fresh_until_s
            and ready.withdrawn_epoch == ledger.withdrawn_epoch
            and ready.filter_epoch == ledger.filter_epoch(viewer)
            and ledger.standing(ready.entry, ready.subject) is Standing.CURRENT
        )

    def _form(self, ready: Ready, tags: bytes) -> Pattern | None:
        known = tags == ready.etag or names_tag(tags.decode(), ready.etag.decode())
        return ready.short if known else ready.full

    def _account(self, ready: Ready, pattern: Pattern, request_id: bytes, now_s: float) -> None:
        ready.entry.hits += 1
        self._types[ready.type].count += 1
        self._statuses[pattern.status].count += 1
        self._answered.count += 1
        if pattern.status == 304:
            self._parts.metrics.not_modified.count += 1
        took_s = self._monotonic_s() - now_s
        if took_s < _SHORTEST_S:
            self._durations.counts[0] += 1
            self._durations.total += took_s
        else:
            self._durations.observe(took_s)
        self._unsampled += 1
        if self._unsampled > self._sample_at:
            self._sample(ready, pattern.status, request_id, took_s)

    def _draw(self) -> int:
        telemetry = self._parts.telemetry
        return min(telemetry.traced.left, telemetry.logged.left)

    def _sample(self, ready: Ready, status: int, request_id: bytes, took_s: float) -> None:
        """This request is one of the sampled: those before it pass the samplers at once."""
        telemetry = self._parts.telemetry
        passed, self._unsampled = self._unsampled - 1, 0
        telemetry.traced.skip(passed)
        telemetry.logged.skip(passed)
        if telemetry.traced.due():
            ended_ns = self._parts.clock.now_ms() * 1_000_000
            telemetry.record_span(
                f"GET {ROUTE}", started_ns=ended_ns - int(took_s * 1e9), ended_ns=ended_ns,
                attributes={
                    "atoll.step": DegradationStep.FRESH.value, "atoll.type": ready.type, "atoll.hot": True,
                    "http.response.status_code": status,
                },
            )  # fmt: skip
        if telemetry.logged.due():
            telemetry.log_request(ROUTE, "GET", status, took_s=took_s, request_id=request_id.decode())
        self._sample_at = self._draw()
