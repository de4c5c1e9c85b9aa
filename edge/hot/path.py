"""The decision of the hot path: the bytes that answer a request, or None when it must go the long way.

Sans I/O: bytes in, bytes out. Whatever the long way does for a fresh list is done here too: the token, the caller's
limits, hard filters, what was heard since the entry was made, counters, sampled spans and log lines. The order matters
in one place: a caller's limit is asked last, so that a request that is handed over is not counted twice.
"""

import itertools
from dataclasses import dataclass

from edge.cache.invalidation import Ledger
from edge.cache.policy import Standing
from edge.draining import Drain
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
from infra.plumbing.tallies import Tally
from infra.plumbing.telemetry import Telemetry

ROUTE = "/v1/recommendations/{type}"
PREFIX = b"/v1/recommendations/"
WINDOW = 16
"""Answers that are accounted for together: the last one's duration stands for all, and at most one is sampled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HotParts:
    """What the hot path shares with the long way."""

    identities: Identities
    caller_limits: CallerLimits
    address_limits: CallerLimits
    ledger: Ledger
    drain: Drain
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
        self._ids = RequestIds()
        self._find, self._ledger, self._drain = parts.answers.get, parts.ledger, parts.drain
        self._recall = parts.identities.recall
        self._caller_allowed, self._address_allowed = parts.caller_limits.allow, parts.address_limits.allow
        self._monotonic_s = parts.clock.monotonic_s
        self._durations = parts.stats.durations.labels(ROUTE)
        self.handed_over = parts.metrics.hot.labels("handed-over")
        self._tallies = _tallies(parts)
        parts.answers.tally_of = lambda type_, status: self._tallies[type_, status]
        telemetry = parts.telemetry
        self._window = 1 if max(telemetry.traced.ratio, telemetry.logged.ratio) > 1 / (4 * WINDOW) else WINDOW
        self._left = self._window

    def answer(self, data: bytes, peer: str) -> bytes | None:
        """The answer to the one request that `data` is, or None: then nothing has happened.

        Args:
            data: what one read brought, at the start of a message.
            peer: the address at the other end, whose limit holds for callers that show no token.
        """
        reader = self._reader
        target = reader.read(data)
        if target is None or self._drain.begun:
            return None
        now_s = self._monotonic_s()
        second = self._second
        if now_s >= second.ends_s:
            second.renew(now_s)
        token = reader.token
        if token is None:
            owner = None
            ready = self._find((target, None))
            allowed, caller = self._address_allowed, peer
        else:
            held = self._recall(token, second.epoch_s)
            if held is None:
                return None
            owner = held.subject
            ready = self._find((target, owner)) or self._find((target, None))
            allowed, caller = self._caller_allowed, owner or held.principal.sealed_subject
        if ready is None or not self._holds(ready, owner, now_s):
            return None
        pattern = ready.full if reader.tags is None else self._form(ready, reader.tags)
        if pattern is None or not allowed(caller, now_s):
            return None
        if now_s >= pattern.ends_s:
            pattern.render(ready.entry, now_s, second)
        request_id = self._ids.take() if reader.request_id is None else self._named(reader.request_id)
        ready.entry.hits += 1
        pattern.tally.count += 1
        self._left -= 1
        if not self._left:
            self._close_window(ready, pattern.status, request_id, now_s)
        return b"".join((pattern.before, request_id, pattern.after, pattern.body))

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

    def _named(self, offered: bytes) -> bytes:
        return offered if is_request_id(offered.decode()) else self._ids.take()

    def _close_window(self, ready: Ready, status: int, request_id: bytes, now_s: float) -> None:
        """Account for a window of answers by its last one: how long they took, and whether one is sampled."""
        window = self._left = self._window
        took_s = self._monotonic_s() - now_s
        self._durations.observe(took_s, window)
        telemetry = self._parts.telemetry
        if telemetry.traced.due_within(window):
            ended_ns = self._parts.clock.now_ms() * 1_000_000
            telemetry.record_span(
                f"GET {ROUTE}", started_ns=ended_ns - int(took_s * 1e9), ended_ns=ended_ns,
                attributes={
                    "atoll.step": DegradationStep.FRESH.value, "atoll.type": ready.type, "atoll.hot": True,
                    "http.response.status_code": status,
                },
            )  # fmt: skip
        if telemetry.logged.due_within(window):
            telemetry.log_request(ROUTE, "GET", status, took_s=took_s, request_id=request_id.decode())


def _tallies(parts: HotParts) -> dict[tuple[str, int], Tally]:
    """One tally per type and status, each a part of every series that the long way counts such an answer in."""
    tallies: dict[tuple[str, int], Tally] = {}
    for type_, status in itertools.product(RecommendationType, (200, 304)):
        tally = tallies[type_.value, status] = Tally()
        series = [
            parts.metrics.answers.labels(DegradationStep.FRESH.value, type_.value),
            parts.stats.requests.labels(ROUTE, "GET", str(status)),
            parts.metrics.hot.labels("answered"),
        ]
        for whole in series if status == 200 else [*series, parts.metrics.not_modified]:
            whole.parts.append(tally)
    return tallies
