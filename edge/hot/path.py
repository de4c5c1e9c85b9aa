"""The decision of the hot path: the bytes that answer a request, or None when it must go the long way.

Sans I/O: bytes in, bytes out. Whatever the long way does for a fresh list is done here too: the token, the caller's
limits, hard filters, what was heard since the entry was made, counters, sampled spans and log lines. The order matters
in one place: a caller's limit is asked last, so that a request that is handed over is not counted twice.

A head that came before (`edge.hot.known`) is not read and its token not looked at again. Its answer is given while
nothing moved that could make it wrong, each of which is one number compared:

    the token's life             `head.expires_s`, against the wall clock's second
    a retired key                forgets every head, at the next second's begin
    something about its subject  unlinks the head (`Ledger.on_subject`)
    anything else that was heard `Ledger.generation`
    the list's own life          `ready.fresh_until_s`, which is over as soon as the cache gives the list up
    the caller's limit           its bucket's `full_at_s`

What moved is then judged in full, as the first time.
"""

import itertools
import math
from dataclasses import dataclass

from edge.cache.invalidation import Ledger
from edge.cache.policy import Standing
from edge.draining import Drain
from edge.hot.heads import AUTHORIZATION, FORWARDED, HOST, LASTING, TAGS, TAIL, HeadReader, lasting_end
from edge.hot.known import UNLINKED, Head, KnownHeads
from edge.hot.patterns import Pattern, Sent, WallSecond
from edge.hot.ready import NOTHING, Offer, Ready, ReadyAnswers
from edge.http.identity import Identities
from edge.http.tags import names_tag
from edge.limits.buckets import CallerLimits
from edge.limits.hot_keys import HotKeys
from edge.metrics import EdgeMetrics
from infra.contracts.messages import DegradationStep, RecommendationType
from infra.plumbing.clock import Clock
from infra.plumbing.http.middleware import RequestStats
from infra.plumbing.ids import RequestIds, is_request_id
from infra.plumbing.tallies import Tally
from infra.plumbing.telemetry import Telemetry

ROUTE = "/v1/recommendations/{type}"
PREFIX = b"/v1/recommendations/"
WINDOWS_PER_ASK = 16
"""How many windows one ask stands for where hot keys are counted: a look at every list would cost too much."""
TRACES_PER_S_MAX = 50
"""Of these answers, which are all alike: what is sampled beyond is counted, not kept. Log lines have the same bound."""
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
    hot_keys: HotKeys


