"""The door for events: what is taken, what is refused and why, and when it is acknowledged.

The check is a pure function of the batch and the time. An event is acknowledged only after the log has it on disk;
waking the worker is a courtesy behind the acknowledgement, whose failure delays the next list a little.
"""

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram

from infra.contracts.event_schema import ReadBatch, parse_version, whole_ack
from infra.contracts.events import (
    EVENT_ID_PATTERN,
    EVENTS_PER_BATCH_MAX,
    SCHEMA_VERSION,
    UNLABELLED,
    Event,
    EventAck,
    EventBatch,
    EventType,
    ItemLabels,
    LoggedEvent,
    RejectedEvent,
    followed,
)
from infra.plumbing.clock import Clock
from infra.plumbing.errors import AtollError, InvalidInputError
from infra.plumbing.telemetry import DURATION_BUCKETS_S, current_traceparent
from infra.plumbing.text import is_typed
from region.events.port import Log
from region.store.subjects import is_subject

ITEM_ID_LENGTH_MAX = 128
QUERY_LENGTH_MAX = 256
REQUEST_ID_LENGTH_MAX = 64
FOLLOWS_LENGTH_MAX = 160
FUTURE_MAX_MS = 5 * 60_000
AGE_MAX_MS = 2 * 365 * 86_400_000
_FOLLOWS = frozenset({EventType.FOLLOW, EventType.UNFOLLOW})
_VALUE_RANGES: dict[EventType, tuple[float, float]] = {EventType.RATING: (1.0, 5.0), EventType.WATCH: (0.0, 1.0)}


@dataclass(frozen=True, slots=True)
class CheckedBatch:
    """A batch after the check: its subject, the events that may be logged, and why the others may not."""

    subject: str
    events: tuple[Event, ...]
    rejected: tuple[RejectedEvent, ...]


def check_batch(batch: EventBatch, *, now_ms: int) -> CheckedBatch:
    """Part the batch into events that may be logged and events that may not.

    Raises:
        InvalidInputError: the batch as a whole cannot be used: its version, its size or its subject.
    """
    if not _is_known(batch.schema_version):
        raise InvalidInputError(
            "the events' schema version is not known here.",
            fix=f"Send version {SCHEMA_VERSION} or another of its major.",
        )
    if not batch.events:
        raise InvalidInputError("the batch holds no events.", fix=f"Send 1 to {EVENTS_PER_BATCH_MAX}.")
    if len(batch.events) > EVENTS_PER_BATCH_MAX:
        raise InvalidInputError(
            f"the batch holds {len(batch.events)} events.", fix=f"Send at most {EVENTS_PER_BATCH_MAX} at a time."
        )
    if batch.subject is None or not is_subject(batch.subject):
        raise InvalidInputError("the batch has no subject of this region.", fix="Send it through an edge.")
    reasons = [reason_against(event, now_ms) for event in batch.events]
    return CheckedBatch(
        subject=batch.subject,
        events=tuple(event for event, reason in zip(batch.events, reasons, strict=True) if reason is None),
        rejected=tuple(
            RejectedEvent(index=index, reason=reason) for index, reason in enumerate(reasons) if reason is not None
        ),
    )


def _is_known(version: str) -> bool:
    """Whether a batch of this version can be read: any minor of our major."""
    try:
        return parse_version(version)[0] == parse_version(SCHEMA_VERSION)[0]
    except ValueError:
        return False


def reason_against(event: Event, now_ms: int) -> str | None:
    """Why an event may not be logged; None when it may. Never repeats what was sent."""
    if EVENT_ID_PATTERN.fullmatch(event.event_id) is None:
        return "event_id must be 8 to 64 letters, digits or any of _.:-"
    reason = _reason_against_object(event)
    if reason is not None:
        return reason
    if event.request_id is not None and not _is_short_text(event.request_id, REQUEST_ID_LENGTH_MAX):
        return f"request_id must be 1 to {REQUEST_ID_LENGTH_MAX} printable characters"
    return _reason_against_time(event.at_ms, now_ms) or _reason_against_value(event)


def _reason_against_object(event: Event) -> str | None:
    """A search has a query and may name the item that was chosen, a follow says what; every other has an item."""
    if event.type is EventType.SEARCH:
        if event.query is None or not _is_typed(event.query, QUERY_LENGTH_MAX):
            return f"query must be 1 to {QUERY_LENGTH_MAX} printable characters"
        if event.item == "":
            return None
    elif event.query is not None:
        return "query belongs to searches only"
    if event.follows is not None or event.type in _FOLLOWS:
        return _reason_against_follow(event)
    if not _is_short_text(event.item, ITEM_ID_LENGTH_MAX):
        return f"item must be 1 to {ITEM_ID_LENGTH_MAX} printable characters"
    return None


