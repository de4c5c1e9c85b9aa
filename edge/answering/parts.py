"""What answering is made of: the list that answers, the hands that act, the parts that they use."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edge.cache.entry import Entry
from edge.cache.filling import ListFiller
from edge.cache.invalidation import Ledger
from edge.cache.policy import Usability
from edge.calls import ListQuery
from edge.limits.lag import LoopLag
from edge.lists.release_lists import LoadedLists
from edge.metrics import EdgeMetrics
from edge.routing.desk import RegionDesk
from edge.routing.dispatch import Dispatcher
from edge.routing.ladder import Shares, Situation
from edge.routing.port import RegionPort
from infra.contracts.messages import DegradationStep, HomeAnswer
from infra.plumbing.clock import Clock
from infra.plumbing.keys import Trust


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Shared by all calls of one edge. `away_regions` are nearest first."""

    own_region: str
    away_regions: tuple[str, ...]
    filler: ListFiller
    desk: RegionDesk
    dispatcher: Dispatcher
    region: RegionPort
    ledger: Ledger
    trust: Trust
    lists: Callable[[], LoadedLists | None]
    clock: Clock
    metrics: EdgeMetrics
    shares: Shares
    lag: LoopLag


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The list that answers a call.

    cache: words for `Cache-Status` (RFC 9211).
    entry: the cache entry that the answer came from; None when nothing is kept of it.
    age_s: for `Age`.
    fresh_for_s: the life for `Cache-Control`; 0 when the answer must not be used again without asking.
    """

    answer: HomeAnswer
    step: DegradationStep
    cache: str
    entry: Entry | None = None
    age_s: float = 0.0
    fresh_for_s: float = 0.0


class Hands(Protocol):
    """What the rungs of the ladder do for one call.

    Asking raises `RegionCallError`, `TimeoutError` or `OverloadedError` when there is no answer.
    """

    def opening(self) -> tuple[Entry | None, Situation]:
        """The cached list, and the situation before anybody was asked."""
        ...

    def judge(self, entry: Entry) -> Usability:
        """What the cached list is good for now that home was asked in vain: more may have been heard meanwhile."""
        ...

    def refresh(self) -> None:
        """Have the cached list refreshed behind the caller's back."""
        ...

    async def fill(self, timeout_s: float) -> Served:
        """The home region's list."""
        ...

    async def ask_with_vector(self, timeout_s: float) -> Served:
        """Another region's list, ranked with the caller's own vector."""
        ...

    async def ask_away(self, timeout_s: float) -> Served:
        """Another region's list without anything personal."""
        ...


def is_enough(entry: Entry, query: ListQuery) -> bool:
    """Whether the list is long enough for the page, or as long as asking again would make it."""
    return len(entry.answer.items) >= query.items_wanted or entry.asked >= query.asked
