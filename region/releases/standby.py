"""The release to roll back to: in memory while there is room for it, back from disk when there is room again."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic

from region.releases.retiring import Retirement
from region.releases.slots import L, Slot


class Standby(Generic[L]):
    """Holds the release before the active one. Belongs to one event loop.

    Args:
        retirement: where a release goes that is not needed any more.
        load: a release from disk, or None when it cannot be loaded.
        wanted: which release should stand by; None: there is none, or no room for it now.
        own: runs work to its end, whoever waits for it.
    """

    def __init__(
        self, *, retirement: Retirement[L], load: Callable[[str], Awaitable[Slot[L] | None]],
        wanted: Callable[[], str | None], own: Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"],
    ) -> None:  # fmt: skip
        self._retirement = retirement
        self._load = load
        self._wanted = wanted
        self._own = own
        self._warming: asyncio.Task[None] | None = None
        self.slot: Slot[L] | None = None
        """What stands by; None while it is away."""

    def take(self, slot: Slot[L] | None, *, unless: Slot[L]) -> None:
        """`slot` stands by from now on; what did before goes, `unless` that is the one it is."""
        before, self.slot = self.slot, slot
        if before is not None and before is not unless:
            self._retirement.retire(before)
        self.come_back()

    def come_back(self) -> None:
        """Have it in memory again, if it is away and there is room; in the background."""
        if self.slot is None and self._wanted() is not None and (self._warming is None or self._warming.done()):
            self._warming = self._own(self._warm())

    async def ready(self) -> None:
        """Wait until what is on its way into memory is there."""
        if self._warming is not None:
            await asyncio.wait((self._warming,))

    async def go_away(self) -> None:
        """Out of memory, to make room: returns when nothing but the active release is left there."""
        # What is half in memory cannot be stopped there: it comes in, and goes.
        await self.ready()
        if self.slot is not None:
            self._retirement.retire(self.slot)
        self.slot = None
        await self._retirement.settled()

    async def _warm(self) -> None:
        await self._retirement.settled()
        release = self._wanted()
        slot = await self._load(release) if release is not None else None
        if slot is None:
            return
        if self.slot is None and self._wanted() == release:
            self.slot = slot
        else:
            self._retirement.retire(slot)
