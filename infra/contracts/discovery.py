"""What edges ask a region of besides lists: what to choose from at the start, and what a few letters may mean."""

from infra.contracts.messages import Context
from infra.contracts.residency import Global, GlobalMessage

CHOICE_CATEGORIES_MAX = 24
CHOICE_ITEMS_MAX = 12
ONBOARDING_MAX = 50
"""Things of one kind that one onboarding call may name."""


class ChoicesCall(GlobalMessage, frozen=True, kw_only=True):
    """What shall somebody new choose from? Nothing here says who asks."""

    categories: Global[int] = 8
    items: Global[int] = 4
    """Of each category."""
    context: Global[Context] = Context()


class ChoiceItem(GlobalMessage, frozen=True, kw_only=True):
    """One item to be liked, or not."""

    item: Global[str]
    title: Global[str] = ""


class ChoiceCategory(GlobalMessage, frozen=True, kw_only=True):
    """A category to be followed, and items of it that no other category here shows."""

    category: Global[str]
    items: Global[tuple[ChoiceItem, ...]]


class ChoicesAnswer(GlobalMessage, frozen=True, kw_only=True):
    """Popular items of the region by category, categories that differ from each other first."""

    categories: Global[tuple[ChoiceCategory, ...]]
    release: Global[str]
    region: Global[str]
    degraded: Global[tuple[str, ...]] = ()
