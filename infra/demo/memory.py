"""How much memory all processes of the demo hold together, looked at while it runs."""

import threading
from types import TracebackType
from typing import Self

import psutil

from infra.plumbing.clock import Clock

INTERVAL_S = 1.0


class PeakMemory:
    """Watches this process and everything below it, proportional shares where the kernel tells them.

    The world's supervisor is a child of the demo and its processes are children of the supervisor, so they count.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_mb = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            self.peak_mb = max(self.peak_mb, family_mb(psutil.Process()))


def family_mb(process: psutil.Process) -> float:
    """Memory of a process and all its descendants, in MiB: PSS, which counts shared pages once."""
    total = 0.0
    for member in [process, *process.children(recursive=True)]:
        try:
            with open(f"/proc/{member.pid}/smaps_rollup", encoding="ascii") as file:
                total += next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        except (OSError, StopIteration):
            continue  # it has ended, or belongs to somebody else
    return total / 1024
