"""Keeps the mapped files of the releases in memory, below a bound (`infra.plumbing.mapped`).

A page that is not there yet costs a list a microsecond or two, and a list reads thousands of them. So the files of the
active release are brought in once it is active: all of them where they fit below the bound, else those that many rows
share a page of, and of these as many as fit below half of it.
"""

import asyncio
import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager

from prometheus_client import CollectorRegistry, Counter, Gauge

from infra.plumbing.errors import UnavailableError
from infra.plumbing.mapped import Span, fill, let_go, resident_file_bytes
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
        self._filled: weakref.ref[LoadedRelease] | None = None
        self._kept: frozenset[Span] = frozenset()
        self._size = Gauge(
            "atoll_region_mapped_resident_bytes", "Memory that mapped files take, as looked at last.", registry=registry
        )
        self._times = Counter("atoll_region_mapped_let_go", "How often their pages were let go of.", registry=registry)

    async def look(self) -> None:
        """Bring in the active release, if that is another than at the last look; let go of pages if there are too many.

        Raises:
            OSError: the kernel does not say how much there is, or a file cannot be read.
        """
        with contextlib.suppress(UnavailableError), self._lease() as active:
            self._releases.add(active)
            if self._filled is None or self._filled() is not active:
                self._filled = weakref.ref(active)
                await self._fill(active)
        size = self._resident()
        self._size.set(size)
        # Libraries, models and suggestions are mapped too, and stay: where they alone are too much, pages are not let
        # go of at every look.
        if size <= max(self._bytes_max, self._staying + self._bytes_max // 2):
            return
        for release in list(self._releases):
            spans = [span for span in release.tables.mapped if span not in self._kept]
            await asyncio.to_thread(let_go, spans)
        self._staying = self._resident()
        self._times.inc()

    async def _fill(self, active: LoadedRelease) -> None:
        """In the place of what was active before, whose pages come back one by one should it be needed again."""
        for release in self._releases - {active}:
            await asyncio.to_thread(let_go, release.tables.mapped)
        mapped = active.tables.mapped
        fits = self._resident() + sum(length for _, length in mapped) <= self._bytes_max
        self._kept = frozenset() if fits else frozenset(_dense(mapped, self._bytes_max // 2))
        await asyncio.to_thread(fill, mapped if fits else self._kept)


def _dense(spans: Iterable[Span], bytes_max: int) -> Iterator[Span]:
    """Those of the `spans` with the most rows to a page, no more than `bytes_max` together; all have as many rows."""
    left = bytes_max
    for span in sorted(spans, key=lambda span: span[1]):
        if span[1] <= left:
            left -= span[1]
            yield span
