"""How long work says how far it is, without knowing who looks."""

from typing import Protocol, TextIO


class Progress(Protocol):
    """Told by long work; shown by the command line."""

    def advance(self, done: int, total: int, what: str) -> None:
        """`done` of `total` steps of `what` are finished."""
        ...


class SilentProgress:
    """Nobody looks."""

    def advance(self, done: int, total: int, what: str) -> None:
        """Say nothing."""


class LineProgress:
    """A line at each tenth of the way, for programs whose stderr somebody reads later."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._tenth = 0

    def advance(self, done: int, total: int, what: str) -> None:
        """Say how far it is, ten times at most."""
        tenth = 10 * done // max(total, 1)
        if tenth > self._tenth:
            self._tenth = tenth
            self._stream.write(f"{what}: {done}/{total}\n")
            self._stream.flush()
