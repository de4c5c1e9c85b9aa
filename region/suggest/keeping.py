"""Keeping the index of the active release at hand: built by another process, mapped here, swapped by one reference."""

import asyncio
import contextlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge

from infra.plumbing.clock import Clock
from infra.plumbing.errors import UnavailableError
from region.retrieval.child import start_child
from region.suggest.index import SuggestIndex

BUILD_WITHIN_S = 3_600.0
"""Of ten million titles it takes minutes of a core, which this least urgent work has to wait for."""
_ROOT = Path(__file__).resolve().parents[2]
KEPT_MAX = 2
"""Indices on the disk: of the active release and of the one before, to which a region may roll back."""


class SuggestKeeper:
    """Owns the folder of indices of a node.

    Args:
        directory: the folder.
        release: the active release's id and folder, or None.
    """

    def __init__(
        self, directory: Path, *, release: Callable[[], tuple[str, Path] | None], clock: Clock,
        registry: CollectorRegistry,
    ) -> None:  # fmt: skip
        self._directory = directory
        self._release = release
        self._clock = clock
        self.current: SuggestIndex | None = None
        self._seconds = Gauge(
            "atoll_region_suggest_build_seconds",
            "How long the last index of suggestions took to be at hand.",
            registry=registry,
        )

    async def refresh(self) -> None:
        """Have the index of the active release at hand; what was there before answers meanwhile.

        Raises:
            UnavailableError: it could not be built; it is tried again.
        """
        wanted = self._release()
        if wanted is None or (self.current is not None and self.current.release == wanted[0]):
            return
        started_s = self._clock.monotonic_s()
        release, folder = wanted
        target = self._directory / release
        loaded = await asyncio.to_thread(_loaded, target)
        if loaded is None:
            await self._build(folder, target)
            loaded = await asyncio.to_thread(_loaded, target)
        if loaded is None:
            raise UnavailableError("the index of suggestions is not whole.", fix="Is the disk full?")
        before, self.current = [self.current], loaded
        # Its words are freed one by one: not on the loop.
        await asyncio.to_thread(before.clear)
        self._seconds.set(self._clock.monotonic_s() - started_s)
        await asyncio.to_thread(self._tidy, release)

    async def _build(self, release: Path, target: Path) -> None:
        words = (sys.executable, "-m", "region.suggest", "--release", str(release), "--out", str(target))
        child = await start_child(words, directory=_ROOT)
        try:
            async with asyncio.timeout(BUILD_WITHIN_S):
                said, _ = await asyncio.gather(child.stderr.read(), child.stdout.read())
                code = await child.wait()
        except (TimeoutError, asyncio.CancelledError):
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
            raise
        finally:
            child.close()
        if code:
            last = said.decode(errors="replace").strip().rpartition("\n")[2]
            raise UnavailableError(f"the index of suggestions could not be built (exit code {code}): {last[:300]}")

    def _tidy(self, release: str) -> None:
        folders = sorted(self._directory.iterdir(), key=lambda one: one.stat().st_mtime, reverse=True)
        for folder in [one for one in folders if one.name != release][KEPT_MAX - 1 :]:
            shutil.rmtree(folder, ignore_errors=True)


def _loaded(folder: Path) -> SuggestIndex | None:
    try:
        return SuggestIndex.load(folder)
    except (OSError, ValueError):
        return None
