"""What may be added: bounds on every field, categories that the item tower knows, ids that no release has."""

import math
from collections.abc import Sequence

from infra.plumbing.errors import ConflictError, InvalidInputError
from region.additions.messages import ITEMS_PER_CALL_MAX, NewItem
from region.api.checking import check_ids
from region.funnel.tables import ReleaseTables

TEXT_MAX = 300
CATEGORIES_MAX = 16
ATTRIBUTES_MAX = 32
PRICE_MAX = 1e12
CATEGORIES_NAMED = 20
"""Of the known ones, so many are named to who asked for another."""


class ReleasedItemError(ConflictError):
    """The release holds an item of this id already."""


def check_items(items: Sequence[NewItem]) -> None:
    """Refuse a call whose items are out of bounds.

    Raises:
        InvalidInputError: names the item by its place, and the field.
    """
    if not items:
        raise InvalidInputError("no item is named.", fix=f"Name 1 to {ITEMS_PER_CALL_MAX} of them.")
    check_ids("items", [one.item for one in items], count_max=ITEMS_PER_CALL_MAX)
    if len({one.item for one in items}) != len(items):
        raise InvalidInputError("an item is named twice.", fix="Name each once.")
    for place, one in enumerate(items):
        check_item(f"items[{place}]", one)


def check_known(items: Sequence[NewItem], tables: ReleaseTables) -> None:
    """Refuse items that the release cannot embed, or holds itself.

    Raises:
        ReleasedItemError: it holds one of them.
        InvalidInputError: a category is not known, or none of an item's is one of the item tower's.
    """
    release, tower = tables.release_id, frozenset(tables.shape.categories)
    for place, one in enumerate(items):
        row = tables.row_of.get(one.item)
        if row is not None and row < tables.shape.num_items:
            raise ReleasedItemError(
                f"items[{place}] is an item of release {release}.", fix="What a release holds, the next one changes."
            )
        strange = [name for name in one.categories if name not in tower and name not in tables.category_rows]
        if strange or not tower.intersection(one.categories):
            what = "a category that is not known to" if strange else "no category of the item tower of"
            raise InvalidInputError(f"items[{place}] names {what} release {release}.", fix=_known(tables))


def _known(tables: ReleaseTables) -> str:
    known = tables.shape.categories
    if not known:
        return "It was trained without metadata: new items wait for the next release."
    more = f" and {len(known) - CATEGORIES_NAMED} more" if len(known) > CATEGORIES_NAMED else ""
    return f"It knows {', '.join(known[:CATEGORIES_NAMED])}{more}."


def check_item(where: str, one: NewItem) -> None:
    """Refuse an item with a field out of bounds.

    Raises:
        InvalidInputError: names the field, as of the item `where`.
    """
    if not one.item.isprintable():
        raise InvalidInputError(f"{where}.item holds a character that cannot be printed.")
    for name, text in (("title", one.title), ("brand", one.brand), ("creator", one.creator)):
        if len(text) > TEXT_MAX:
            raise InvalidInputError(f"{where}.{name} is too long.", fix=f"It has at most {TEXT_MAX} characters.")
    if not 1 <= len(one.categories) <= CATEGORIES_MAX or len(set(one.categories)) != len(one.categories):
        raise InvalidInputError(
            f"{where}.categories holds {len(one.categories)}.", fix=f"Name 1 to {CATEGORIES_MAX}, each once."
        )
    if one.price is not None and not (math.isfinite(one.price) and 0.0 <= one.price <= PRICE_MAX):
        raise InvalidInputError(f"{where}.price is not a price.", fix="It is a finite number, 0 or more.")
    if one.year is not None and not 0 <= one.year <= 9999:
        raise InvalidInputError(f"{where}.year is not a year.", fix="It goes from 0 to 9999.")
    if len(one.attributes) > ATTRIBUTES_MAX:
        raise InvalidInputError(f"{where}.attributes holds too many.", fix=f"It takes at most {ATTRIBUTES_MAX}.")
    if not all(0 < len(name) <= TEXT_MAX and len(text) <= TEXT_MAX for name, text in one.attributes.items()):
        raise InvalidInputError(f"{where}.attributes holds a name or text that is empty or too long.")
