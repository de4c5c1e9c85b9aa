"""The rules of one region as data: what a reviewed YAML file may say. `region.rules.reading` turns a file into these.

Expressions are CEL (the Common Expression Language); `region.rules.conditions` lists the variables that they may name.
Order of force, strongest first: hard rules, promotions, floors, quotas, caps, then boosts, stability and diversity,
which only weigh.
"""

import datetime as dt
from typing import Annotated, Literal

import msgspec

from infra.contracts.messages import SLATE_ITEMS_MAX, RecommendationType, Surface
from region.rules.history import PAGES_MAX

RULES_MAX = 200
"""Of each kind, in one file."""
ITEMS_MAX = 10_000

RuleId = Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9-]{0,47}$")]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Expression = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
ItemId = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Items = Annotated[tuple[ItemId, ...], msgspec.Meta(max_length=ITEMS_MAX)]
Position = Annotated[int, msgspec.Meta(ge=1, le=SLATE_ITEMS_MAX)]
Seconds = Annotated[float, msgspec.Meta(gt=0.0, le=30 * 86_400.0)]


MixedSource = Literal[
    "ann", "similar-to-recent", "together", "trending", "popular", "new", "follows", "editorial", "context"
]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A misspelt field is refused."""


class Diversity(_Strict, frozen=True, kw_only=True):
    """How much items of one slate differ. `strength`: 0 (relevance alone) to 1 (difference alone).

    `mmr` is Carbonell and Goldstein (1998); `dpp` is the greedy MAP of a determinantal point process, Chen, Zhang and
    Zhou (2018).
    """

    method: Literal["mmr", "dpp"] = "mmr"
    strength: Share = 0.2


class Stability(_Strict, frozen=True, kw_only=True):
    """What stood on the subject's page at most `window_s` ago keeps an advantage of `weight` (relevance: 0 to 1)."""

    weight: Share = 0.0
    window_s: Seconds = 900.0


class Lives(_Strict, frozen=True, kw_only=True):
    """How long a list of a surface may be kept."""

    max_age_s: Annotated[float, msgspec.Meta(ge=0.0, le=86_400.0)]
    stale_while_revalidate_s: Annotated[float, msgspec.Meta(ge=0.0, le=86_400.0)] = 60.0
    stale_if_error_s: Annotated[float, msgspec.Meta(ge=0.0, le=86_400.0)] = 86_400.0


class Exploration(_Strict, frozen=True, kw_only=True):
    """Positions of a personal page whose items are drawn, so that the region learns what it does not show yet.

    Every arm has a known chance, which is logged (`region.exploration`); no chance is below `epsilon / arms` before
    the bounds on new items. Hard rules, the caller's filters, promotions, floors and quotas hold for what is drawn.

    Args:
        method: see `region.exploration.policy`.
        positions: 1 is the first; none: nothing is explored.
        epsilon: share of the draws that are even over the arms: what bounds the weights of estimates.
        arms: items that one slot is drawn from.
        new_share_min, new_share_max: of what a slot shows, at least and at most so much is new in the catalogue, as
            long as there is anything new and anything else.
        new_impressions_enough: an item that was shown so often lately counts as new no longer.
    """

    method: Literal["epsilon-greedy", "thompson"] = "thompson"
    positions: Annotated[tuple[Position, ...], msgspec.Meta(max_length=10)] = ()
    epsilon: Share = 0.1
    arms: Annotated[int, msgspec.Meta(ge=2, le=50)] = 12
    new_share_min: Share = 0.2
    new_share_max: Share = 0.6
    new_impressions_enough: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 200


class SlateRules(_Strict, frozen=True, kw_only=True):
    """How slates are arranged; what a surface leaves out (None), it takes from the file's `slate`."""

    diversity: Diversity | None = None
    stability: Stability | None = None
    category_share_max: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] | None = None
    """No category holds more than this share of a page."""
    mix: dict[MixedSource, Share] | None = None
    """Weight of each candidate source of personal lists; sources left out are not asked."""
    lives: dict[RecommendationType, Lives] | None = None
    exploration: Exploration | None = None


class _Rule(_Strict, frozen=True, kw_only=True):
    """What all rules have: a name, and where and when they hold.

    Args:
        id: stands in answers, the audit and metrics.
        note: for reviewers.
        surfaces: where it holds; none: everywhere.
        when: an expression over `request`; the rule holds for requests for which it is true.
        from_date, until_date: first and last day on which it holds, in UTC.
    """

    id: RuleId
    note: str = ""
    surfaces: tuple[Surface, ...] = ()
    when: Expression | None = None
    from_date: dt.date | None = None
    until_date: dt.date | None = None


