"""Releases in memory: what a loaded release must be able to do, and who works with it."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from infra.plumbing.tuf_client.manifests import total_bytes
from region.releases.messages import ReleaseStatus
from region.releases.state import RegionReleases
from region.releases.store import ReleaseDirectory


class LoadedRelease(Protocol):
    """A release in memory, as the funnel made it."""

    async def warm(self) -> None:
        """Do what the first requests would otherwise wait for. Raises if the release cannot answer."""

    async def close(self) -> None:
        """Give memory and processes back."""


L = TypeVar("L", bound=LoadedRelease)


def _unused() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass(slots=True, eq=False)
class Slot(Generic[L]):
    """A loaded release and how many requests work with it right now."""

    directory: ReleaseDirectory
    loaded: L
    users: int = 0
    unused: asyncio.Event = field(default_factory=_unused)
    """Set while no request works with it."""

    @property
    def release_id(self) -> str:
        """Its release."""
        return self.directory.release_id

    @contextlib.contextmanager
    def held(self) -> Iterator[L]:
        """The loaded release, which is not closed before the block ends."""
        self.users += 1
        self.unused.clear()
        try:
            yield self.loaded
        finally:
            self.users -= 1
            if self.users == 0:
                self.unused.set()


@dataclass(frozen=True, slots=True)
class Operation:
    """What is being done, by whom, since when."""

    operator: str
    action: str
    release: str | None
    since_s: float

    def describe(self, now_s: float) -> str:
        """In words, without the operator's name."""
        what = f"{self.action} {self.release}" if self.release else self.action
        return f"{what}, for {max(0.0, now_s - self.since_s):.1f} s"


def status_of(item: ReleaseDirectory, state: RegionReleases, active: str | None, warm: set[str]) -> ReleaseStatus:
    """How one release on disk stands."""
    return ReleaseStatus(
        release=item.release_id,
        created_at_ms=item.manifest.created_at_ms,
        origin=item.manifest.origin,
        dataset=item.manifest.dataset,
        parent=item.manifest.parent,
        metrics=item.manifest.metrics,
        bytes_total=total_bytes(item.manifest),
        active=item.release_id == active,
        previous=item.release_id == state.previous,
        warm=item.release_id in warm,
    )
