"""What the doors of new items say, and what nodes tell each other. Nothing in it is about a person."""

import msgspec

from infra.contracts.release import CatalogueItem
from infra.contracts.residency import Global, GlobalMessage, Regional, RegionalMessage

ADDITIONS_TOPIC = "additions"
ITEMS_PER_CALL_MAX = 100


class NewItem(GlobalMessage, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An item as a catalogue feed says it. The item tower reads the categories; people, rules and filters the rest."""

    item: Global[str]
    title: Global[str] = ""
    categories: Global[tuple[str, ...]] = ()
    year: Global[int | None] = None
    brand: Global[str] = ""
    creator: Global[str] = ""
    price: Global[float | None] = None
    attributes: Global[dict[str, str]] = msgspec.field(default_factory=dict)

    def as_catalogued(self, *, created_s: float) -> CatalogueItem:
        """As the funnel reads items; nobody has taken it yet."""
        return CatalogueItem(
            item=self.item, title=self.title, categories=self.categories, year=self.year, brand=self.brand,
            creator=self.creator, price=self.price, created_s=created_s, attributes=dict(self.attributes),
        )  # fmt: skip


class AddItemsCall(GlobalMessage, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Add these items, or put them in the place of what was added under the same id before."""

    items: Global[tuple[NewItem, ...]]


class RemoveItemsCall(GlobalMessage, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take these added items out again. What a release holds is withdrawn instead."""

    items: Global[tuple[str, ...]]


class ChangeAnswer(GlobalMessage, frozen=True, kw_only=True):
    """What a call came to: items in each state, how many are added in all, and which release they are shown beside."""

    added: Global[int] = 0
    updated: Global[int] = 0
    unchanged: Global[int] = 0
    removed: Global[int] = 0
    total: Global[int]
    release: Global[str]


class ListedItem(GlobalMessage, frozen=True, kw_only=True):
    """One added item. `released`: the active release holds it itself, and shows its own."""

    item: Global[str]
    title: Global[str]
    categories: Global[tuple[str, ...]]
    added_at_ms: Global[int]
    released: Global[bool]
    published: Global[bool] = False
    """It stands in the region's published file, and no call at the door changes it."""


class ListAnswer(GlobalMessage, frozen=True, kw_only=True):
    """Every added item, latest first."""

    items: Global[tuple[ListedItem, ...]]
    release: Global[str]


class Addition(RegionalMessage, frozen=True, kw_only=True):
    """One item as it lies on disk and as nodes tell each other; `item` None: it was removed.

    The change that is later at `changed_at_ms` holds; of two at one moment the removal.
    """

    name: Regional[str]
    item: Regional[CatalogueItem | None]
    added_at_ms: Regional[int]
    changed_at_ms: Regional[int]

    def newer_than(self, other: "Addition | None") -> bool:
        """Whether this is the later word on the item."""
        if other is None:
            return True
        mine, theirs = (self.changed_at_ms, self.item is None), (other.changed_at_ms, other.item is None)
        return mine > theirs


class AdditionsNews(RegionalMessage, frozen=True, kw_only=True):
    """What a node of the region tells the others; `asks`: it wants to hear what they have."""

    node: Regional[str]
    additions: Regional[tuple[Addition, ...]] = ()
    asks: Regional[bool] = False


class PublishItemsCall(RegionalMessage, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of items, word for word, and what the region's keys say about it where central delegates to them."""

    document: Regional[str]
    statement: Regional[str] = ""


class PublishItemsAnswer(GlobalMessage, frozen=True, kw_only=True):
    """What holds now and held before, how much it says, and whether other nodes and edges could be told at once."""

    edition: Global[str]
    before: Global[str]
    items: Global[int]
    released: Global[int]
    """Of the items: those that the active release holds itself, and shows its own."""
    withdrawn: Global[int]
    told: Global[bool]
    version: Global[int] = 0
    """Of what the region's keys said about it; 0: not signed."""


class PublishedItemsAnswer(RegionalMessage, frozen=True, kw_only=True):
    """The file that holds, word for word (empty: none was published).

    `collected`: the file as it would be with everything that was posted and withdrawn at the doors.
    """

    edition: Regional[str]
    document: Regional[str]
    operator: Regional[str]
    published_at_ms: Regional[int]
    collected: Regional[str]
    version: Regional[int] = 0
    """Of what the region's keys said about it; 0: not signed."""
