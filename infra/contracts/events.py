"""Feedback events: what a caller may report, how strongly each counts, how it is acknowledged (MISSION A5)."""

import enum
import re

from infra.contracts.residency import Device, DeviceRecord, Global, GlobalMessage, Regional, RegionalMessage

EVENTS_PER_BATCH_MAX = 500
EVENT_ID_PATTERN = re.compile(r"[A-Za-z0-9_.:-]{8,64}")


class EventType(enum.StrEnum):
    """What happened between a person and an item."""

    IMPRESSION = "impression"
    VIEW = "view"
    CLICK = "click"
    WATCH = "watch"
    RATING = "rating"
    LIKE = "like"
    DISLIKE = "dislike"
    SKIP = "skip"
    CART = "cart"
    PURCHASE = "purchase"


class Event(RegionalMessage, frozen=True, kw_only=True):
    """One event of one subject. `event_id` makes it idempotent: the same id counts once."""

    event_id: Regional[str]
    type: Regional[EventType]
    item: Regional[str]
    at_ms: Regional[int]
    value: Regional[float | None] = None
    """A rating from 1 to 5, or the watched share from 0 to 1."""
    request_id: Regional[str | None] = None


class EventBatch(RegionalMessage, frozen=True, kw_only=True):
    """Events of one subject. `subject` is filled in by the edge from the verified token, never by the caller."""

    events: Regional[tuple[Event, ...]]
    subject: Regional[str | None] = None
    schema_version: Global[str] = "1.0"


class RejectedEvent(RegionalMessage, frozen=True, kw_only=True):
    """Why the event at `index` of the batch was not taken."""

    index: Global[int]
    reason: Global[str]


class EventAck(RegionalMessage, frozen=True, kw_only=True):
    """Said only after everything accepted is durable."""

    accepted: Global[int]
    duplicates: Global[int]
    rejected: Regional[tuple[RejectedEvent, ...]] = ()


class LoggedEvent(RegionalMessage, frozen=True, kw_only=True):
    """One record of the region's log."""

    subject: Regional[str]
    event: Regional[Event]
    received_ms: Regional[int]


class SensitiveEvent(DeviceRecord, frozen=True, kw_only=True):
    """An event that stays on the phone: it trains the phone's own part and is never sent."""

    item: Device[str]
    strength: Device[int]
    at_ms: Device[int]


class ExposureCount(GlobalMessage, frozen=True, kw_only=True):
    """An aggregate that may leave the region: how often an item was shown, over at least `k` subjects."""

    item: Global[str]
    impressions: Global[int]


STRENGTH_LEVELS = 8
"""Strengths are whole numbers from 0 (padding) to STRENGTH_LEVELS - 1."""

_STRENGTH: dict[EventType, int] = {
    EventType.IMPRESSION: 6,
    EventType.VIEW: 3,
    EventType.CLICK: 4,
    EventType.WATCH: 4,
    EventType.LIKE: 5,
    EventType.DISLIKE: 1,
    EventType.SKIP: 2,
    EventType.CART: 5,
    EventType.PURCHASE: 5,
}


def event_strength(event_type: EventType, value: float | None) -> int:
    """Strength of an event as the user tower reads it: 1 (dislike) to 5 (love); ratings are rounded.

    6 marks an impression; 7 is kept for events of unknown strength.
    """
    if event_type is EventType.RATING:
        return 7 if value is None else min(5, max(1, round(value)))
    if event_type is EventType.WATCH and value is not None:
        return 2 if value < 0.2 else 3 if value < 0.6 else 5
    return _STRENGTH[event_type]


def enters_history(event_type: EventType) -> bool:
    """Whether an event of this type becomes part of the history that the user tower reads.

    Impressions and skips count as features of their own; they are not interactions.
    """
    return event_type not in (EventType.IMPRESSION, EventType.SKIP)
