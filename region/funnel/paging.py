"""Keeps the mapped files of the releases in memory below a bound (`infra.plumbing.mapped`)."""

import asyncio
import contextlib
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager

from prometheus_client import CollectorRegistry, Counter, Gauge

from infra.plumbing.errors import UnavailableError
from infra.plumbing.mapped import let_go, resident_file_bytes
from region.funnel.release import LoadedRelease


class Pager:
    """Lets go of the pages of releases when there are too many of them. Belongs to one event loop.

    Args:
        bytes_max: what mapped files may take of this process's memory.
        lease: holds the active release open; one that was active is watched until nobody holds it any more.
        resident: how much they take now.
    """

    def __init__(
        self, *, bytes_max: int, lease: Callable[[], AbstractContextManager[LoadedRelease]],
        registry: CollectorRegistry, resident: Callable[[], int] = resident_file_bytes,
    ) -> None:  # fmt: skip
        self._bytes_max = bytes_max
        self._lease = lease
        self._resident = resident
        self._staying = 0
        self._releases: weakref.WeakSet[LoadedRelease] = weakref.WeakSet()
        self._size = Gauge(
            "atoll_region_mapped_resident_bytes", "Memory that mapped files take, as looked at last.", registry=registry
        )
        self._times = Counter("atoll_region_mapped_let_go", "How often their pages were let go of.", registry=registry)

    async def look(self) -> None:
        """Let go of all pages if they take more than they may.

        Raises:
            OSError: the kernel does not say how much there is.
        """
        with contextlib.suppress(UnavailableError), self._lease() as active:
            self._releases.add(active)
        size = self._resident()
        self._size.set(size)
        # Libraries, models and suggestions are mapped too, and stay: where they alone are too much, pages are not let
        # go of at every look.
        if size <= max(self._bytes_max, self._staying + self._bytes_max // 2):
            return
        for release in list(self._releases):
            await asyncio.to_thread(let_go, release.tables.mapped)
        self._staying = self._resident()
        self._times.inc()
