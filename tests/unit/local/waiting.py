"""Waiting for what another process, or another task, brings about: bounded, and by looking, where nobody tells."""

import asyncio
import time
from collections.abc import Awaitable, Callable


async def until(holds: Callable[[], bool | Awaitable[bool]], *, seconds: float = 20.0) -> None:
    """Return when `holds` does.

    Raises:
        TimeoutError: it does not in time.
    """
    async with asyncio.timeout(seconds):
        while True:
            found = holds()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.005)


def eventually(holds: Callable[[], bool], *, seconds: float = 20.0) -> bool:
    """Whether a condition of other processes comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.02)
    return holds()
