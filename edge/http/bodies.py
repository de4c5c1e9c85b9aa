"""What callers send and get, as message types: the OpenAPI document's schemas are made of these."""

from typing import Annotated

import msgspec
from msgspec import Meta

from infra.contracts.events import EVENTS_PER_BATCH_MAX, Event
from infra.contracts.messages import SlateItem, StageTrace


class ListBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """One page of a list."""

    type: str
    surface: str
    items: tuple[SlateItem, ...]
    release: str
    region: str
    arm: str
    personal: bool
    generated_at_ms: int
    next: Annotated[str | None, Meta(description="The cursor of the page behind this one; null on the last.")]
    degraded: Annotated[tuple[str, ...], Meta(description="What did not take part, each in a word.")]
    trace: tuple[StageTrace, ...] | msgspec.UnsetType = msgspec.UNSET


class CallerEvents(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Events, and nothing that says whose they are."""

    events: Annotated[list[Event], Meta(min_length=1, max_length=EVENTS_PER_BATCH_MAX)]


class CallerChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A caller's choice about personal lists."""

    opted_out: bool


class ChoiceBody(msgspec.Struct, frozen=True, kw_only=True):
    """The choice that holds now."""

    opted_out: bool
