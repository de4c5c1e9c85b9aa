"""The only place that reads the time. Everything else is given a `Clock`."""

import time
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """Wall time for people and wire formats, monotonic time for durations and deadlines."""

    def now_ms(self) -> int:
        """Unix epoch in milliseconds."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary moment; never goes back."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """Unix epoch in milliseconds."""
        return time.time_ns() // 1_000_000

    monotonic_s = staticmethod(time.monotonic)
    """Seconds of the monotonic clock; no method around it, for it is asked at every request."""


def thread_cpu_s() -> float:
    """Seconds of a core that the calling thread has used; getrusage(2) would count ticks of milliseconds."""
    return time.thread_time()


@dataclass(slots=True)
class ManualClock:
    """A clock for tests: stands still until it is moved."""

    wall_ms: int = 1_700_000_000_000
    elapsed_s: float = 0.0

    def now_ms(self) -> int:
        """Unix epoch in milliseconds, as set."""
        return self.wall_ms

    def monotonic_s(self) -> float:
        """Seconds moved so far."""
        return self.elapsed_s

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self.elapsed_s += seconds
        self.wall_ms += round(seconds * 1000)
