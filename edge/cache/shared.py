"""The second cache level: lists in the region's grid, shared by its edges. Slow or gone, it is skipped and counted.

A value is taken only when its age, its subject's version and its release hold, judged by the reader; the grid itself
promises nothing. Two guards keep a bad grid cheap: a deadline of a few milliseconds around every call, and a breaker
that stops asking for a while after a few failures in a row.
"""

import asyncio
from collections.abc import Callable

import msgspec

from edge.routing.breaker import Breaker, BreakerPolicy, allows, failed, succeeded, try_begins
from infra.contracts.lists import ChoiceMark, GridValue, ListKey, choice_key, grid_key
from infra.plumbing.clock import Clock
from infra.plumbing.grid.port import VALUE_BYTES_MAX, Grid, GridUnavailableError

GRID_BREAKER = BreakerPolicy(failures_to_open=3, open_base_s=0.25, open_max_s=2.0, trial_max_s=0.5)


class SharedLists:
    """Reads and writes lists in the grid; never raises for a grid that does not answer.

    Args:
        counted: told the outcome of every call: `hit`, `precomputed` (a list that the region made ahead),
            `miss`, `malformed`, `down`, `skipped`, `stored`, `too-large`.
    """

    def __init__(self, *, grid: Grid, clock: Clock, timeout_s: float, counted: Callable[[str], None]) -> None:
        self._grid = grid
        self._clock = clock
        self._timeout_s = timeout_s
        self._counted = counted
        self._breaker = Breaker()

    async def read(self, key: ListKey) -> GridValue | None:
        """The value under `key`, fresh or not; None when there is none or the grid does not answer in time."""
        if not self._may_ask():
            return None
        try:
            async with asyncio.timeout(self._timeout_s):
                raw = await self._grid.get(grid_key(key))
        except (TimeoutError, GridUnavailableError):
            self._note_failure()
            return None
        self._breaker = succeeded(self._breaker)
        return self._decoded(raw)

    async def choice(self, subject: str) -> ChoiceMark | None:
        """What the region's mark says that a subject chose last; None: nothing within CHOICE_LIFE_S.

        Raises:
            GridUnavailableError: the grid cannot be asked, or holds nonsense: nobody knows.
        """
        if not self._may_ask():
            raise GridUnavailableError("the grid is left alone for a moment.")
        try:
            async with asyncio.timeout(self._timeout_s):
                raw = await self._grid.get(choice_key(subject))
        except (TimeoutError, GridUnavailableError) as error:
            self._note_failure()
            raise GridUnavailableError("the grid does not say what was chosen.") from error
        self._breaker = succeeded(self._breaker)
        try:
            return None if raw is None else msgspec.msgpack.decode(raw, type=ChoiceMark)
        except msgspec.DecodeError as error:
            self._counted("malformed")
            raise GridUnavailableError("the grid's mark of a choice cannot be read.") from error

    async def write(self, key: ListKey, value: GridValue, *, ttl_s: float) -> None:
        """Put `value` for the other edges; quietly gives up when the grid does not take it in time."""
        raw = msgspec.msgpack.encode(value)
        if len(raw) > VALUE_BYTES_MAX:
            self._counted("too-large")
            return
        if ttl_s <= 0 or not self._may_ask():
            return
        try:
            # Nobody waits for a write: it gets more patience than a read, and never a request's time.
            async with asyncio.timeout(4 * self._timeout_s):
                await self._grid.put(grid_key(key), raw, ttl_s=ttl_s)
        except (TimeoutError, GridUnavailableError):
            self._note_failure()
            return
        self._breaker = succeeded(self._breaker)
        self._counted("stored")

    async def discard(self, key: ListKey) -> None:
        """Have the grid forget `key`; quietly gives up: what is left runs out by itself, and is of an old version."""
        if not self._may_ask():
            return
        try:
            async with asyncio.timeout(4 * self._timeout_s):
                await self._grid.delete(grid_key(key))
        except (TimeoutError, GridUnavailableError):
            self._note_failure()
            return
        self._breaker = succeeded(self._breaker)

    def _may_ask(self) -> bool:
        now_s = self._clock.monotonic_s()
        if not allows(self._breaker, now_s=now_s):
            self._counted("skipped")
            return False
        self._breaker = try_begins(self._breaker, GRID_BREAKER, now_s=now_s)
        return True

    def _note_failure(self) -> None:
        self._breaker = failed(self._breaker, GRID_BREAKER, now_s=self._clock.monotonic_s())
        self._counted("down")

    def _decoded(self, raw: bytes | None) -> GridValue | None:
        if raw is None:
            self._counted("miss")
            return None
        try:
            value = msgspec.msgpack.decode(raw, type=GridValue)
        except msgspec.DecodeError:
            self._counted("malformed")
            return None
        self._counted("precomputed" if value.answer.precomputed else "hit")
        return value
