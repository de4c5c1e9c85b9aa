"""A value that lives in a file and follows it: read again when the file changes, looked at once in a while.

A file that cannot be read, or holds nonsense, changes nothing: what was read last goes on to hold, and it is counted.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from infra.plumbing.clock import Clock
from infra.plumbing.errors import AtollError

T = TypeVar("T")
LOOK_EVERY_S = 1.0

_Stamp = tuple[int, int, int]


class Reloading(Generic[T]):
    """`get()` is what the file at `path` holds, at most LOOK_EVERY_S late.

    Args:
        load: reads the file; raises an `AtollError` for one that cannot be used.

    Raises:
        AtollError: the first reading fails.
    """

    def __init__(self, path: Path, load: Callable[[Path], T], *, clock: Clock) -> None:
        self._path = path
        self._load = load
        self._clock = clock
        self._stamp = _stamp_of(path)
        self._value = load(path)
        self._looked_s = clock.monotonic_s()
        self.edition = 0
        """Goes up with every change that was taken over."""
        self.failures = 0

    def get(self) -> T:
        """The value; looks at the file when the last look is long enough ago."""
        now_s = self._clock.monotonic_s()
        if now_s - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = now_s
            stamp = _stamp_of(self._path)
            if stamp != self._stamp:
                self._take(stamp)
        return self._value

    def _take(self, stamp: _Stamp | None) -> None:
        try:
            self._value = self._load(self._path)
        except (AtollError, OSError):
            self.failures += 1  # The stamp stays as it was, so the next look tries again.
            return
        self._stamp = stamp
        self.edition += 1


def _stamp_of(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
