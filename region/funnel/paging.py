"""Keeps the mapped files of the releases in memory, below a bound (`infra.plumbing.mapped`).

A page that is not there yet costs a list a microsecond or two, and a list reads thousands of them. So the files of the
active release are brought in once it is active: all of them where they fit below the bound, else those that many rows
share a page of, and of these as many as fit below half of it. Before it is active already they are brought in beside
those of the release that is (`prepare`), as far as memory allows: a thousand rows of a million items that lie apart
take 3 ms to find otherwise, in every table, for each of the first lists.

The bound is what the region was told, or else follows from the release and the machine: pages that no list has to look
for are worth more than memory that is the disk's cache anyway, and the kernel takes clean pages of a file from a
process when it needs them. Ten million items have 10.5 GB: half of the time of a list is looking for their pages, where
they may not stay.
"""

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge

from infra.plumbing.aside import aside
from infra.plumbing.errors import UnavailableError
from infra.plumbing.mapped import Span, fill, let_go, machine_memory_bytes, resident_file_bytes
from region.funnel.release import LoadedRelease

_log = logging.getLogger(__name__)
PREPARED_WITHIN_S = 0.5
"""A switch waits no longer for pages, as a roll-back is to be done within a second; the rest comes beside lists."""
BOUND_BYTES_MIN = 2 << 30
"""Where nothing else was told: a million items of 64 dimensions and all libraries fit."""
MACHINE_SHARE = 2 / 3
"""Of the machine's memory: what files of a release may take of it at most, where nothing else was told."""
SLACK_BYTES = 256 << 20
"""Beside the files of the active release: what else stays mapped, and pages of another that is tried."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What mapped files may take of this process's memory, and why so much."""

    bytes_max: int
    why: str


def bound_for(release_bytes: int, beside_bytes: int, machine_bytes: int) -> Bound:
    """For a release with `release_bytes` of files, where `beside_bytes` of others are mapped, and stay."""
    wanted, most = release_bytes + beside_bytes + SLACK_BYTES, int(MACHINE_SHARE * machine_bytes)
    needs = f"the active release's files need {wanted >> 20:,} MB"
    if wanted <= BOUND_BYTES_MIN:
        return Bound(BOUND_BYTES_MIN, f"{needs}, less than the least that is always allowed")
    if wanted <= most:
        return Bound(wanted, needs)
    bound = max(most, BOUND_BYTES_MIN)
    share = f"two thirds of the machine's {machine_bytes >> 20:,} MB are {most >> 20:,}"
    return Bound(bound, f"{needs}, but {share}: lists wait for pages; more memory, or fewer items a node, helps")


class Pager:
    """Lets go of the pages of releases when there are too many of them. Belongs to one event loop.

    Args:
        bytes_max: what mapped files may take of this process's memory; None: what `bound_for` says of each release.
        lease: holds the active release open; one that was active is watched until nobody holds it any more.
        resident: how much they take now.
        machine_bytes: how much memory there is.
    """

    def __init__(
        self, *, bytes_max: int | None, lease: Callable[[], AbstractContextManager[LoadedRelease]],
        registry: CollectorRegistry, resident: Callable[[], int] = resident_file_bytes,
        machine_bytes: Callable[[], int] = machine_memory_bytes,
    ) -> None:  # fmt: skip
        self._told = bytes_max
        self.bound = Bound(BOUND_BYTES_MIN if bytes_max is None else bytes_max, "no release is active yet")
        """What holds now."""
        self._lease = lease
        self._resident = resident
        self._machine_bytes = machine_bytes
        self._staying = 0
        self._releases: weakref.WeakSet[LoadedRelease] = weakref.WeakSet()
        self._filled: weakref.ref[LoadedRelease] | None = None
        self._kept: frozenset[Span] = frozenset()
        self._coming: tuple[weakref.ref[LoadedRelease], int] | None = None
        """What is about to be active, and the bytes of it that were brought in."""
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
        bytes_max = self.bound.bytes_max
        if size <= max(bytes_max, self._staying + bytes_max // 2) + self._coming_bytes():
            return
        for release in list(self._releases):
            spans = [span for span in release.tables.mapped if span not in self._kept]
            await aside(let_go, spans)
        self._staying = self._resident()
        self._times.inc()

    async def prepare(self, coming: LoadedRelease) -> None:
        """Bring in a release that is about to be active, for PREPARED_WITHIN_S at most; it is active soon, or goes."""
        most = int(MACHINE_SHARE * self._machine_bytes()) if self._told is None else self._told
        spans = tuple(_dense(coming.tables.mapped, most - self._resident()))
        self._coming = weakref.ref(coming), sum(length for _, length in spans)
        filling = asyncio.ensure_future(aside(fill, spans))
        filling.add_done_callback(_note_failure)
        await asyncio.wait((filling,), timeout=PREPARED_WITHIN_S)

    def _coming_bytes(self) -> int:
        return self._coming[1] if self._coming is not None and self._coming[0]() is not None else 0

    async def _fill(self, active: LoadedRelease) -> None:
        """In the place of what was active before, whose pages come back one by one should it be needed again."""
        for release in self._releases - {active}:
            await aside(let_go, release.tables.mapped)
        here = self._coming_bytes() if self._coming is not None and self._coming[0]() is active else 0
        self._coming = None
        mapped, beside = active.tables.mapped, max(0, self._resident() - here)
        whole = sum(length for _, length in mapped)
        self.bound = self._bound(whole, beside)
        _log.info(
            "files of release %s: bound of %s MB (%s)", active.release_id, self.bound.bytes_max >> 20, self.bound.why
        )
        fits = beside + whole <= self.bound.bytes_max
        self._kept = frozenset() if fits else frozenset(_dense(mapped, self.bound.bytes_max // 2))
        await aside(fill, mapped if fits else self._kept)

    def _bound(self, release_bytes: int, beside_bytes: int) -> Bound:
        if self._told is not None:
            return Bound(self._told, "the region's settings say so")
        return bound_for(release_bytes, beside_bytes, self._machine_bytes())


def _note_failure(filling: "asyncio.Future[None]") -> None:
    if not filling.cancelled() and (error := filling.exception()) is not None:
        # Lists find their pages one by one, then.
        _log.warning("files of a release could not be brought in: %r", error)


def _dense(spans: Iterable[Span], bytes_max: int) -> Iterator[Span]:
    """Those of the `spans` with the most rows to a page, no more than `bytes_max` together; all have as many rows."""
    left = bytes_max
    for span in sorted(spans, key=lambda span: span[1]):
        if span[1] <= left:
            left -= span[1]
            yield span
