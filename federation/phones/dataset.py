"""Users of a plain dataset folder as owners of phones: who, where, and which of their events are sensitive."""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from infra.contracts.events import Event, EventType, SensitiveEvent, enters_history, event_strength
from infra.plumbing.errors import InvalidInputError

EVENTS_PER_USER_MIN = 8
SENSITIVE_SHARE = 0.2
"""Share of all events that the sensitive categories aim at when none are named."""


@dataclass(frozen=True, slots=True)
class Row:
    """One interaction, in the order of the file."""

    user: str
    item: str
    at_ms: int
    type: EventType
    value: float | None


@dataclass(frozen=True, slots=True)
class Owner:
    """A user who has a phone. `rows` are in time order; the last one is held out for measuring."""

    user: str
    region: str
    rows: tuple[Row, ...]

    @property
    def known(self) -> tuple[Row, ...]:
        """What the phone has seen."""
        return self.rows[:-1]

    @property
    def held_out(self) -> Row:
        """What it is to predict."""
        return self.rows[-1]


def read_regions(directory: Path) -> tuple[str, ...]:
    """The home regions of the dataset's users, sorted.

    Raises:
        InvalidInputError: users.csv is missing, or names no region.
    """
    found = {row["region"] for row in _rows(directory / "users.csv", ("user_id", "region"))} - {""}
    if not found:
        raise InvalidInputError("users.csv names no region.", fix="Give each user a home region.")
    return tuple(sorted(found))


def read_owners(
    directory: Path, *, regions: Sequence[str], per_region: int, rng: np.random.Generator
) -> list[Owner]:  # fmt: skip
    """`per_region` users of each region, drawn among those with enough events.

    Raises:
        InvalidInputError: a file or column is missing, a row is malformed, or a region has too few users.
    """
    homes = {row["user_id"]: row.get("region", "") for row in _rows(directory / "users.csv", ("user_id", "region"))}
    by_user: dict[str, list[Row]] = {}
    for row in read_interactions(directory):
        if homes.get(row.user) in regions:
            by_user.setdefault(row.user, []).append(row)
    owners: list[Owner] = []
    for region in regions:
        users = sorted(
            user for user, rows in by_user.items() if homes[user] == region and len(rows) >= EVENTS_PER_USER_MIN
        )
        if len(users) < per_region:
            raise InvalidInputError(
                f"region {region} has {len(users)} users with at least {EVENTS_PER_USER_MIN} events; "
                f"{per_region} phones were asked for.",
                fix="Ask for fewer phones per region.",
            )
        for user in rng.choice(np.array(users), size=per_region, replace=False):
            # Stable: rows of one moment keep the order of the file.
            rows = sorted(by_user[str(user)], key=lambda row: row.at_ms)
            owners.append(Owner(str(user), region, tuple(rows)))
    return owners


def read_interactions(directory: Path) -> Iterator[Row]:
    """The interactions that enter a history, in file order.

    Raises:
        InvalidInputError: the file or a column is missing, or a row is malformed.
    """
    path = directory / "interactions.csv"
    for number, row in enumerate(_rows(path, ("user_id", "item_id", "timestamp")), start=2):
        try:
            kind = EventType(row.get("event_type") or EventType.VIEW)
            value = float(row["value"]) if row.get("value") else None
            at_ms = round(float(row["timestamp"]) * 1000)
        except ValueError as error:
            raise InvalidInputError(f"{path.name}, line {number}: {error}.") from error
        if enters_history(kind):
            yield Row(row["user_id"], row["item_id"], at_ms, kind, value)


def read_categories(directory: Path) -> dict[str, tuple[str, ...]]:
    """Categories of each item; empty when the folder has no items.csv."""
    path = directory / "items.csv"
    if not path.exists():
        return {}
    return {
        row["item_id"]: tuple(part for part in (row.get("category") or "").split("|") if part)
        for row in _rows(path, ("item_id",))
    }


def sensitive_categories(
    named: Sequence[str], owners: Sequence[Owner], categories: Mapping[str, tuple[str, ...]]
) -> frozenset[str]:
    """The named categories, or the one whose share of the owners' events is nearest SENSITIVE_SHARE."""
    if named:
        return frozenset(named)
    counts = Counter(category for owner in owners for row in owner.rows for category in categories.get(row.item, ()))
    total = max(1, sum(len(owner.rows) for owner in owners))
    ranked = sorted(counts, key=lambda category: (abs(counts[category] / total - SENSITIVE_SHARE), category))
    return frozenset(ranked[:1])


def is_sensitive(row: Row, hidden: frozenset[str], categories: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether an event stays on the phone."""
    return not hidden.isdisjoint(categories.get(row.item, ()))


def served_event(row: Row, index: int) -> Event:
    """The event as the region got it too."""
    return Event(event_id=f"phone-{index:08d}", type=row.type, item=row.item, at_ms=row.at_ms, value=row.value)


def sensitive_event(row: Row) -> SensitiveEvent:
    """The event as the phone keeps it."""
    return SensitiveEvent(item=row.item, strength=event_strength(row.type, row.value), at_ms=row.at_ms)


def _rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise InvalidInputError(f"{path.name} has no column {', '.join(missing)}.")
            yield from reader
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError(f"{path.name} cannot be read: {error}.", fix="Name a plain dataset folder.") from error
