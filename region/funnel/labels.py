"""What a release says of an item, as far as features are made of it: it goes into the log beside the item's events."""

from infra.contracts.events import UNLABELLED, ItemLabels
from region.funnel.release import LoadedRelease

LABELS_MAX = 8
"""Categories of an item that are logged."""


def labels_of(release: LoadedRelease | None, item: str) -> ItemLabels:
    """Labels of an item; none for an item that the release does not know, or without a release."""
    row = release.tables.row_of.get(item) if release is not None else None
    if release is None or row is None:
        return UNLABELLED
    known = release.tables.items[row]
    return ItemLabels(categories=known.categories[:LABELS_MAX], brand=known.brand, creator=known.creator)


def title_of(release: LoadedRelease | None, item: str) -> str:
    """What the release calls an item; "" for one that it does not know, or without a release."""
    row = release.tables.row_of.get(item) if release is not None else None
    return "" if release is None or row is None else release.tables.items[row].title
