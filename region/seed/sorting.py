"""Interactions of one region's users, ordered by user, time and file row, in bounded memory.

A dataset may be larger than memory and in any order, so it is sorted in a temporary SQLite database, which spills
to disk; it is gone when it is closed.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from infra.contracts.events import EventType, ItemLabels

_CACHE_KIB = 65_536
BETWEEN = "|"
"""Stands between categories, as in `items.csv`."""


class Interaction(NamedTuple):
    """One row of `interactions.csv`: who did what with which item, and when; and what the item is."""

    user: str
    item: str
    at_ms: int
    kind: EventType
    value: float | None = None
    labels: ItemLabels = ItemLabels()


class Sorter:
    """Takes residents, items and interactions, gives the residents' interactions in order."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def add_residents(self, users: Iterable[str]) -> None:
        """Note users whose interactions are wanted."""
        self._connection.executemany(
            "INSERT INTO residents (user) VALUES (?) ON CONFLICT DO NOTHING", ((user,) for user in users)
        )

    def add_items(self, items: Iterable[tuple[str, ItemLabels]]) -> None:
        """Note what items are; the first word on an item counts."""
        self._connection.executemany(
            "INSERT INTO items (item, categories, brand, creator) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            ((item, BETWEEN.join(labels.categories), labels.brand, labels.creator) for item, labels in items),
        )

    def add_interactions(self, interactions: Iterable[Interaction]) -> None:
        """Note interactions, in file order."""
        self._connection.executemany(
            "INSERT INTO interactions (user, item, at_ms, kind, value) VALUES (?, ?, ?, ?, ?)",
            ((one.user, one.item, one.at_ms, one.kind.value, one.value) for one in interactions),
        )

    def ordered(self, *, residents_only: bool) -> Iterator[Interaction]:
        """Interactions by user, then time, then file row."""
        where = "WHERE user IN (SELECT user FROM residents)" if residents_only else ""
        found = self._connection.execute(
            "SELECT user, interactions.item, at_ms, kind, value, categories, brand, creator"  # noqa: S608 - our own text
            f" FROM interactions LEFT JOIN items USING (item) {where} ORDER BY user, at_ms, position"
        )
        for user, item, at_ms, kind, value, categories, brand, creator in found:
            labels = ItemLabels(
                categories=tuple(categories.split(BETWEEN)) if categories else (), brand=brand or "",
                creator=creator or "",
            )  # fmt: skip
            yield Interaction(user, item, at_ms, EventType(kind), value, labels)


@contextmanager
def open_sorter() -> Iterator[Sorter]:
    """A sorter whose temporary files go away with it."""
    connection = sqlite3.connect("", isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute("CREATE TABLE residents (user TEXT PRIMARY KEY) WITHOUT ROWID")
        connection.execute(
            "CREATE TABLE items (item TEXT PRIMARY KEY, categories TEXT, brand TEXT, creator TEXT) WITHOUT ROWID"
        )
        connection.execute(
            "CREATE TABLE interactions"
            " (position INTEGER PRIMARY KEY, user TEXT, item TEXT, at_ms INTEGER, kind TEXT, value REAL)"
        )
        connection.execute("BEGIN")
        yield Sorter(connection)
    finally:
        connection.close()
