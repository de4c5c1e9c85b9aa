"""Work that goes on beside the requests: repeated, counted when it fails, cancelled when the process ends."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter

from infra.plumbing.errors import AtollError


class Background:
    """A fixed set of tasks of one process.

    Args:
        logger: told when work begins to fail and when it succeeds again, not at every attempt in between.
    """

    def __init__(self, *, logger: logging.Logger, registry: CollectorRegistry) -> None:
        self.logger = logger
        self._failures = Counter(
            "atoll_region_background_failures", "Background work that failed, by name.", ("work",), registry=registry
        )

    @contextlib.asynccontextmanager
    async def running(self, work: Mapping[str, Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
        """Run `work` as long as the block lasts; at its end everything is cancelled and waited for."""
        tasks = [asyncio.create_task(body, name=name) for name, body in work.items()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def repeat(self, name: str, work: Callable[[], Awaitable[object]], *, every_s: float) -> None:
        """Do `work` now and `every_s` seconds after each end, until cancelled. A failure does not end it."""
        failing = False
        while True:
            try:
                await work()
            except Exception as error:
                self.count_failure(name)
                if not failing:
                    self.report(name, error)
                failing = True
            else:
                if failing:
                    self.logger.info("background work succeeds again", extra={"fields": {"work": name}})
                failing = False
            await asyncio.sleep(every_s)

    def count_failure(self, name: str) -> None:
        """Work that is not repeated here has failed."""
        self._failures.labels(name).inc()

    def report(self, name: str, error: Exception) -> None:
        """Write down why work failed; what nobody expected with where it happened."""
        fields = {"work": name, "reason": str(error) if isinstance(error, AtollError) else type(error).__name__}
        expected = isinstance(error, AtollError | TimeoutError)
        self.logger.warning("background work fails", extra={"fields": fields}, exc_info=None if expected else error)
