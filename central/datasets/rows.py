"""Rows of a dataset on their way into the plain folder layout, each checked where it enters."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NamedTuple

from central.datasets.text import DatasetError
from infra.contracts.events import EventType

DEFAULT_REGION: Final = "us-central"
_EVENT_TYPES: Final = frozenset(kind.value for kind in EventType)
_SECONDS_MAX: Final = 100_000_000_000.0
"""Year 5138 in seconds; what is above is milliseconds."""


class InteractionRow(NamedTuple):
    """One interaction as the plain folder writes it: all text, `timestamp` in Unix seconds or empty."""

    user_id: str
    item_id: str
    timestamp: str
    event_type: str
    value: str


class ItemRow(NamedTuple):
    """One item as the plain folder writes it; categories stand between `|`.

    `extra` keeps the other columns: `brand`, `creator`, `price`, `created_s`, and attributes; values stand between `|`.
    """

    item_id: str
    title: str
    category: str
    year: str
    extra: tuple[tuple[str, str], ...] = ()


ITEM_COLUMNS: Final = ItemRow._fields[:4]
"""The columns that every canonical `items.csv` begins with."""


class UserRow(NamedTuple):
    """One user as the plain folder writes it; `region` may be empty, `extra` keeps the other columns."""

    user_id: str
    region: str
    extra: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A dataset somewhere, readable row by row as often as wanted; errors name file and line.

    `interactions` yields (line number, row, region of the row or empty).
    """

    name: str
    interactions: Callable[[], Iterator[tuple[int, InteractionRow, str]]]
    interactions_file: str = "interactions.csv"
    items: Callable[[], Iterator[tuple[int, ItemRow]]] = field(default=lambda: iter(()))
    items_file: str = "items.csv"
    catalogue: bool = False
    """Whether `items` is the catalogue: what nobody has touched yet belongs to it. A public collection's list of titles
    is none, and its figures are compared over what has an event."""
    users: Callable[[], Iterator[tuple[int, UserRow]]] = field(default=lambda: iter(()))
    users_file: str = "users.csv"
    test: Callable[[], Iterator[tuple[int, InteractionRow, str]]] | None = None
    has_times: bool = True
    unread: tuple[str, ...] = ()
    """Columns of the interactions that mean nothing here."""


def check_interaction(row: InteractionRow, *, where: str, has_times: bool) -> InteractionRow:
    """The row in canonical form.

    Raises:
        DatasetError: an empty id, an unknown event type, or a timestamp or value that makes no sense.
    """
    if not row.user_id or not row.item_id:
        raise DatasetError(f"{where}: empty {'user_id' if not row.user_id else 'item_id'}", fix="Remove the row.")
    kind = row.event_type or (EventType.RATING.value if row.value else EventType.CLICK.value)
    if kind not in _EVENT_TYPES:
        raise DatasetError(
            f"{where}: unknown event_type {kind!r}", fix=f"Use one of {', '.join(sorted(_EVENT_TYPES))}."
        )
    time = _check_time(row.timestamp, where) if has_times else ""
    return InteractionRow(row.user_id, row.item_id, time, kind, _check_value(row.value, kind, where))


def region_of_zip_code(zip_code: str) -> str:
    """Home region of a MovieLens user: by the first digit of the zip code, else the middle."""
    first = zip_code[:1]
    if not (first.isascii() and first.isdigit()):
        return DEFAULT_REGION
    return "us-east" if first <= "2" else "us-central" if first <= "6" else "us-west"


def _check_time(text: str, where: str) -> str:
    try:
        seconds = float(text)
    except ValueError:
        seconds = _iso_seconds(text, where)
    if not math.isfinite(seconds) or seconds < 0.0:
        raise DatasetError(f"{where}: timestamp {text!r} is not a moment", fix="Use Unix seconds or ISO 8601.")
    if seconds > _SECONDS_MAX:
        raise DatasetError(f"{where}: timestamp {text!r} is not in seconds", fix="Divide milliseconds by 1,000.")
    return str(int(seconds)) if seconds == int(seconds) else repr(seconds)


def _iso_seconds(text: str, where: str) -> float:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise DatasetError(
            f"{where}: timestamp {text!r} is not a number of seconds", fix="Use Unix seconds or ISO 8601."
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _check_value(text: str, kind: str, where: str) -> str:
    if not text:
        return ""
    try:
        value = float(text)
    except ValueError:
        raise DatasetError(f"{where}: value {text!r} is not a number", fix="Leave it empty if unknown.") from None
    if kind == EventType.RATING and not 0.0 <= value <= 5.0:
        raise DatasetError(f"{where}: rating {text} is outside 0 to 5", fix="Scale ratings to 1 to 5.")
    if kind == EventType.WATCH and not 0.0 <= value <= 1.0:
        raise DatasetError(f"{where}: watched share {text} is outside 0 to 1", fix="Give the share, not minutes.")
    if not math.isfinite(value):
        raise DatasetError(f"{where}: value {text!r} is not finite", fix="Leave it empty if unknown.")
    return f"{value:g}"
