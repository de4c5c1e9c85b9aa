"""Following a channel: look, pull, promote, unless the region is pinned or somebody took it elsewhere.

Nothing ends it but `stop`. What is refused or unavailable is looked at again at the next look. A release on which
something failed that nobody expected (a fault in loading it, say) is tried again after a pause that doubles each time:
loading costs seconds of computing, which the release that answers needs. Another release is tried at once.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from infra.plumbing.clock import Clock
from infra.plumbing.errors import AtollError
from region.releases.activation import Activator
from region.releases.messages import PullAnswer
from region.releases.operations import REGION_ITSELF
from region.releases.state import check_not_frozen, to_follow
from region.releases.store import ReleaseStore

PAUSE_FIRST_S, PAUSE_MAX_S = 5.0, 300.0
_log = logging.getLogger(__name__)


def pause_s(failures: int) -> float:
    """How long a release is left alone after so many unexpected failures in a row: PAUSE_FIRST_S, doubling."""
    return float(min(PAUSE_MAX_S, PAUSE_FIRST_S * 2.0 ** min(failures - 1, 30)))


@dataclass(frozen=True, slots=True)
class Faulty:
    """A release on which something unexpected failed."""

    release: str
    failures: int
    again_at_s: float


class Follower:
    """Keeps a region at what a channel recommends.

    Args:
        store: releases on disk.
        activator: which release answers.
        channel: the channel to follow.
        clock: for the pauses.
        failed: told of every failure; counts and logs them.
    """

    def __init__(
        self, *, store: ReleaseStore, activator: Activator[Any], channel: str, clock: Clock,
        failed: Callable[[Exception], None] = lambda _error: None,
    ) -> None:  # fmt: skip
        self._store = store
        self._activator = activator
        self._channel = channel
        self._clock = clock
        self._failed = failed
        self._faulty: Faulty | None = None
        self._last_failure = ""

    async def step(self) -> str | None:
        """One look. Returns the release that was promoted, or None if nothing was to be done.

        Raises:
            AtollError: refused, unavailable, no room, busy; the active release goes on.
        """
        recommended = await asyncio.to_thread(self._store.recommended, self._channel)
        if not to_follow(self._store.state, recommended) or self._is_left_alone(recommended):
            return None
        try:
            await pull(self._store, self._activator, recommended, operator=REGION_ITSELF)
            await self._activator.promote(recommended, operator=REGION_ITSELF, following=True)
        except AtollError:
            raise
        except Exception:
            before = self._faulty.failures if self._faulty and self._faulty.release == recommended else 0
            again_at_s = self._clock.monotonic_s() + pause_s(before + 1)
            self._faulty = Faulty(recommended, before + 1, again_at_s)
            raise
        self._faulty = None
        return recommended

    def _is_left_alone(self, release: str) -> bool:
        faulty = self._faulty
        return faulty is not None and faulty.release == release and self._clock.monotonic_s() < faulty.again_at_s

    async def run(self, *, interval_s: float, stop: asyncio.Event) -> None:
        """Look every `interval_s` until `stop` is set. Failures are counted, and audited once each time they change."""
        while not stop.is_set():
            try:
                await self.step()
                if self._faulty is None:
                    self._last_failure = ""
            except Exception as error:
                # Whatever a loader raises: a region that follows no more would run an old release for ever.
                await self._note(error)
            try:
                async with asyncio.timeout(interval_s):
                    await stop.wait()
            except TimeoutError:
                continue

    async def _note(self, error: Exception) -> None:
        self._failed(error)
        failure = str(error) if isinstance(error, AtollError) else f"{type(error).__name__}: {error}"
        if failure == self._last_failure:
            return
        self._last_failure = failure
        unexpected = None if isinstance(error, AtollError) else error
        _log.warning("following %s: %s", self._channel, failure, exc_info=unexpected)
        active = self._activator.active_release
        await self._activator.operations.record("follow", REGION_ITSELF, active, None, "failed", failure)


async def pull(
    store: ReleaseStore, activator: Activator[Any], release: str | None, *, operator: str, channel: str = ""
) -> PullAnswer:
    """Pull a release off the event loop, with an audit entry either way.

    Args:
        store: releases on disk.
        activator: which release answers.
        release: which one; None: whatever `channel` recommends by a fresh look.
        operator: on whose word.
        channel: of the repository.

    Raises:
        FrozenError: the region is frozen.
        as `ReleaseStore.recommended` and `ReleaseStore.pull`.
    """
    active = activator.active_release
    async with activator.operations.recorded("pull", operator, active, release):
        check_not_frozen(store.state)
        if release is None:
            release = await asyncio.to_thread(store.recommended, channel)
        answer = await asyncio.to_thread(store.pull, release)
    gone = f"; no longer here: {', '.join(answer.collected)}" if answer.collected else ""
    detail = f"{answer.bytes_fetched} bytes fetched, {answer.bytes_reused} reused{gone}"
    await activator.operations.record("pull", operator, active, release, "done", detail)
    return answer
