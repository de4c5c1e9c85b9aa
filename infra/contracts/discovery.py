"""What edges ask a region of besides lists: what to choose from at the start, and what a few letters may mean."""

from infra.contracts.messages import Context
from infra.contracts.residency import Global, GlobalMessage, Regional, RegionalMessage

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


SUGGEST_MAX = 20
QUERY_CHARACTERS_MAX = 100


class SuggestCall(RegionalMessage, frozen=True, kw_only=True):
    """What may these letters mean? What people search for stays in their region."""

    q: Regional[str]
    n: Global[int] = 10
    subject: Regional[str | None] = None
    """Whose leanings may reorder what is found; None: the same for everybody."""
    context: Global[Context] = Context()


class Suggestion(GlobalMessage, frozen=True, kw_only=True):
    """One suggestion. `kind`: `item`, `category` or `brand`; `item` is the id of an item."""

    kind: Global[str]
    text: Global[str]
    item: Global[str] = ""


NO_WORDS = "no-words"
"""In `SuggestAnswer.degraded`: what was typed holds no letter and no digit, so nothing begins with it."""


class SuggestAnswer(RegionalMessage, frozen=True, kw_only=True):
    """Categories and brands first, then items, each the most popular first."""

    suggestions: Regional[tuple[Suggestion, ...]]
    meant: Regional[str] = ""
    """What was searched for in place of what was typed; empty when nothing was corrected."""
    release: Global[str]
    region: Global[str]
    personal: Global[bool] = False
    degraded: Global[tuple[str, ...]] = ()