class HotPath:
    """Answers plain requests for lists that went out before. Not for several threads: the event loop's only."""

    def __init__(self, parts: HotParts) -> None:
        self._parts = parts
        self._reader = HeadReader()
        self._second = WallSecond(parts.clock)
        self._ids = RequestIds()
        self._fresh_ids = self._ids.ready
        self.known = KnownHeads()
        self._find, self._ledger, self._drain = parts.answers.get, parts.ledger, parts.drain
        self._ledger.on_subject = self.known.unlink
        self._trust_edition = parts.identities.edition
        self._interval_s = parts.caller_limits.interval_s
        self._monotonic_s = parts.clock.monotonic_s
        self._durations = parts.stats.durations.labels(ROUTE)
        self.handed_over = parts.metrics.hot.labels("handed-over")
        self._tallies = _tallies(parts)
        parts.answers.tally_of = lambda type_, status: self._tallies[type_, status]
        telemetry = parts.telemetry
        self._window = 1 if max(telemetry.traced.ratio, telemetry.logged.ratio) > 1 / (4 * WINDOW) else WINDOW
        self._left = self._window
        self._windows_left = WINDOWS_PER_ASK
        self._traces_left = self._lines_left = TRACES_PER_S_MAX
        self._spared = parts.metrics.hot_spared

    def answer(self, data: bytes, peer: str) -> bytes | None:
        """The answer to the one request that `data` is, or None: then nothing has happened.

        Args:
            data: what one read brought, at the start of a message.
            peer: the address at the other end, whose limit holds for callers that show no token.
        """
        # What is called is taken into a local name first: Python 3.11 looks up `self._clock()` much more slowly.
        clock, second = self._monotonic_s, self._second
        now_s = clock()
        if now_s >= second.ends_s:
            self._begin_second(now_s)
        at = data.rfind(FORWARDED)
        end = at if at >= 0 else lasting_end(data)
        head = self.known.young.get(data[:end])
        tail = TAIL(data, end)
        if head is None or tail is None or (head.tags is not None and tail[1] is not None):
            head = self._read(data, end, now_s)
            if head is None:
                return None
            tags, offered = self._reader.tags or head.tags, self._reader.request_id
        else:
            tags, offered = tail[1] or head.tags, None
        ready = head.ready
        if (
            head.generation != self._ledger.generation
            or now_s >= ready.fresh_until_s
            or second.wall_s >= head.expires_s
        ):
            ready = self._link(head, now_s)
        pattern = ready.full if tags is None else ready.short if tags == ready.etag else _form(ready, tags)
        if pattern is None or self._drain.begun:
            return None
        bucket = head.bucket
        if bucket.full_at_s <= now_s:
            bucket.full_at_s = now_s + self._interval_s
        elif not self._is_allowed(head, peer, now_s):
            return None
        if now_s >= pattern.ends_s:
            pattern.render(ready.entry, now_s, second)
        fresh_ids = self._fresh_ids
        request_id = fresh_ids.pop() if offered is None and fresh_ids else self._named(offered)
        ready.entry.hits += 1
        pattern.tally.count += 1
        self._left -= 1
        if not self._left:
            self._close_window(ready, pattern.status, request_id, now_s)
        return b"".join((pattern.before, request_id, pattern.after, pattern.body))

    def _read(self, data: bytes, end: int, now_s: float) -> Head | None:
        """What a head means that has to be read, in whole or behind `end`; tags and id are then in the reader."""
        lasting = data[:end]
        head = self.known.young.get(lasting) or self.known.older(lasting)
        if head is not None and self._reader.read_tail(data, end, head.kinds):
            return head
        return self._meet(data, end, now_s)

    def _meet(self, data: bytes, end: int, now_s: float) -> Head | None:
        """What a whole head means; remembered up to `end` if it will come again."""
        reader, parts = self._reader, self._parts
        target = reader.read(data)
        if target is None:
            return None
        if reader.token is None:
            subject, caller, expires_s = None, None, math.inf
        else:
            held = parts.identities.recall(reader.token, self._second.epoch_s)
            if held is None:
                return None
            subject, expires_s = held.subject, float(held.principal.expires_s)
            caller = subject or held.principal.sealed_subject
        ready = self._current(target, subject, now_s)
        if ready is None:
            return None
        head = Head(target, ready, subject=subject, caller=caller, expires_s=expires_s)
        kinds = reader.kinds_until(data, end)
        # Whose it is must stand in what is remembered, or another's request could begin with the same bytes.
        needed = HOST if reader.token is None else HOST | AUTHORIZATION
        head.generation = self._stamp()
        if not kinds & ~LASTING and kinds & needed == needed and data[:end] not in self.known.young:
            head.kinds = kinds
            head.tags = reader.tags if kinds & TAGS else None
            self.known.remember(data[:end], head)
        return head

    def _link(self, head: Head, now_s: float) -> Ready:
        """Lead `head` to the answer that holds now; to NOTHING if there is none, or if its token has run out."""
        expired = self._second.wall_s >= head.expires_s
        ready = None if expired else self._current(head.target, head.subject, now_s)
        head.ready, head.generation = (NOTHING, UNLINKED) if ready is None else (ready, self._stamp())
        return head.ready

    def _stamp(self) -> int:
        # While the grid is silent, time alone overtakes a list: every answer is judged then.
        return UNLINKED if self._ledger.silent else self._ledger.generation

    def _current(self, target: bytes, subject: str | None, now_s: float) -> Ready | None:
        ready = self._find((target, subject))
        if ready is None and subject is not None:
            ready = self._find((target, None))
        return ready if ready is not None and self._holds(ready, subject, now_s) else None

    def _is_allowed(self, head: Head, peer: str, now_s: float) -> bool:
        if head.caller is None:
            return self._parts.address_limits.allow(peer, now_s)
        limits = self._parts.caller_limits
        is_allowed = limits.allow(head.caller, now_s)
        head.bucket = limits.bucket(head.caller)
        return is_allowed

    def _begin_second(self, now_s: float) -> None:
        self._second.renew(now_s)
        self._traces_left = self._lines_left = TRACES_PER_S_MAX
        self.known.tick(now_s)
        identities = self._parts.identities
        identities.follow_trust(self._second.epoch_s)
        if identities.edition != self._trust_edition:
            self._trust_edition = identities.edition
            self.known.clear()

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

    def _named(self, offered: bytes | None) -> bytes:
        return offered if offered is not None and is_request_id(offered.decode()) else self._ids.take()

    def _close_window(self, ready: Ready, status: int, request_id: bytes, now_s: float) -> None:
        """Account for a window of answers by its last one: how long they took, and whether one is sampled."""
        window = self._left = self._window
        took_s = self._monotonic_s() - now_s
        self._durations.observe(took_s, window)
        self._windows_left -= 1
        if not self._windows_left:
            self._windows_left = WINDOWS_PER_ASK
            self._parts.hot_keys.note(ready.key, WINDOWS_PER_ASK * window, now_s=now_s)
        telemetry = self._parts.telemetry
        if telemetry.traced.due_within(window):
            if self._traces_left:
                self._traces_left -= 1
                self._record_span(ready, status, took_s)
            else:
                self._spared.labels("span").count += 1
        if telemetry.logged.due_within(window):
            if self._lines_left:
                self._lines_left -= 1
                telemetry.log_request(ROUTE, "GET", status, took_s=took_s, request_id=request_id.decode())
            else:
                self._spared.labels("line").count += 1

    def _record_span(self, ready: Ready, status: int, took_s: float) -> None:
        ended_ns = self._parts.clock.now_ms() * 1_000_000
        self._parts.telemetry.record_span(
            f"GET {ROUTE}", started_ns=ended_ns - int(took_s * 1e9), ended_ns=ended_ns,
            attributes={
                "atoll.step": DegradationStep.FRESH.value, "atoll.type": ready.type, "atoll.hot": True,
                "http.response.status_code": status,
            },
        )  # fmt: skip


def _form(ready: Ready, tags: bytes) -> Pattern | None:
    return ready.short if names_tag(tags.decode(), ready.etag.decode()) else ready.full


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
