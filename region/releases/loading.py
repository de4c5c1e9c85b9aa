"""From a release on disk to one in memory: verified, loaded, warmed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic

from infra.plumbing.aside import aside
from region.releases.operations import REGION_ITSELF, Operations
from region.releases.slots import L, Slot
from region.releases.store import ReleaseDirectory, ReleaseStore

_log = logging.getLogger(__name__)


class Loader(Generic[L]):
    """Loads releases. What is in memory beside them is for others to count.

    Args:
        store: releases on disk.
        load: makes a release in memory of one on disk.
        operations: has the audit.
        serving: whether lists are made meanwhile, which come before.
    """

    def __init__(
        self, *, store: ReleaseStore, load: Callable[[ReleaseDirectory], Awaitable[L]], operations: Operations,
        serving: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._store = store
        self._load = load
        self._operations = operations
        self._serving = serving

    async def check(self, release: str) -> None:
        """Hash its files anew; where lists are made meanwhile these come first.

        Raises:
            NotFoundError, ReleaseDamagedError: it is not here, or its files changed since they were verified.
        """
        await (aside if self._serving() else asyncio.to_thread)(self._store.check, release)

    async def open(self, release: str) -> Slot[L]:
        """Load and warm a release that was checked.

        Raises:
            AtollError: it cannot be loaded, or does not answer.
        """
        directory = await asyncio.to_thread(self._store.directory, release)
        loaded = await self._load(directory)
        try:
            await loaded.warm()
        except BaseException:
            await loaded.close()
            raise
        return Slot(directory, loaded)

    async def try_to_load(self, release: str, *, action: str) -> Slot[L] | None:
        """Check and open `release`, with an audit entry either way; None when it cannot be loaded."""
        try:
            with self._store.holding(release):
                await self.check(release)
                slot = await self.open(release)
        except Exception as error:
            # Whatever a loader raises, a region that starts must look for another release to run.
            _log.exception("release %s could not be loaded", release)
            await self._operations.record(action, REGION_ITSELF, None, release, "failed", str(error))
            return None
        await self._operations.record(action, REGION_ITSELF, None, release, "done")
        return slot

    async def load_again(self, release: str) -> Slot[L] | None:
        """What stood by and had to make room."""
        return await self.try_to_load(release, action="warm")
