"""What an edge answers, as its clients see it. Fields that a newer edge adds are passed over."""

from dataclasses import dataclass, field
from typing import Any

import msgspec


class Reason(msgspec.Struct, frozen=True):
    """Why an item is there: a code for programs, a sentence for people."""

    code: str
    text: str


class ListItem(msgspec.Struct, frozen=True):
    """One recommended item. `score` compares within one list only."""

    item: str
    score: float
    reason: Reason
    source: str = ""
    title: str = ""


class ListBody(msgspec.Struct, frozen=True):
    """The body of a page."""

    items: tuple[ListItem, ...]
    release: str
    region: str
    arm: str = "control"
    personal: bool = False
    next: str | None = None
    degraded: tuple[str, ...] = ()
    trace: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPage:
    """One page, and how it came about.

    step: the rung of the ladder that produced it (`fresh`, `home`, `failover`, ...).
    next: the cursor of the page behind; None on the last.
    from_cache: it was not sent again: this client held it, fresh or confirmed by the edge (304).
    """

    items: tuple[ListItem, ...]
    step: str
    release: str
    region: str
    arm: str
    personal: bool
    next: str | None
    degraded: tuple[str, ...]
    request_id: str
    age_s: int = 0
    from_cache: bool = False
    trace: tuple[dict[str, Any], ...] = field(default=())


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What happened. The same `event_id` counts once, so an event may be sent again."""

    event_id: str
    type: str
    item: str = ""
    at_ms: int
    value: float | None = None
    request_id: str | None = None
    follows: str | None = None
    """Of `follow` and `unfollow` (which have no item): `category:NAME`, `brand:NAME` or `creator:NAME`."""


class RejectedEvent(msgspec.Struct, frozen=True):
    """Why the event at `index` was not taken."""

    index: int
    reason: str


class Ack(msgspec.Struct, frozen=True):
    """Said when everything accepted is durable."""

    accepted: int
    duplicates: int
    rejected: tuple[RejectedEvent, ...] = ()


class ChoiceItem(msgspec.Struct, frozen=True):
    """One item to be liked, or not."""

    item: str
    title: str = ""


class ChoiceCategory(msgspec.Struct, frozen=True):
    """A category to be followed, and some of its items."""

    category: str
    items: tuple[ChoiceItem, ...] = ()


class Choices(msgspec.Struct, frozen=True):
    """What somebody new may choose from."""

    categories: tuple[ChoiceCategory, ...]
    release: str = ""
    region: str = ""
    degraded: tuple[str, ...] = ()


class Suggestion(msgspec.Struct, frozen=True):
    """One suggestion: an `item` (with its id), a `category` or a `brand`."""

    kind: str
    text: str
    item: str = ""


class Suggestions(msgspec.Struct, frozen=True):
    """What a few letters may mean; `meant` is what was searched for when a typo was corrected."""

    suggestions: tuple[Suggestion, ...]
    meant: str = ""
    release: str = ""
    region: str = ""
    personal: bool = False
    degraded: tuple[str, ...] = ()


class BulkItem(msgspec.Struct, frozen=True):
    """One subject's answer of a bulk call; `detail` says what was wrong where `status` is not 200."""

    index: int
    status: int
    items: tuple[ListItem, ...] = ()
    release: str = ""
    step: str | None = None
    degraded: tuple[str, ...] = ()
    detail: str = ""
