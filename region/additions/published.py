"""The items that a region's operators publish as one file: what is new beside the release, and what is withdrawn.

The file is the whole of what is published: an item that the next edition leaves out goes. Where central delegates to
the region's keys, only what these signed holds (`region.publishing`), and no call at a door changes it.
"""

import enum
from pathlib import Path
from typing import Final

import msgspec

from infra.contracts.release import CatalogueItem
from infra.contracts.residency import Global, GlobalMessage
from infra.plumbing.errors import InvalidInputError
from region.additions.book import ADDITIONS_MAX
from region.additions.checking import check_item
from region.additions.messages import Addition, NewItem
from region.api.checking import check_ids
from region.publishing.book import Kind, PublishedBook
from region.publishing.proving import Proof, SignedFile

ITEMS_TOPIC: Final = "published-items"
ITEMS_FILE = SignedFile("items.json", "./atoll region REGION items publish FILE --signing-key FILE")
DOCUMENT_BYTES_MAX = 384 << 10
"""With its quotes escaped and its statement beside it, one value of a grid."""
ITEMS_PUBLISHED_MAX = ADDITIONS_MAX
WITHDRAWN_PUBLISHED_MAX = 10_000
FORMAT = 1
NO_EDITION = "none"


class Posting(enum.StrEnum):
    """Whether the door takes items beside the published ones."""

    OPEN = "open"
    CLOSED = "closed"


class PublishedItem(NewItem, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An item of the file. `added_at_ms`: when it came (Unix); 0: when the edition was published."""

    added_at_ms: Global[int] = 0


class ItemFile(GlobalMessage, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `items.json` says."""

    format: Global[int]
    region: Global[str]
    note: Global[str] = ""
    posting: Global[Posting] = Posting.OPEN
    items: Global[tuple[PublishedItem, ...]] = ()
    withdrawn: Global[tuple[str, ...]] = ()

    @property
    def is_open(self) -> bool:
        """Whether the door takes items beside these."""
        return self.posting is Posting.OPEN

    def additions(self, published_at_ms: int) -> dict[str, Addition]:
        """The items as nodes hold them, by id."""
        return {one.item: _addition(one, published_at_ms) for one in self.items}


def read_item_file(text: str, region: str) -> ItemFile:
    """The file in `text`, which must be of `region`.

    Raises:
        InvalidInputError: it is not such a file, is another region's, or is out of bounds; names the item and field.
    """
    if len(text.encode("utf-8", "surrogatepass")) > DOCUMENT_BYTES_MAX:
        raise InvalidInputError(f"the file of items is longer than {DOCUMENT_BYTES_MAX} bytes.", fix="List fewer.")
    try:
        file = msgspec.json.decode(text, type=ItemFile)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise InvalidInputError(
            f"this is no file of items: {error}.", fix="Make one: ./atoll region REGION items collect --out FILE."
        ) from error
    if file.format != FORMAT:
        raise InvalidInputError(f"the file of items has format {file.format}.", fix=f"This software reads {FORMAT}.")
    if file.region != region:
        raise InvalidInputError(f"these are the items of {file.region[:60]!r}, not of {region}.")
    _check(file)
    return file


def write_item_file(file: ItemFile) -> str:
    """`file` as text that people can review line by line and `read_item_file` gives back."""
    return msgspec.json.format(msgspec.json.encode(file), indent=1).decode() + "\n"


def as_published(one: NewItem | CatalogueItem, *, added_at_ms: int) -> PublishedItem:
    """An item as the file has it."""
    return PublishedItem(
        item=one.item, title=one.title, categories=one.categories, year=one.year, brand=one.brand, creator=one.creator,
        price=one.price, attributes=dict(one.attributes), added_at_ms=added_at_ms,
    )  # fmt: skip


def _check(file: ItemFile) -> None:
    names = [one.item for one in file.items]
    check_ids("items", names, count_max=ITEMS_PUBLISHED_MAX)
    check_ids("withdrawn", file.withdrawn, count_max=WITHDRAWN_PUBLISHED_MAX)
    for place, one in enumerate(file.items):
        check_item(f"items[{place}]", one)
        if one.added_at_ms < 0:
            raise InvalidInputError(f"items[{place}].added_at_ms is below 0.")
    for field, listed in (("items", names), ("withdrawn", list(file.withdrawn))):
        if len(set(listed)) != len(listed):
            raise InvalidInputError(f"{field} names an item twice.", fix="Name each once.")
    both = set(names) & set(file.withdrawn)
    if both:
        raise InvalidInputError(f"{min(both)[:60]!r} is listed and withdrawn.", fix="Leave it in one of the two.")


def _addition(one: PublishedItem, published_at_ms: int) -> Addition:
    added_at_ms = one.added_at_ms or published_at_ms
    item = one.as_catalogued(created_s=added_at_ms / 1000)
    return Addition(name=one.item, item=item, added_at_ms=added_at_ms, changed_at_ms=published_at_ms)


ITEMS = Kind(word="items", signed=ITEMS_FILE, read=read_item_file)


class ItemBook(PublishedBook[ItemFile]):
    """Which edition of the file holds in this region; see `PublishedBook`."""

    def __init__(self, directory: Path, *, region: str, proof: Proof | None = None) -> None:
        super().__init__(directory, ITEMS, region=region, proof=proof)
