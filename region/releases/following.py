"""Following a channel: look, pull, promote, unless the region is pinned or was just rolled back."""

import asyncio
import logging
from typing import Any

from infra.plumbing.errors import AtollError
from region.releases.activation import REGION_ITSELF, Activator
from region.releases.messages import PullAnswer
from region.releases.state import check_not_frozen, to_follow
from region.releases.store import ReleaseStore

_log = logging.getLogger(__name__)


class Follower:
    """Keeps a region at what a channel recommends.

    Args:
        store: releases on disk.
        activator: which release answers.
        channel: the channel to follow.
    """

    def __init__(self, *, store: ReleaseStore, activator: Activator[Any], channel: str) -> None:
        self._store = store
        self._activator = activator
        self._channel = channel
        self._last_failure = ""

    async def step(self) -> str | None:
        """One look. Returns the release that was promoted, or None if nothing was to be done.

        Raises:
            AtollError: refused, unavailable, no room, busy; the active release goes on.
        """
        recommended = await asyncio.to_thread(self._store.recommended, self._channel)
        if not to_follow(self._store.state, recommended):
            return None
        await pull(self._store, self._activator, recommended, operator=REGION_ITSELF)
        await self._activator.promote(recommended, operator=REGION_ITSELF)
        return recommended

    async def run(self, *, interval_s: float, stop: asyncio.Event) -> None:
        """Look every `interval_s` until `stop` is set. Failures are logged, and audited once each time they change."""
        while not stop.is_set():
            try:
                await self.step()
                self._last_failure = ""
            except AtollError as error:
                await self._note(str(error))
            try:
                async with asyncio.timeout(interval_s):
                    await stop.wait()
            except TimeoutError:
                continue

    async def _note(self, failure: str) -> None:
        if failure == self._last_failure:
            return
        self._last_failure = failure
        _log.warning("following %s: %s", self._channel, failure)
        active = self._activator.active_release
        await self._activator.operations.record("follow", REGION_ITSELF, active, None, "failed", failure)


async def pull(store: ReleaseStore, activator: Activator[Any], release: str, *, operator: str) -> PullAnswer:
    """Pull a release off the event loop, with an audit entry either way.

    Raises:
        FrozenError: the region is frozen.
        as `ReleaseStore.pull`.
    """
    active = activator.active_release
    try:
        check_not_frozen(store.state)
        answer = await asyncio.to_thread(store.pull, release)
    except Exception as error:
        await activator.operations.record("pull", operator, active, release, "failed", str(error))
        raise
    detail = f"{answer.bytes_fetched} bytes fetched, {answer.bytes_reused} reused"
    await activator.operations.record("pull", operator, active, release, "done", detail)
    return answer
