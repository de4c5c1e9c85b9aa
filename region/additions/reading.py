"""A file of new items: JSON as the door takes it, or `items.csv` as datasets have it."""

import csv
import io
from pathlib import Path

import msgspec

from infra.plumbing.errors import InvalidInputError
from region.additions.messages import NewItem

FILE_BYTES_MAX = 16 << 20
_COLUMNS = ("item_id", "title", "category", "year", "brand", "creator", "price")
_FIX = "JSON: a list of objects with item, title, categories, ...; CSV: a header with item_id,title,category,..."


def read_items(path: Path) -> tuple[NewItem, ...]:
    """The items in the file at `path`: a JSON list of items, or CSV with a header; lists in a field are split at `|`.

    CSV columns beside `item_id,title,category,year,brand,creator,price` become attributes; empty fields are left out.

    Raises:
        InvalidInputError: it cannot be read; says where.
    """
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise InvalidInputError(f"{path} is larger than {FILE_BYTES_MAX >> 20} MB.", fix="Split it.")
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path} cannot be read: {error}.") from error
    if content.lstrip()[:1] in ("[", "{"):
        return _from_json(path, content)
    return _from_csv(path, content)


def _from_json(path: Path, content: str) -> tuple[NewItem, ...]:
    text = content if content.lstrip().startswith("[") else f"[{content}]"
    try:
        return msgspec.json.decode(text, type=tuple[NewItem, ...])
    except msgspec.DecodeError as error:
        raise InvalidInputError(f"{path}: {error}.", fix=_FIX) from error


def _from_csv(path: Path, content: str) -> tuple[NewItem, ...]:
    reader = csv.DictReader(io.StringIO(content))
    if "item_id" not in (reader.fieldnames or ()):
        raise InvalidInputError(f"{path} has no column item_id.", fix=_FIX)
    items = []
    for number, row in enumerate(reader, start=2):
        try:
            items.append(_item_of({name: text for name, text in row.items() if name and text}))
        except (ValueError, TypeError) as error:
            raise InvalidInputError(f"{path}, line {number}: {error}.", fix=_FIX) from error
    return tuple(items)


def _item_of(row: dict[str, str]) -> NewItem:
    return NewItem(
        item=row.get("item_id", ""),
        title=row.get("title", ""),
        categories=tuple(dict.fromkeys(part for part in row.get("category", "").split("|") if part)),
        year=int(row["year"]) if "year" in row else None,
        brand=row.get("brand", ""),
        creator=row.get("creator", ""),
        price=float(row["price"]) if "price" in row else None,
        attributes={name: text for name, text in row.items() if name not in _COLUMNS},
    )
