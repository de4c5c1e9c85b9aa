"""Work that no request waits for, with a bound on how much of it there is."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from infra.plumbing.telemetry import Telemetry

TASKS_MAX = 512


class Background:
    """Owns detached tasks: keeps them alive, bounds them, reports what they raise, cancels them at the end."""

    def __init__(self, *, telemetry: Telemetry, dropped: Callable[[], None], tasks_max: int = TASKS_MAX) -> None:
        self._telemetry = telemetry
        self._dropped = dropped
        self._tasks_max = tasks_max
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> bool:
        """Start `work`; returns False, and drops it, when there is too much already."""
        if len(self._tasks) >= self._tasks_max:
            work.close()
            self._dropped()
            return False
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return True

    async def close(self) -> None:
        """Cancel everything and wait until it is gone."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._telemetry.logger.error("background work failed", exc_info=error)
