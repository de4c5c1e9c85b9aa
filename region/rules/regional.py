"""The items that a region's operators have withdrawn, kept on its disk."""

import threading
from pathlib import Path

import msgspec

from infra.plumbing.errors import InvalidInputError, SettingsError
from infra.plumbing.files import write_atomically

WITHDRAWN_FILE = "withdrawn.json"
WITHDRAWN_MAX = 100_000


class Withdrawals:
    """Items that may not be shown in this region, durable across restarts. `change` blocks; safe between threads.

    Raises:
        SettingsError: the file exists and cannot be read: serving withdrawn items would be worse than not starting.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / WITHDRAWN_FILE
        self._mutex = threading.Lock()
        self._items = self._load()
        self._published: frozenset[str] = frozenset()
        self._all = self._items
        self.edition = 0
        """Goes up with every change, so that what was derived from the items can be kept until then."""

    @property
    def items(self) -> frozenset[str]:
        """The items withdrawn now, by calls and by the published file. The same object until something changes."""
        return self._all

    @property
    def called(self) -> frozenset[str]:
        """Those that were withdrawn by calls."""
        return self._items

    @property
    def published(self) -> frozenset[str]:
        """Those that the region's published file withdraws; no call restores them."""
        return self._published

    def publish(self, items: frozenset[str]) -> None:
        """Withdraw what the published file says, in place of what it said before. It lies on disk already."""
        with self._mutex:
            self._published = items
            self._changed()

    def change(self, *, withdrawn: tuple[str, ...], restored: tuple[str, ...]) -> None:
        """Withdraw and restore; on disk before it holds in memory. An item in both is withdrawn.

        Raises:
            InvalidInputError: more items would be withdrawn than WITHDRAWN_MAX.
            OSError: the disk does not take it; nothing has changed.
        """
        with self._mutex:
            items = (self._items - set(restored)) | set(withdrawn)
            if items == self._items:
                return
            if len(items) > WITHDRAWN_MAX:
                raise InvalidInputError(
                    f"more than {WITHDRAWN_MAX} items would be withdrawn.", fix="Leave them out of the catalogue."
                )
            write_atomically(self._path, msgspec.json.encode(sorted(items)))
            self._items = frozenset(items)
            self._changed()

    def _changed(self) -> None:
        self._all = self._items | self._published
        self.edition += 1

    def _load(self) -> frozenset[str]:
        try:
            return frozenset(msgspec.json.decode(self._path.read_bytes(), type=list[str]))
        except FileNotFoundError:
            return frozenset()
        except (OSError, msgspec.DecodeError) as error:
            raise SettingsError(
                f"the list of withdrawn items {self._path} cannot be read.",
                fix="Repair it: a JSON list of item ids. Removing it shows every item again.",
            ) from error
