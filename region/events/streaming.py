"""From the log to the store to the edges: apply in order, exactly once; then say whose lists are no longer fresh.

Exactly once, at every place where the process may be killed:

* before the store's transaction commits: nothing happened, the batch is read again;
* after it commits, before the invalidations are out: the offset has moved with the data, so the batch is not applied
  again; at the next start the last batch's invalidations are made anew from the log and the store and told again;
* after that: nothing is owed.

Invalidations that the grid does not take are kept (bounded) and told at the next step.

Poison: a record that cannot be read, or whose application fails for a reason of its own, goes to the dead-letter log
first; then the offset moves over it and the others go on.

A batch's span links to the spans of the intakes whose events it applies, so a trace leads from the call that brought
an event to the work that made it count.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from opentelemetry.trace import SpanKind
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from infra.contracts.events import enters_history
from infra.contracts.messages import INVALIDATION_TOPIC, Invalidation
from infra.contracts.residency import encode_regional
from infra.plumbing.clock import Clock
from infra.plumbing.errors import SettingsError, UnavailableError
from infra.plumbing.grid.port import Grid
from infra.plumbing.telemetry import Telemetry
from region.events.dead_letters import DeadLetters
from region.events.port import Log, LogUnavailableError
from region.events.records import SHREDDED, break_record
from region.store.port import AppliedChange, OffsetEvent, Position, Store

BATCH_MAX = 500
"""Events applied together, and the widest span of offsets of one partition among them: so the last batch before a
kill lies in the last BATCH_MAX offsets of each partition, whatever holes a log has."""
PENDING_MAX = 10_000
"""Subjects whose invalidation may wait for the grid; beyond it the oldest are dropped and counted (edges distrust
what they hold when they reconnect, and every list has a time to live)."""
LINKS_MAX = 32
"""Intake spans that the span of a batch links to."""
CONSUMED_MAX = 1000
"""Items that one invalidation names: two of the largest batches."""
_PUBLISH_TOGETHER = 64
_VISIBLE_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 30.0)


class StreamingMetrics:
    """What the worker says about its way through the log."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.applied = Counter("atoll_worker_events_applied", "Events applied to the store.", registry=registry)
        self.poison = Counter(
            "atoll_worker_poison", "Records that could not be applied and went to the dead letters.", registry=registry
        )
        self.published = Counter(
            "atoll_worker_invalidations", "Invalidations by outcome.", ("outcome",), registry=registry
        )
        self.lag = Gauge("atoll_worker_lag_events", "Events in the log that are not applied yet.", registry=registry)
        self.visible = Histogram(
            "atoll_worker_visible_seconds", "Time from an event's receipt until the edges were told.",
            buckets=_VISIBLE_BUCKETS_S, registry=registry,
        )  # fmt: skip


