"""What each type of list is made of, how long it may live, and which share of the deadline each stage has.

All of it is data, in one place.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from infra.contracts.messages import SLATE_ITEMS_MAX, Lifetime, RecommendationType, Source
from region.rules.schema import Lives

BUDGET_DEFAULT_S = 0.1
"""Time for a request that names no deadline."""
BUDGET_MAX_S = 1.0
HISTORY_STRENGTH_RECENT = 3
"""How strongly an item counts that the visitor brought along: like a view."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which sources put candidates up and with what weight, and whether rules arrange the result.

    Lists for audiences (trending, popular, similar) are shown as their source orders them; personal ones are made
    diverse and capped by category.
    """

    weights: Mapping[Source, float]
    arranged: bool = False
    advantage: Mapping[Source, float] = field(default_factory=dict)
    """Added to the relevance (0 to 1) of what a source put up, whatever ranking makes of it."""


PERSONAL_PLAN = Plan(
    weights={
        Source.ANN: 1.0, Source.SIMILAR_TO_RECENT: 0.8, Source.FOLLOWS: 0.5, Source.TRENDING: 0.3,
        Source.EDITORIAL: 0.35, Source.POPULAR: 0.2,
    },
    arranged=True,
    advantage={Source.FOLLOWS: 0.05},
)  # fmt: skip
COLD_PLAN = Plan(
    weights={
        Source.FOLLOWS: 2.0, Source.CONTEXT: 1.2, Source.TRENDING: 1.0, Source.POPULAR: 1.0, Source.EDITORIAL: 1.1,
    },
    arranged=True,
)  # fmt: skip
"""For who has no history and brings no vector: what they follow, what their circumstances say, then favourites."""
FEW_EVENTS = 5
"""With a shorter history what a subject follows, and their circumstances, still weigh as in the cold plan."""
BEGINNER_PLAN = Plan(
    weights={**PERSONAL_PLAN.weights, Source.FOLLOWS: 1.5, Source.CONTEXT: 0.4}, arranged=True,
    advantage={Source.FOLLOWS: 0.3, Source.CONTEXT: 0.05},
)  # fmt: skip
RANKING_PLAN = Plan(weights={Source.ANN: 1.0, Source.SIMILAR_TO_RECENT: 0.8})
"""For items that the caller names: the order is the ranker's own, nothing arranges it."""
SIMILAR_PLAN = Plan(weights={Source.SIMILAR: 1.0, Source.ANN: 0.3})
TOGETHER_PLAN = Plan(weights={Source.TOGETHER: 1.0, Source.SIMILAR: 0.3})
TRENDING_PLAN = Plan(weights={Source.TRENDING: 1.0})
POPULAR_PLAN = Plan(weights={Source.POPULAR: 1.0})

CANDIDATES_PER_SOURCE: Mapping[Source, int] = {
    Source.SIMILAR_TO_RECENT: 200,
    Source.SIMILAR: SLATE_ITEMS_MAX,
    Source.TOGETHER: SLATE_ITEMS_MAX,
    Source.NEW: SLATE_ITEMS_MAX,
    Source.TRENDING: SLATE_ITEMS_MAX,
    Source.POPULAR: SLATE_ITEMS_MAX,
    Source.FOLLOWS: SLATE_ITEMS_MAX,
    Source.EDITORIAL: SLATE_ITEMS_MAX,
    Source.CONTEXT: SLATE_ITEMS_MAX,
}
ANN_CANDIDATES_MAX = 1000

_DAY_S = 86_400.0
LIFETIMES: Mapping[RecommendationType, Lifetime] = {
    RecommendationType.PERSONAL: Lifetime(max_age_s=60, stale_while_revalidate_s=600, stale_if_error_s=_DAY_S),
    RecommendationType.SESSION: Lifetime(max_age_s=30, stale_while_revalidate_s=120, stale_if_error_s=1800),
    RecommendationType.TRENDING: Lifetime(max_age_s=30, stale_while_revalidate_s=120, stale_if_error_s=_DAY_S),
    RecommendationType.SIMILAR: Lifetime(max_age_s=300, stale_while_revalidate_s=3600, stale_if_error_s=_DAY_S),
    RecommendationType.TOGETHER: Lifetime(max_age_s=300, stale_while_revalidate_s=3600, stale_if_error_s=_DAY_S),
    RecommendationType.POPULAR: Lifetime(max_age_s=300, stale_while_revalidate_s=3600, stale_if_error_s=_DAY_S),
}
OPTED_OUT_LIFETIME = Lifetime(max_age_s=30, stale_while_revalidate_s=60, stale_if_error_s=600)
DEGRADED_LIFETIME = Lifetime(max_age_s=1, stale_while_revalidate_s=5, stale_if_error_s=600)
"""An answer that misses a part is asked for again soon, so that healing shows within seconds."""
CALLER_NOTES = frozenset({"vector-release", "unknown-item", "unknown-category", "filters-relaxed"})
"""Entries of `degraded` that tell of the call, not of a part of the region: they do not shorten a life."""


@dataclass(frozen=True, slots=True)
class Share:
    """A stage may take `takes` of the whole budget, and starts only before `starts_before` of it is gone."""

    takes: float
    starts_before: float


SHARES: Mapping[str, Share] = {
    "store": Share(takes=0.35, starts_before=0.9),
    "user-tower": Share(takes=0.2, starts_before=0.6),
    "ann": Share(takes=0.35, starts_before=0.7),
    "sources": Share(takes=0.35, starts_before=0.95),
    "ranker": Share(takes=0.3, starts_before=0.75),
}


@dataclass(frozen=True, slots=True)
class Budget:
    """The time that one request has, from `started_s` on the monotonic clock."""

    started_s: float
    total_s: float

    @classmethod
    def of(cls, timeout_ms: float | None, *, started_s: float) -> "Budget":
        """What the asker waits, in milliseconds; the default when it does not say."""
        total_s = BUDGET_DEFAULT_S if timeout_ms is None else max(0.0, timeout_ms / 1000)
        return cls(started_s, min(total_s, BUDGET_MAX_S))

    def left_s(self, *, now_s: float) -> float:
        """What is left of it; 0 when it is over."""
        return max(self.started_s + self.total_s - now_s, 0.0)

    def timeout_s(self, stage: str, *, now_s: float) -> float:
        """How long `stage` may take from now; 0 when its moment has passed and it must be skipped."""
        share, gone_s = SHARES[stage], now_s - self.started_s
        if gone_s >= share.starts_before * self.total_s:
            return 0.0
        return min(share.takes * self.total_s, self.total_s - gone_s)


def slots_for(n: int) -> int:
    """Items of an answer to a call for `n`: the page and spare items, so that edges can filter and page."""
    return min(max(n * 3, n + 20), SLATE_ITEMS_MAX)


def lifetime_for(
    kind: RecommendationType, degraded: tuple[str, ...], ruled: Mapping[RecommendationType, Lives]
) -> Lifetime:
    """How long an answer may be kept: as the region's rules say of its surface (`ruled`), else as usual for its kind.

    Short when a part of the region did not take part, whatever the rules say.
    """
    if any(part not in CALLER_NOTES for part in degraded):
        return DEGRADED_LIFETIME
    lives = ruled.get(kind)
    if lives is None:
        return LIFETIMES[kind]
    return Lifetime(
        max_age_s=lives.max_age_s, stale_while_revalidate_s=lives.stale_while_revalidate_s,
        stale_if_error_s=lives.stale_if_error_s,
    )  # fmt: skip
