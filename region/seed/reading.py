"""Reading a plain dataset folder row by row. A row that cannot be used ends it, with the file and the line."""

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from infra.contracts.events import EventType, ItemLabels
from infra.plumbing.errors import InvalidInputError
from region.seed.sorting import BETWEEN, Interaction

ID_LENGTH_MAX = 128
TIMESTAMP_MAX_S = 1e11
"""Beyond the year 5000: a timestamp that is larger is in milliseconds by mistake."""

T = TypeVar("T")
Row = Mapping[str, str]


def read_residents(path: Path, *, region: str) -> Iterator[str]:
    """Ids of the users of `region` in `users.csv`.

    Raises:
        InvalidInputError: the file cannot be used; names the line.
    """

    def parse(row: Row) -> str | None:
        return _identifier(row, "user_id") if row["region"] == region else None

    return (user for user in _read(path, ("user_id", "region"), parse) if user is not None)


def has_regions(path: Path) -> bool:
    """Whether a file is there whose first line names a column `region`."""
    return path.is_file() and any(_read(path, (), lambda row: "region" in row))


def read_items(path: Path) -> Iterator[tuple[str, ItemLabels]]:
    """Every item of `items.csv` with what features are made of; nothing when there is no such file.

    Raises:
        InvalidInputError: the file cannot be used; names the line.
    """

    def parse(row: Row) -> tuple[str, ItemLabels]:
        categories = tuple(filter(None, row.get("category", "").split(BETWEEN)))
        labels = ItemLabels(categories=categories, brand=row.get("brand", ""), creator=row.get("creator", ""))
        return _identifier(row, "item_id"), labels

    return _read(path, ("item_id",), parse) if path.is_file() else iter(())


def read_interactions(path: Path, *, region: str | None) -> Iterator[Interaction | None]:
    """Rows of `interactions.csv` in file order; when a region is named, None in place of another region's rows.

    Raises:
        InvalidInputError: the file cannot be used; names the line.
    """

    def parse(row: Row) -> Interaction | None:
        if region is not None and row["region"] != region:
            return None
        event_type, value = _what(row)
        return Interaction(
            user=_identifier(row, "user_id"),
            item=_identifier(row, "item_id"),
            at_ms=_milliseconds(row["timestamp"]),
            kind=event_type,
            value=value,
        )

    wanted = ("user_id", "item_id", "timestamp") + (() if region is None else ("region",))
    return _read(path, wanted, parse)


def _read(path: Path, wanted: tuple[str, ...], parse: Callable[[Row], T]) -> Iterator[T]:
    line = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            names = next(reader, [])
            _check_header(names, wanted)
            for cells in reader:
                line = reader.line_num
                if not cells:
                    continue
                if len(cells) != len(names):
                    raise InvalidInputError(f"{len(cells)} cells stand under {len(names)} names.")
                yield parse(dict(zip(names, cells, strict=True)))
    except InvalidInputError as error:
        raise InvalidInputError(f"{path.name}, line {line or 1}: {error.message}", fix=error.fix) from error
    except (UnicodeDecodeError, csv.Error) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise InvalidInputError(f"{path.name}, after line {line}: {reason}.", fix="Save it as UTF-8 CSV.") from error
    except OSError as error:
        raise InvalidInputError(
            f"cannot read {path}: {error.strerror}.", fix="Name a plain dataset folder with interactions.csv in it."
        ) from error


def _check_header(names: list[str], wanted: tuple[str, ...]) -> None:
    missing = [name for name in wanted if name not in names]
    if missing:
        raise InvalidInputError(
            f"the first line names no {', '.join(missing)}.", fix=f"It must hold the names {', '.join(wanted)}."
        )
    if len(set(names)) != len(names):
        raise InvalidInputError("the first line names a column twice.")


def _identifier(row: Row, name: str) -> str:
    identifier = row[name]
    if not 0 < len(identifier) <= ID_LENGTH_MAX or not identifier.isprintable():
        raise InvalidInputError(f"{name} must be 1 to {ID_LENGTH_MAX} printable characters.")
    return identifier


def _milliseconds(text: str) -> int:
    seconds = _number(text, "timestamp")
    if not 0 <= seconds < TIMESTAMP_MAX_S:
        raise InvalidInputError("timestamp must be Unix time in seconds.")
    return round(seconds * 1000)


def _what(row: Row) -> tuple[EventType, float | None]:
    value = _number(row["value"], "value") if row.get("value") else None
    named = row.get("event_type")
    if not named:
        return (EventType.RATING if value is not None else EventType.VIEW), value
    try:
        return EventType(named), value
    except ValueError as error:
        raise InvalidInputError(
            "event_type is not known.", fix=f"Use one of {', '.join(known.value for known in EventType)}."
        ) from error


def _number(text: str, name: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InvalidInputError(f"{name} must be a number.")
    return number
