"""An event loop whose time jumps: nothing waits, everything happens in order, the same every time."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class StuckError(Exception):
    """Every task waits for something that will never happen."""


class _Jump(selectors.SelectSelector):
    """Instead of waiting for a timer, moves the time to it."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise StuckError
        self.now_s += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` is virtual seconds since the start."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)
        # Timers that are due within the clock's resolution count as due; the jump is exact, but floats are not.
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._jump.now_s


class LoopClock:
    """`infra.plumbing.clock.Clock` that reads the running loop; somebody may set its wall time."""

    wall_offset_ms = 0

    def now_ms(self) -> int:
        return 1_700_000_000_000 + self.wall_offset_ms + int(asyncio.get_running_loop().time() * 1000)

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()


def run_virtually(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main)
