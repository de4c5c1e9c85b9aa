"""What one call asks for and who makes it, after everything in it was checked."""

from dataclasses import dataclass

from infra.contracts.lists import ListKey
from infra.contracts.messages import Context, ItemFilters, RecommendationType, Surface
from infra.plumbing.service_keys import ServiceKey
from infra.plumbing.tokens import Principal

PAGE_DEFAULT = 10
PAGE_SIZES = {Surface.HOME: 10, Surface.DETAIL: 8, Surface.CART: 6, Surface.EMAIL: 12, Surface.FEED: 20}
"""Items on a page of each surface, for callers who do not say."""
PAGE_MAX = 100
_FILL_SIZES = (10, 25, 50, PAGE_MAX)
FILTERS_RELAXED = "filters-relaxed"
"""Entry of `degraded`: what is shown does not hold to all that the caller asked for."""
NO_CONTEXT = Context()
SPARE_FACTOR = 3
"""A region answers with about this many times the items that it was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """One request for a list. `shown` are the fingerprints of the items on the pages before (`edge.http.cursor`)."""

    type: RecommendationType
    surface: Surface = Surface.HOME
    n: int = PAGE_DEFAULT
    item: str | None = None
    category: str | None = None
    exclude: frozenset[str] = frozenset()
    recent: tuple[str, ...] = ()
    filters: ItemFilters | None = None
    """None: every item passes."""
    context: Context = NO_CONTEXT
    arm: str | None = None
    """The experiment arm that a tester asks for."""
    explain: bool = False
    shown: tuple[int, ...] = ()
    vector: tuple[float, ...] | None = None
    vector_release: str | None = None

    @property
    def items_wanted(self) -> int:
        """How many items of a list it takes, at worst, to fill this page."""
        return self.n + len(self.exclude) + len(self.shown)

    @property
    def asked(self) -> int:
        """The page size to ask a region for: one of few, so that callers share lists."""
        wanted = max(self.n, -(-self.items_wanted // SPARE_FACTOR))
        return next((size for size in _FILL_SIZES if size >= wanted), PAGE_MAX)

    @property
    def is_plain(self) -> bool:
        """Whether this is the first page of a list as it is: the one whose bytes are kept ready."""
        return not (self.exclude or self.shown or self.explain)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls. Of a traveller this edge knows the home region and nothing else.

    subject: the pseudonym in this region; None for travellers and callers without a token.
    session: the pseudonym of an anonymous session; None without one.
    """

    service: ServiceKey | None = None
    """The key of a service that calls, and may have named the subject."""
    token: str | None = None
    principal: Principal | None = None
    subject: str | None = None
    session: str | None = None

    @property
    def is_traveller(self) -> bool:
        """Whether the caller's home is another region."""
        return self.principal is not None and self.subject is None

    @property
    def viewer(self) -> str | None:
        """Whose filters apply."""
        return self.subject or self.session


def list_key(query: ListQuery, caller: Caller) -> ListKey:
    """The key of the list in this region: only personal and session lists belong to somebody.

    The hour and the referrer shape a list when it is made and make no other list of it: a life is a minute long.
    """
    owner = {RecommendationType.PERSONAL: caller.subject, RecommendationType.SESSION: caller.session}
    return ListKey(
        type=query.type, surface=query.surface, category=query.category, item=query.item,
        locale=query.context.locale, device=query.context.device, country=query.context.country,
        filters=query.filters, arm=query.arm, subject=owner.get(query.type), recent=query.recent,
    )  # fmt: skip
