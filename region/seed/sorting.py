"""Interactions of one region's users, ordered by user, time and file row, in bounded memory.

A dataset may be larger than memory and in any order, so it is sorted in a temporary SQLite database, which spills
to disk; it is gone when it is closed.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

IMPRESSION = 0
SKIP = -1
_CACHE_KIB = 65_536


class Interaction(NamedTuple):
    """One row of `interactions.csv`: who, what, when, and how strong or `IMPRESSION` or `SKIP`."""

    user: str
    item: str
    at_ms: int
    strength: int


class Sorter:
    """Takes residents and interactions, gives the residents' interactions in order."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def add_residents(self, users: Iterable[str]) -> None:
        """Note users whose interactions are wanted."""
        self._connection.executemany(
            "INSERT INTO residents (user) VALUES (?) ON CONFLICT DO NOTHING", ((user,) for user in users)
        )

    def add_interactions(self, interactions: Iterable[Interaction]) -> None:
        """Note interactions, in file order."""
        self._connection.executemany(
            "INSERT INTO interactions (user, item, at_ms, strength) VALUES (?, ?, ?, ?)", interactions
        )

    def ordered(self, *, residents_only: bool) -> Iterator[Interaction]:
        """Interactions by user, then time, then file row."""
        where = "WHERE user IN (SELECT user FROM residents)" if residents_only else ""
        found = self._connection.execute(
            f"SELECT user, item, at_ms, strength FROM interactions {where} ORDER BY user, at_ms, position"  # noqa: S608
        )
        return map(Interaction._make, found)


@contextmanager
def open_sorter() -> Iterator[Sorter]:
    """A sorter whose temporary files go away with it."""
    connection = sqlite3.connect("", isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute("CREATE TABLE residents (user TEXT PRIMARY KEY) WITHOUT ROWID")
        connection.execute(
            "CREATE TABLE interactions"
            " (position INTEGER PRIMARY KEY, user TEXT, item TEXT, at_ms INTEGER, strength INTEGER)"
        )
        connection.execute("BEGIN")
        yield Sorter(connection)
    finally:
        connection.close()
