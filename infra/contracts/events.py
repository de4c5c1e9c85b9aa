"""Feedback events: what a caller may report, how strongly each counts, how it is acknowledged (MISSION A5)."""

import re

from infra.contracts.event_weights import (
    DEFAULT_WEIGHTS,
    STRENGTH_LEVELS,
    EventType,
    EventWeights,
    enters_history,
    event_strength,
    parse_weights,
)
from infra.contracts.residency import Device, DeviceRecord, Global, GlobalMessage, Regional, RegionalMessage

__all__ = [
    "DEFAULT_WEIGHTS",
    "EVENTS_PER_BATCH_MAX",
    "EVENT_ID_PATTERN",
    "FOLLOWED_KINDS",
    "SCHEMA_VERSION",
    "STRENGTH_LEVELS",
    "UNLABELLED",
    "Event",
    "EventAck",
    "EventBatch",
    "EventType",
    "EventWeights",
    "ExposureCount",
    "ItemLabels",
    "LoggedEvent",
    "RejectedEvent",
    "SensitiveEvent",
    "enters_history",
    "event_strength",
    "followed",
    "parse_weights",
]  # fmt: skip

EVENTS_PER_BATCH_MAX = 500
EVENT_ID_PATTERN = re.compile(r"[A-Za-z0-9_.:-]{8,64}")
SCHEMA_VERSION = "1.2"
"""Major and minor of what producers send. Within a major fields and types are only added; see
`infra.contracts.event_schema`."""


class Event(RegionalMessage, frozen=True, kw_only=True, omit_defaults=True):
    """One event of one subject. `event_id` makes it idempotent: the same id counts once."""

    event_id: Regional[str]
    type: Regional[EventType]
    item: Regional[str] = ""
    """Empty for a search, a follow and an unfollow only."""
    at_ms: Regional[int]
    value: Regional[float | None] = None
    """A rating from 1 to 5, or the watched share from 0 to 1."""
    request_id: Regional[str | None] = None
    query: Regional[str | None] = None
    """What was searched for: kept in the region's log, in no feature, and it never leaves the region."""
    follows: Regional[str | None] = None
    """What is followed, or not any more: `category:NAME`, `brand:NAME` or `creator:NAME`."""


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


class ItemLabels(GlobalMessage, frozen=True, kw_only=True, omit_defaults=True):
    """What the region's catalogue said of an item at one moment, as far as features are made of it."""

    categories: Global[tuple[str, ...]] = ()
    brand: Global[str] = ""
    creator: Global[str] = ""


UNLABELLED = ItemLabels()
FOLLOWED_KINDS = ("category", "brand", "creator")


def followed(target: str) -> tuple[str, str] | None:
    """Kind and name of something that can be followed; None when it is not written like one."""
    kind, _, name = target.partition(":")
    return (kind, name) if kind in FOLLOWED_KINDS and name else None


class LoggedEvent(RegionalMessage, frozen=True, kw_only=True, omit_defaults=True):
    """One record of the region's log: everything that features are made of, so that they can be made again from it."""

    subject: Regional[str]
    event: Regional[Event]
    received_ms: Regional[int]
    labels: Regional[ItemLabels] = UNLABELLED
    """Of the event's item when it was taken: a later catalogue does not change what was learned."""
    traceparent: Regional[str] = ""
    """The intake's span (W3C Trace Context), when it is kept: the worker's span links to it."""


class SensitiveEvent(DeviceRecord, frozen=True, kw_only=True):
    """An event that stays on the phone: it trains the phone's own part and is never sent."""

    item: Device[str]
    strength: Device[int]
    at_ms: Device[int]


class ExposureCount(GlobalMessage, frozen=True, kw_only=True):
    """An aggregate that may leave the region: how often an item was shown, over at least `k` subjects."""

    item: Global[str]
    impressions: Global[int]