class Streaming:
    """One consumer of the region's log. Call `start` once, then `step` for ever.

    Args:
        log: read in order, every partition of it.
        store: applied to; its offsets are the only memory.
        grid: where invalidations are told.
        clock: for what the metrics say.
        registry: for the metrics.
        dead_letters: where poison goes; None: poison stops the worker.
        telemetry: for the spans; None: no spans.
    """

    def __init__(
        self, *, log: Log, store: Store, grid: Grid, clock: Clock, registry: CollectorRegistry,
        dead_letters: DeadLetters | None = None, telemetry: Telemetry | None = None,
    ) -> None:  # fmt: skip
        self._dead_letters = dead_letters
        self._telemetry = telemetry
        self._log = log
        self._store = store
        self._grid = grid
        self._clock = clock
        self._metrics = StreamingMetrics(registry)
        self._position: dict[int, int] = {}
        self._pending: dict[str, AppliedChange] = {}

    async def start(self) -> None:
        """Find the place in the log, and owe the last batch's invalidations again.

        Raises:
            SettingsError: the store is ahead of the log: one of the two files belongs to another state.
            UnavailableError: the store or the log does not answer.
        """
        applied, last = await self._store.applied_offsets(), await self._log.last_offsets()
        for partition, offset in applied.items():
            if offset > last.get(partition, 0):
                raise SettingsError(
                    f"the store has applied partition {partition} of the log up to {offset}, but it ends at"
                    f" {last.get(partition, 0)}.",
                    fix="Restore the log that belongs to this store, or start both from an empty state directory.",
                )
        self._position = dict.fromkeys(last, 0) | applied
        self._owe(await self._changes_again(self._position))

    async def step(self) -> int:
        """Read a batch, apply it, tell the edges. Returns how many events it was.

        Raises:
            UnavailableError: the store or the log does not answer; call again later, nothing is lost.
        """
        events = _within_span(await self._log.read(after=self._position, limit=BATCH_MAX))
        if events:
            with self._span(events):
                self._owe(await self._apply(events))
            self._position |= {event.partition: event.offset for event in events}
            self._metrics.applied.inc(len(events))
        await self.publish_pending()
        if events:
            now_ms = self._clock.now_ms()
            for event in events:
                if not event.broken:
                    self._metrics.visible.observe((now_ms - event.logged.received_ms) / 1000)
            # Nobody's list waits for this.
            last = await self._log.last_offsets()
            self._metrics.lag.set(sum(last.values()) - sum(self._position.values()))
        return len(events)

    async def _apply(self, events: Sequence[OffsetEvent]) -> list[AppliedChange]:
        """Apply a batch; what of it is poison is put aside, in its turn.

        Raises:
            UnavailableError: a part does not answer; nothing is lost.
        """
        await self._put_aside([event for event in events if event.broken and event.broken != SHREDDED])
        try:
            return await self._store.apply(events)
        except UnavailableError:
            raise
        except Exception:
            if self._dead_letters is None:
                raise
        changes: list[AppliedChange] = []
        for event in events:
            changes += await self._apply_alone(event)
        return changes

    async def _apply_alone(self, event: OffsetEvent) -> list[AppliedChange]:
        try:
            return await self._store.apply([event])
        except UnavailableError:
            raise
        except Exception as error:  # whatever it is, it is about this event: it went well without
            # The words of an error may hold what the event says; its kind does not.
            broken = break_record(event, f"it could not be applied: {type(error).__name__}")
        await self._put_aside([broken])
        return await self._store.apply([broken])

    async def _put_aside(self, broken: Sequence[OffsetEvent]) -> None:
        if not broken:
            return
        if self._dead_letters is None:
            raise LogUnavailableError(f"the record at offset {broken[0].offset} is broken: {broken[0].broken}.")
        await self._dead_letters.add(broken, now_ms=self._clock.now_ms())
        self._metrics.poison.inc(len(broken))

    def _span(self, events: Sequence[OffsetEvent]) -> AbstractContextManager[Any]:
        """A span around the batch; without a kept intake span it is the sampler's choice."""
        if self._telemetry is None:
            return nullcontext()
        parents = dict.fromkeys(event.logged.traceparent for event in events if event.logged.traceparent)
        return self._telemetry.span(
            "apply events", kind=SpanKind.CONSUMER, attributes={"atoll.events": len(events)},
            traceparents=tuple(parents)[:LINKS_MAX],
        )  # fmt: skip

    async def publish_pending(self) -> None:
        """Tell what is owed, a bounded number at a time; what the grid does not take stays owed."""
        while self._pending:
            changes = list(self._pending.values())[:_PUBLISH_TOGETHER]
            outcomes = await asyncio.gather(*(self._publish(change) for change in changes))
            for change, told in zip(changes, outcomes, strict=True):
                if told:
                    del self._pending[change.subject]
            self._metrics.published.labels("told").inc(sum(outcomes))
            if not all(outcomes):
                self._metrics.published.labels("put off").inc(len(outcomes) - sum(outcomes))
                return

    async def _publish(self, change: AppliedChange) -> bool:
        message = Invalidation(subject=change.subject, subject_version=change.version, consumed=change.consumed)
        try:
            await self._grid.publish(INVALIDATION_TOPIC, encode_regional(message))
        except UnavailableError:
            return False
        return True

    def _owe(self, changes: Sequence[AppliedChange]) -> None:
        for change in changes:
            earlier = self._pending.pop(change.subject, None)
            self._pending[change.subject] = change if earlier is None else _merge(earlier, change)
        while len(self._pending) > PENDING_MAX:
            del self._pending[next(iter(self._pending))]
            self._metrics.published.labels("dropped").inc()

    async def _changes_again(self, applied: Position) -> list[AppliedChange]:
        """The changes of the last applied batch, or of a few more, as they stand now."""
        consumed: dict[str, list[str]] = {}
        for partition, offset in applied.items():
            events = await self._log.read(after={partition: max(0, offset - BATCH_MAX)}, limit=BATCH_MAX)
            for record in events:
                if record.offset <= offset and not record.broken:
                    items = consumed.setdefault(record.logged.subject, [])
                    items.extend(_consumed_by(record))
        changes: list[AppliedChange] = []
        for subject, items in consumed.items():
            row = await self._store.read(subject)
            if row is not None and not row.opted_out:
                changes.append(
                    AppliedChange(subject=subject, version=row.version, consumed=tuple(dict.fromkeys(items)))
                )
        return changes


def _within_span(events: Sequence[OffsetEvent]) -> list[OffsetEvent]:
    """Those that lie less than BATCH_MAX offsets behind the first of their partition."""
    first: dict[int, int] = {}
    for event in events:
        first.setdefault(event.partition, event.offset)
    return [event for event in events if event.offset < first[event.partition] + BATCH_MAX]


def _consumed_by(record: OffsetEvent) -> list[str]:
    return [record.logged.event.item] if enters_history(record.logged.event.type) else []


def _merge(earlier: AppliedChange, later: AppliedChange) -> AppliedChange:
    return AppliedChange(
        subject=later.subject,
        version=max(earlier.version, later.version),
        consumed=tuple(dict.fromkeys((*earlier.consumed, *later.consumed)))[-CONSUMED_MAX:],
    )
