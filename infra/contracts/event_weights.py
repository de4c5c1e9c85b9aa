"""Types of events and what each says about interest: a checked file of weights, and the strengths the towers read."""

import enum
from pathlib import Path
from typing import Annotated

import msgspec

from infra.contracts.residency import Global, GlobalMessage

STRENGTH_LEVELS = 8
"""Strengths are whole numbers from 0 (padding) to STRENGTH_LEVELS - 1."""


class EventType(enum.StrEnum):
    """What happened between a person and an item, or between a person and the search field."""

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
    SEARCH = "search"
    FOLLOW = "follow"
    """The subject wants to hear of a category, brand or creator (`Event.follows`)."""
    UNFOLLOW = "unfollow"


_SINCE_1_2 = (EventType.FOLLOW, EventType.UNFOLLOW)
"""Types that a file of weights need not list: regions have files from before they were there."""


Strength = Annotated[int, msgspec.Meta(ge=1, lt=STRENGTH_LEVELS)]
AffinityWeight = Annotated[float, msgspec.Meta(ge=-5.0, le=5.0)]
TrendPoints = Annotated[int, msgspec.Meta(ge=0, le=100)]


class Effect(GlobalMessage, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one event says; the numbers are explained in `event_weights.toml`."""

    strength: Global[Strength]
    affinity: Global[AffinityWeight]
    trend: Global[TrendPoints]


class Level(Effect, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The effect of values under `below`; without it, of all others."""

    below: Global[float | None] = None


class TypeEffect(Effect, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The effect of a type of event, parted by its value where it has levels."""

    levels: Global[tuple[Level, ...]] = ()

    def of(self, value: float | None) -> Effect:
        """The effect of one event of this type."""
        if value is not None:
            for level in self.levels:
                if level.below is None or value < level.below:
                    return level
        return self


class EventWeights(GlobalMessage, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A checked file of weights (`parse_weights`)."""

    version: Global[Annotated[int, msgspec.Meta(ge=1, le=1)]]
    events: Global[dict[EventType, TypeEffect]]

    def of(self, event_type: EventType, value: float | None) -> Effect:
        """The effect of one event."""
        effect = self.events[event_type]
        return effect.of(value) if effect.levels else effect


_SAYS_NOTHING = TypeEffect(strength=STRENGTH_LEVELS - 1, affinity=0.0, trend=0)


def parse_weights(content: bytes) -> EventWeights:
    """The weights in a TOML file like `event_weights.toml`.

    Raises:
        ValueError: a field is missing, unknown or out of its range, a type is not listed, levels do not rise or do
            not end with one for the rest.
    """
    weights = msgspec.toml.decode(content, type=EventWeights)
    unheard = {kind: _SAYS_NOTHING for kind in _SINCE_1_2 if kind not in weights.events}
    weights = msgspec.structs.replace(weights, events={**weights.events, **unheard})
    missing = [kind.value for kind in EventType if kind not in weights.events]
    if missing:
        raise ValueError(f"the types {', '.join(missing)} are not listed under [events]")
    for kind, effect in weights.events.items():
        below = [level.below for level in effect.levels]
        bounds = [bound for bound in below if bound is not None]
        if below and (below[-1] is not None or len(bounds) != len(below) - 1 or bounds != sorted(set(bounds))):
            raise ValueError(f"the levels of {kind.value} must rise by `below` and end with one without it")
    return weights


DEFAULT_WEIGHTS = parse_weights(Path(__file__).with_name("event_weights.toml").read_bytes())


def event_strength(event_type: EventType, value: float | None, *, weights: EventWeights = DEFAULT_WEIGHTS) -> int:
    """Strength of an event as the user tower reads it: 1 (dislike) to 5 (love), as the weights say.

    6 marks an impression; 7 is kept for events of unknown strength.
    """
    return weights.of(event_type, value).strength


_NO_INTERACTIONS = frozenset(
    {EventType.IMPRESSION, EventType.SKIP, EventType.SEARCH, EventType.FOLLOW, EventType.UNFOLLOW}
)


def enters_history(event_type: EventType) -> bool:
    """Whether an event of this type becomes part of the history that the user tower reads.

    Impressions and skips count as features of their own, a search names no item, following is a choice; they are not
    interactions.
    """
    return event_type not in _NO_INTERACTIONS
