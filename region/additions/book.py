"""The items added since the release, on this node's disk: durable before they hold, bounded, merged by time."""

import threading
from collections.abc import Iterable
from pathlib import Path

import msgspec

from infra.contracts.residency import encode_regional
from infra.plumbing.errors import ConflictError, SettingsError
from infra.plumbing.files import write_atomically
from region.additions.messages import Addition, AdditionsNews

ADDITIONS_FILE = "additions.json"
ADDITIONS_MAX = 500
"""Items that may be new at one time: half of a release's seats, so that what is removed need not be reused at once."""
REMOVALS_KEPT = 500
"""Removals that are remembered, so that a node that was away does not bring an item back."""


class TooManyAdditionsError(ConflictError):
    """More items would be new than a release has room for."""


class AdditionBook:
    """Added items by id. `take` and `drop` block; safe between threads.

    Args:
        directory: where the file lies.

    Raises:
        SettingsError: the file exists and cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / ADDITIONS_FILE
        self._mutex = threading.Lock()
        self._entries = self._load()

    @property
    def live(self) -> tuple[Addition, ...]:
        """What is added now, latest first."""
        living = [entry for entry in self._entries.values() if entry.item is not None]
        return tuple(sorted(living, key=lambda entry: (-entry.added_at_ms, entry.name)))

    @property
    def entries(self) -> tuple[Addition, ...]:
        """What is added, and what was removed lately."""
        return tuple(self._entries.values())

    def get(self, name: str) -> Addition | None:
        """The last word on an item."""
        return self._entries.get(name)

    def take(self, additions: Iterable[Addition]) -> tuple[Addition, ...]:
        """Take over what is newer than what is here; returns that. On disk before it holds in memory.

        Raises:
            TooManyAdditionsError: more than ADDITIONS_MAX items would be new; nothing has changed.
            OSError: the disk does not take it; nothing has changed.
        """
        with self._mutex:
            news = tuple(one for one in additions if one.newer_than(self._entries.get(one.name)))
            if news:
                self._replace({**self._entries, **{one.name: one for one in news}})
            return news

    def drop(self, names: Iterable[str]) -> None:
        """Forget items that releases hold by now.

        Raises:
            OSError: the disk does not take it; nothing has changed.
        """
        with self._mutex:
            gone = {name for name in names if name in self._entries}
            if gone:
                self._replace({name: entry for name, entry in self._entries.items() if name not in gone})

    def _replace(self, entries: dict[str, Addition]) -> None:
        removed = sorted((one for one in entries.values() if one.item is None), key=lambda one: one.changed_at_ms)
        if len(entries) - len(removed) > ADDITIONS_MAX:
            raise TooManyAdditionsError(
                f"more than {ADDITIONS_MAX} items would be new at one time.",
                fix="Remove some, or build a release that holds them.",
            )
        for old in removed[: max(0, len(removed) - REMOVALS_KEPT)]:
            del entries[old.name]
        kept = AdditionsNews(node="", additions=tuple(entries.values()))
        write_atomically(self._path, encode_regional(kept))
        self._entries = entries

    def _load(self) -> dict[str, Addition]:
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=AdditionsNews)
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"the added items {self._path} cannot be read.",
                fix="Restore the file; removing it forgets the items that were added since the release.",
            ) from error
        return {one.name: one for one in kept.additions}