def _reason_against_follow(event: Event) -> str | None:
    target = event.follows or ""
    if event.type not in _FOLLOWS:
        return "follows belongs to follow and unfollow only"
    if followed(target) is None or not _is_typed(target, FOLLOWS_LENGTH_MAX):
        return f"follows must be category:, brand: or creator: and a name, at most {FOLLOWS_LENGTH_MAX} characters"
    return "item does not belong to follow and unfollow" if event.item else None


def _is_short_text(text: str, length_max: int) -> bool:
    return 0 < len(text) <= length_max and text.isprintable()


def _is_typed(text: str, length_max: int) -> bool:
    """Of what people write, and of names in a catalogue: more than Python takes for printable."""
    return 0 < len(text) <= length_max and is_typed(text)


def _reason_against_time(at_ms: int, now_ms: int) -> str | None:
    if at_ms > now_ms + FUTURE_MAX_MS:
        return "at_ms is more than 5 minutes in the future; it is Unix time in milliseconds"
    if at_ms < now_ms - AGE_MAX_MS:
        return "at_ms is more than 2 years ago; it is Unix time in milliseconds"
    return None


def _reason_against_value(event: Event) -> str | None:
    if event.value is None:
        return None
    bounds = _VALUE_RANGES.get(event.type)
    if bounds is None:
        return "value belongs to ratings and watches only"
    low, high = bounds
    # Written so that NaN, which compares false with everything, is refused.
    return None if low <= event.value <= high else f"value of a {event.type.value} must be from {low:g} to {high:g}"


class Intake:
    """Takes batches: check, log, acknowledge, wake the worker.

    Args:
        log: where accepted events become durable.
        clock: the time of receipt.
        wake: called after every append; must not block nor raise (see `region.events.waking.Waker`).
        registry: where counts and times are kept.
        labels: what the catalogue says of an item now; it goes into the log beside the event.
    """

    def __init__(
        self, *, log: Log, clock: Clock, wake: Callable[[], None], registry: CollectorRegistry,
        labels: Callable[[str], ItemLabels] = lambda _item: UNLABELLED,
    ) -> None:  # fmt: skip
        self._log = log
        self._clock = clock
        self._wake = wake
        self._labels = labels
        self._events = Counter(
            "atoll_intake_events", "Events offered, by outcome.", ("outcome",), registry=registry
        )  # fmt: skip
        self._unknown_fields = Counter(
            "atoll_intake_unknown_fields", "Fields that only a newer schema knows; they were left out.",
            registry=registry,
        )  # fmt: skip
        self._refused = Counter(
            "atoll_intake_batches_refused", "Batches not taken as a whole, by error.", ("error",), registry=registry
        )
        self._seconds = Histogram(
            "atoll_intake_ack_seconds", "Time from a checked batch to its durable acknowledgement.",
            buckets=DURATION_BUCKETS_S, registry=registry,
        )  # fmt: skip

    async def take(self, batch: EventBatch) -> EventAck:
        """Make the batch durable and say what became of each event.

        Raises:
            InvalidInputError: the batch as a whole cannot be used.
            OverloadedError: too many events wait for the disk; nothing was taken.
            LogUnavailableError: the log did not commit; nothing is acknowledged, sending again is safe.
        """
        try:
            return await self._take(batch)
        except AtollError as error:
            self._refused.labels(type(error).__name__).inc()
            raise

    async def take_read(self, read: ReadBatch) -> EventAck:
        """Take what this version knows of a batch; what it does not know is counted and told. Raises as `take` does."""
        self._unknown_fields.inc(read.unknown_fields)
        self._events.labels("rejected").inc(len(read.rejected))
        if read.rejected and not read.batch.events:
            return EventAck(accepted=0, duplicates=0, rejected=read.rejected)
        return whole_ack(await self.take(read.batch), read)

    async def _take(self, batch: EventBatch) -> EventAck:
        now_ms = self._clock.now_ms()
        checked = check_batch(batch, now_ms=now_ms)
        accepted = duplicates = 0
        if checked.events:
            started_s = self._clock.monotonic_s()
            result = await self._log.append(self._records(checked, now_ms))
            self._seconds.observe(self._clock.monotonic_s() - started_s)
            accepted, duplicates = result.accepted, result.duplicates
            self._wake()
        for outcome, count in (("accepted", accepted), ("duplicate", duplicates), ("rejected", len(checked.rejected))):
            self._events.labels(outcome).inc(count)
        return EventAck(accepted=accepted, duplicates=duplicates, rejected=checked.rejected)

    def _records(self, checked: CheckedBatch, now_ms: int) -> list[LoggedEvent]:
        traceparent = current_traceparent()
        return [
            LoggedEvent(
                subject=checked.subject, event=event, received_ms=now_ms, labels=self._labels(event.item),
                traceparent=traceparent,
            )
            for event in checked.events
        ]  # fmt: skip
