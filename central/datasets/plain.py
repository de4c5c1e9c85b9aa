"""The plain folder layout as a source: `interactions.csv`, and if given `items.csv`, `users.csv`, `test.csv`."""

import math
from collections.abc import Iterable, Iterator
from typing import Final

from central.datasets.rows import ITEM_COLUMNS, InteractionRow, ItemRow, Source, UserRow, region_of_zip_code
from central.datasets.text import Archive, DatasetError, read_csv

INTERACTIONS: Final = "interactions.csv"
ITEMS: Final = "items.csv"
USERS: Final = "users.csv"
NUMBERS: Final = ("price", "created_s")
"""Columns of `items.csv` that hold a number: the price, and when the item came into the catalogue (Unix seconds)."""
EXTRAS_MAX: Final = 32
READ: Final = ("user_id", "item_id", "timestamp", "event_type", "value", "region")
"""Columns of interactions that are read."""
TEST: Final = "test.csv"


def plain_folder(archive: Archive, *, name: str) -> Source:
    """A plain dataset folder (DESIGN.md) as a source.

    Raises:
        DatasetError: `interactions.csv` is missing or has no header.
    """
    columns = _columns(archive, INTERACTIONS)
    has_times = "timestamp" in columns

    def interactions(file: str = INTERACTIONS) -> Iterator[tuple[int, InteractionRow, str]]:
        required = ("user_id", "item_id", "timestamp") if has_times else ("user_id", "item_id")
        for number, row in read_csv(archive.lines(file), name=file, required=required):
            yield number, _interaction(row), row.get("region", "")

    def items() -> Iterator[tuple[int, ItemRow]]:
        for number, row in read_csv(archive.lines(ITEMS), name=ITEMS, required=("item_id",)):
            yield number, item_row(row, f"{ITEMS}, line {number}")

    def users() -> Iterator[tuple[int, UserRow]]:
        return plain_users(archive)

    return Source(
        name=name,
        interactions=interactions,
        items=items if archive.find(ITEMS) else lambda: iter(()),
        catalogue=archive.find(ITEMS) is not None,
        users=users if archive.find(USERS) else lambda: iter(()),
        test=(lambda: interactions(TEST)) if archive.find(TEST) else None,
        has_times=has_times,
        unread=unread(columns),
    )


def unread(columns: Iterable[str]) -> tuple[str, ...]:
    """Those of the columns of interactions that mean nothing here, at most EXTRAS_MAX."""
    return tuple(column for column in columns if column not in READ)[:EXTRAS_MAX]


def _columns(archive: Archive, name: str) -> list[str]:
    first = next(iter(archive.lines(name)), "")
    columns = [column.strip().strip('"') for column in first.rstrip("\r\n").split(",")]
    if not first.strip():
        raise DatasetError(f"{name} is empty", fix="Its first line must name the columns: user_id,item_id,...")
    return columns


def _interaction(row: dict[str, str]) -> InteractionRow:
    return InteractionRow(
        row["user_id"], row["item_id"], row.get("timestamp", ""), row.get("event_type", ""), row.get("value", "")
    )


def plain_users(archive: Archive) -> Iterator[tuple[int, UserRow]]:
    """The rows of `users.csv`."""
    for number, row in read_csv(archive.lines(USERS), name=USERS, required=("user_id",)):
        yield number, _user(row)


def item_row(row: dict[str, str], where: str) -> ItemRow:
    """An item by the columns of `items.csv`.

    Raises:
        DatasetError: a year or a number that is none, or too many columns.
    """
    year = row.get("year", "")
    if year and not (year.isascii() and year.isdigit() and len(year) == 4):
        raise DatasetError(f"{where}: year {year!r} is not a year", fix="Use four digits, or leave it empty.")
    extra = tuple((column, value) for column, value in row.items() if column not in ITEM_COLUMNS)
    if len(extra) > EXTRAS_MAX:
        raise DatasetError(f"{where}: {len(extra)} other columns", fix=f"Keep at most {EXTRAS_MAX} of them.")
    for name in NUMBERS:
        if row.get(name) and parse_number(row[name]) is None:
            raise DatasetError(
                f"{where}: {name} {row[name]!r} is not usable", fix="Use a number, 0 or more, or leave it empty."
            )
    return ItemRow(row["item_id"], row.get("title", ""), row.get("category", ""), year, extra)


def parse_number(text: str) -> float | None:
    """The number, 0 or more, that `text` says; None when it says none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0.0 else None


def _user(row: dict[str, str]) -> UserRow:
    region = row.get("region", "")
    if not region and "zip_code" in row:
        region = region_of_zip_code(row["zip_code"])
    extra = tuple((column, value) for column, value in row.items() if column not in ("user_id", "region"))
    return UserRow(row["user_id"], region, extra)
