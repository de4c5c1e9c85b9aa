"""One fill per key, however many ask (the thundering herd), and nobody's cancellation is anybody else's failure.

The work runs in a task of its own; every caller, the first one too, only waits for it. The interleaving that decides
this shape::

    A: misses, becomes leader ---- awaits fill ---- its client hangs up: CancelledError ...
    B:              misses, joins ----------------- awaits the same fill ------------------- must get the list

If A *ran* the fill, A's cancellation would travel into it and B would get a CancelledError that nobody meant for B.
Here A's cancellation ends A's wait only (`asyncio.wait` leaves tasks alone), the task goes on, and B gets its list.
The other way round: if all who waited are gone, the task still finishes within its own deadline, and the list is in
the cache for whoever comes next.

A second interleaving, about age::

    A: fill starts (subject at version 4) ........................ list of version 4 arrives
    event raises the version to 5, the invalidation arrives  B: misses, must not join A's fill

So the key of a fill carries the version and release known when it started; B's key differs and B starts its own.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from infra.plumbing.errors import OverloadedError

T = TypeVar("T")


class Coalescer(Generic[T]):
    """At most one task per key, at most `flights_max` tasks."""

    def __init__(self, *, flights_max: int) -> None:
        self._flights_max = flights_max
        self._flights: dict[Hashable, asyncio.Task[T]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def join(self, key: Hashable, start: Callable[[], Awaitable[T]]) -> tuple[asyncio.Task[T], bool]:
        """The flight of `key`, begun by `start` if none is under way; and whether one was. Wait with `wait_for`.

        Raises:
            OverloadedError: `flights_max` flights are under way.
        """
        task = self._flights.get(key)
        if task is not None:
            return task, True
        if len(self._flights) >= self._flights_max:
            raise OverloadedError("too many fills are under way on this edge.")

        async def fly() -> T:
            return await start()

        task = self._flights[key] = asyncio.create_task(fly())
        task.add_done_callback(lambda done: self._land(key, done))
        return task, False

    async def close(self) -> None:
        """Cancel what is under way and wait until it is gone."""
        tasks = list(self._flights.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _land(self, key: Hashable, task: asyncio.Task[T]) -> None:
        self._flights.pop(key, None)
        if not task.cancelled():
            # Read it, or asyncio reports an error that nobody waited for; whoever waited got it as well.
            task.exception()


async def wait_for(flight: asyncio.Task[T], *, timeout_s: float) -> T:
    """The result of a flight that goes on whether or not anybody waits.

    Raises:
        TimeoutError: it was still under way after `timeout_s`.
        Exception: whatever the flight raised.
    """
    done, _ = await asyncio.wait({flight}, timeout=timeout_s)
    if not done:
        raise TimeoutError
    if flight.cancelled():
        # The edge is closing: to the one who waited that is a flight that gave no answer, not its own cancellation.
        raise TimeoutError
    return flight.result()
