"""What callers send and get, as message types: the OpenAPI document's schemas are made of these."""

from typing import Annotated

import msgspec
from msgspec import Meta

from edge.calls import PAGE_MAX, PAGE_SIZES
from edge.http.parameters import EXCLUDE_MAX, LOCALE, Name
from infra.contracts.discovery import ONBOARDING_MAX
from infra.contracts.events import EVENTS_PER_BATCH_MAX, Event
from infra.contracts.messages import DegradationStep, SlateItem, StageTrace, Surface


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


class BulkLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of a bulk call: for whom, and how much."""

    user: Annotated[str, Meta(min_length=1, max_length=256)]
    n: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = PAGE_SIZES[Surface.EMAIL]
    category: Name | None = None
    exclude: Annotated[tuple[Name, ...], Meta(max_length=EXCLUDE_MAX)] = ()
    locale: Annotated[str, Meta(pattern=LOCALE)] = "en"
    country: Annotated[str, Meta(pattern="^([A-Za-z]{2})?$")] = ""


class BulkResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a bulk answer. `index` counts lines from 0; `problem` and `detail` say what was wrong."""

    index: int
    status: int
    items: tuple[SlateItem, ...] = ()
    release: str = ""
    step: DegradationStep | None = None
    degraded: tuple[str, ...] = ()
    problem: str = ""
    detail: str = ""


class CallerEvents(msgspec.Struct, frozen=True, kw_only=True):
    """Events, and nothing that says whose they are. Fields that only a newer minor of the schema knows are left out."""

    events: Annotated[list[Event], Meta(min_length=1, max_length=EVENTS_PER_BATCH_MAX)]
    schema_version: Annotated[str, Meta(description="Major and minor of the events' schema.")] = "1.0"


Names = Annotated[tuple[Name, ...], Meta(max_length=ONBOARDING_MAX)]


class CallerOnboarding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What somebody new chose: items liked and not, and categories, brands and creators to follow."""

    likes: Names = ()
    dislikes: Names = ()
    categories: Names = ()
    brands: Names = ()
    creators: Names = ()


class CallerChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A caller's choice about personal lists."""

    opted_out: bool


class ChoiceBody(msgspec.Struct, frozen=True, kw_only=True):
    """The choice that holds now."""

    opted_out: bool