class HardRule(_Rule, frozen=True, kw_only=True):
    """Items that may not be shown: named ones, and those for which `match` is true. Nothing overrules it.

    An expression that fails for an item counts as true: what cannot be judged is not shown.
    """

    because: Literal["content-policy", "legal", "geo", "stock", "age", "withdrawn", "other"] = "other"
    items: Items = ()
    match: Expression | None = None


class Quota(_Rule, frozen=True, kw_only=True):
    """At most `share_max` of a page, or `count_max` items of it, for each value of `of`, or for what `match` selects.

    It gives way before a page stays short. An expression that fails counts as false.
    """

    of: Literal["category", "brand", "creator"] | None = None
    values: tuple[str, ...] = ()
    """Only these values; none: every value."""
    match: Expression | None = None
    share_max: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] | None = None
    count_max: Position | None = None


class Floor(_Rule, frozen=True, kw_only=True):
    """At least `share_min` of the first page for what `match` selects, as far as there is any (fairness).

    An expression that fails counts as false.
    """

    match: Expression
    share_min: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]


class Boost(_Rule, frozen=True, kw_only=True):
    """Adds `weight` (relevance goes from 0 to 1) to what `match` selects; negative weights push down.

    `by` scales the weight with a number from 0 to 1 (margin, stock); `half_life_days` with freshness, 0.5 at that age.
    An expression that fails adds nothing.
    """

    weight: Annotated[float, msgspec.Meta(ge=-1.0, le=1.0)]
    match: Expression | None = None
    by: Expression | None = None
    half_life_days: Annotated[float, msgspec.Meta(gt=0.0, le=3650.0)] | None = None


class Promotion(_Rule, frozen=True, kw_only=True):
    """Puts the named items, or the best of those that `match` selects, at these positions (1 is the first).

    One item a position, in order; never one that a hard rule, the caller or the subject's own history keeps out.
    """

    positions: Annotated[tuple[Position, ...], msgspec.Meta(min_length=1, max_length=20)]
    items: Annotated[tuple[ItemId, ...], msgspec.Meta(max_length=100)] = ()
    match: Expression | None = None


class EditorialList(_Rule, frozen=True, kw_only=True):
    """A list that editors made: its items are candidates of personal lists, best first, and say where they come from.

    `title` stands in the reason; `titles` holds it in further languages, by language code.
    """

    title: Annotated[str, msgspec.Meta(min_length=1, max_length=120)]
    items: Annotated[tuple[ItemId, ...], msgspec.Meta(min_length=1, max_length=200)]
    titles: dict[str, Annotated[str, msgspec.Meta(min_length=1, max_length=120)]] = msgspec.field(default_factory=dict)

    def title_in(self, language: str) -> str:
        """The title for readers of a language."""
        return self.titles.get(language, self.title)


class Cap(_Rule, frozen=True, kw_only=True):
    """An item that was on a subject's page `shown_max` times within `window_s` makes way for others.

    More than PAGES_MAX could never come true: so many pages of a subject are remembered.
    """

    shown_max: Annotated[int, msgspec.Meta(ge=1, le=PAGES_MAX)]
    window_s: Seconds = 86_400.0
    match: Expression | None = None


class RuleFile(_Strict, frozen=True, kw_only=True):
    """One region's rules. `format` is the version of this schema."""

    format: Literal[1]
    region: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    note: str = ""
    slate: SlateRules = SlateRules()
    surfaces: dict[Surface, SlateRules] = msgspec.field(default_factory=dict)
    hard: Annotated[tuple[HardRule, ...], msgspec.Meta(max_length=RULES_MAX)] = ()
    quotas: Annotated[tuple[Quota, ...], msgspec.Meta(max_length=RULES_MAX)] = ()
    floors: Annotated[tuple[Floor, ...], msgspec.Meta(max_length=RULES_MAX)] = ()
    boosts: Annotated[tuple[Boost, ...], msgspec.Meta(max_length=RULES_MAX)] = ()
    promotions: Annotated[tuple[Promotion, ...], msgspec.Meta(max_length=RULES_MAX)] = ()
    caps: Annotated[tuple[Cap, ...], msgspec.Meta(max_length=RULES_MAX)] = ()
    editorial: Annotated[tuple[EditorialList, ...], msgspec.Meta(max_length=50)] = ()
