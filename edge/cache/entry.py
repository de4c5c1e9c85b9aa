"""One cached list: the region's answer with its spare items, and ready bytes of the page that is asked for most."""

from dataclasses import dataclass, field

from edge.cache.policy import Life
from infra.contracts.messages import HomeAnswer

PAGES_PER_ENTRY_MAX = 4
_ITEM_OVERHEAD_BYTES = 400
_ENTRY_OVERHEAD_BYTES = 1_500


@dataclass(frozen=True, slots=True)
class Page:
    """A body that is ready to be sent, and its entity tag."""

    body: bytes
    etag: str


@dataclass(slots=True)
class Entry:
    """A list in the in-process cache.

    `made_s` is the monotonic moment at which the region's answer was new. `asked` is the page size that the region
    was asked for: a shorter list than wanted is all there is when `asked` was large enough.
    """

    answer: HomeAnswer
    life: Life
    made_s: float
    asked: int
    pages: dict[tuple[int, int, int], Page] = field(default_factory=dict)
    """By (page size, epoch of withdrawn items, epoch of the viewer's filters)."""
    hits: int = 0
    """How often it was served since the cache looked last: what its eviction goes by."""
    is_held: bool = False
    """Whether the in-process cache holds it; a list that is not held is served once, by whoever made it."""
    ready_names: list[tuple[bytes, str | None]] = field(default_factory=list)
    """Under which names `edge.hot.ready` holds answers made of it."""
    clear_of: int = -1
    """Epoch of purges up to which it is known that none concerns this list (`edge.cache.purges`)."""
    before: "Entry | None" = None
    """The list of the release before, should the region go back (`edge.cache.behind`); it has none itself."""

    def age_s(self, now_s: float) -> float:
        """Seconds since the region made the list."""
        return max(0.0, now_s - self.made_s)

    def remember(self, key: tuple[int, int, int], page: Page) -> None:
        """Keep a ready page; the oldest one goes when there are PAGES_PER_ENTRY_MAX."""
        if len(self.pages) >= PAGES_PER_ENTRY_MAX:
            self.pages.pop(next(iter(self.pages)))
        self.pages[key] = page

    def size_bytes(self) -> int:
        """About how much memory the entry takes once it holds a ready page, and what stands behind it."""
        behind = self.spare_bytes()
        text = sum(len(item.item) + len(item.title) + len(item.reason.text) for item in self.answer.items)
        return behind + _ENTRY_OVERHEAD_BYTES + 2 * text + _ITEM_OVERHEAD_BYTES * len(self.answer.items)

    def spare_bytes(self) -> int:
        """How much of that is for what stands behind it."""
        return 0 if self.before is None else self.before.size_bytes()

    def give_up_spare(self) -> None:
        """Nothing stands behind it any more."""
        self.before = None
