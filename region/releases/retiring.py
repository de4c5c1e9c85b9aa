"""Closing releases once no request works with them any more."""

import asyncio
import contextlib
import logging
from typing import Generic

from region.releases.slots import L, Slot

_log = logging.getLogger(__name__)


class Retirement(Generic[L]):
    """Releases on their way out. A request may hold on to one for `grace_s` at most."""

    def __init__(self, *, grace_s: float) -> None:
        self._grace_s = grace_s
        self._slots: list[Slot[L]] = []
        self._closings: set[asyncio.Task[None]] = set()

    def retire(self, slot: Slot[L]) -> None:
        """Close `slot` in the background."""
        self._slots.append(slot)
        task = asyncio.create_task(self._close_unused(slot))
        self._closings.add(task)
        task.add_done_callback(self._closings.discard)

    async def settled(self) -> None:
        """Wait until everything that was retired is closed."""
        if self._closings:
            await asyncio.wait(tuple(self._closings))

    async def finish(self) -> None:
        """Close what is left now. Closing is never cancelled half-way, for it ends processes; only the grace is cut."""
        for slot in self._slots:
            slot.unused.set()
        await asyncio.gather(*self._closings, return_exceptions=True)

    async def _close_unused(self, slot: Slot[L]) -> None:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._grace_s):
                    await slot.unused.wait()
            await slot.loaded.close()
        except Exception:
            _log.exception("release %s could not be closed", slot.release_id)
        finally:
            self._slots.remove(slot)
