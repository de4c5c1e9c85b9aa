"""The lists in use: loaded at the start, changed at every release switch, never taken away before others are there."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from edge.jitter import Uniform
from edge.lists.library import ListLibrary, why
from edge.lists.release_lists import LoadedLists
from infra.plumbing.errors import AtollError
from infra.plumbing.telemetry import Telemetry

_JITTER = 0.2
T = TypeVar("T")


class ListShelf:
    """Holds the current lists and fetches others when the region names another release.

    Args:
        library: where lists come from; blocking, so it is called in a thread.
        poll_s: mean time between two tries while what is wanted is missing.
        counted: told the outcome of every try.
    """

    def __init__(
        self,
        *,
        library: ListLibrary,
        telemetry: Telemetry,
        uniform: Uniform,
        poll_s: float,
        counted: Callable[[str], None],
    ) -> None:
        self._library = library
        self._telemetry = telemetry
        self._uniform = uniform
        self._poll_s = poll_s
        self._counted = counted
        self._wanted: str | None = None
        self._changed = asyncio.Event()
        self.current: LoadedLists | None = None

    def want(self, release: str) -> None:
        """The region answers from `release` now: its lists should be the ones in use."""
        if release != self._wanted:
            self._wanted = release
            self._changed.set()

    async def run(self) -> None:
        """Load what is wanted until cancelled; the disk first, so that a start needs nobody."""
        while True:
            self._changed.clear()
            if await self._load(self._wanted):
                await self._changed.wait()
            else:
                wait_s = self._poll_s * self._uniform(1.0 - _JITTER, 1.0 + _JITTER)
                await _event_or_timeout(self._changed, wait_s)

    async def _load(self, wanted: str | None) -> bool:
        """Whether the lists in use are now the wanted ones."""
        if self.current is not None and self.current.release == wanted:
            return True
        held = await asyncio.to_thread(self._library.from_disk, wanted)
        if held is not None:
            self._use(held, "disk")
            if wanted is not None:
                await self._write(self._library.mark_current, held.release)
                return True
        # Without a word from the region the channel says which release it is; what lay on the disk bridges until then.
        if await self._fetch(wanted):
            return True
        if self.current is None and wanted is not None:
            # The region's release cannot be had. Any release's lists are better than none, and the right ones are
            # tried again.
            await self._load(None)
        return False

    async def _fetch(self, wanted: str | None) -> bool:
        try:
            fetched = await asyncio.to_thread(self._library.from_repository, wanted)
        except (AtollError, OSError) as error:
            self._counted(why(error))
            self._telemetry.logger.warning(
                "the release's lists could not be loaded", extra={"fields": {"why": str(error)}}
            )
            return False
        self._use(fetched.lists, "repository")
        await self._write(self._library.keep, fetched)
        await self._write(self._library.mark_current, fetched.lists.release)
        return True

    async def _write(self, write: Callable[[T], None], what: T) -> None:
        """A disk that cannot be written costs the next start its short cut, not this one its lists."""
        try:
            await asyncio.to_thread(write, what)
        except OSError as error:
            self._counted("not-kept")
            self._telemetry.logger.warning("lists could not be kept on disk", extra={"fields": {"why": str(error)}})

    def _use(self, lists: LoadedLists, origin: str) -> None:
        self._counted(origin)
        if self.current is None or self.current.release != lists.release:
            self._telemetry.logger.info(
                "using a release's lists", extra={"fields": {"release": lists.release, "from": origin}}
            )
        self.current = lists


async def _event_or_timeout(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
