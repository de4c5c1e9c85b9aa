"""The release that is tried beside the active one: one at a time, and on disk for as long as it is tried."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Generic

from infra.plumbing.errors import ConflictError
from region.releases.slots import L, Slot


class Beside(Generic[L]):
    """Where the tried release stands. Belongs to one event loop.

    Args:
        holding: keeps a release on disk while it lasts (`ReleaseStore.holding`): a pull deletes old releases, and what
            is promoted at the end of a trial must still be there after the next start.
    """

    def __init__(self, holding: Callable[[str], AbstractContextManager[None]]) -> None:
        self._holding = holding
        self._held = contextlib.ExitStack()
        self.slot: Slot[L] | None = None
        """What is tried; None: nothing is."""

    def check_free(self) -> None:
        """Whether another release may be loaded.

        Raises:
            ConflictError: one is being tried.
        """
        if self.slot is not None:
            raise ConflictError(f"Release {self.slot.release_id} is being tried here.", fix="Stop that trial first.")

    def take(self, slot: Slot[L]) -> None:
        """`slot` is tried from now on."""
        self._held.enter_context(self._holding(slot.release_id))
        self.slot = slot

    def clear(self) -> None:
        """Nothing is tried any more."""
        self.slot = None
        self._held.close()
