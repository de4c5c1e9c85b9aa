"""How long work says how far it is, without knowing who looks."""

from typing import Protocol


class Progress(Protocol):
    """Told by long work; shown by the command line."""

    def advance(self, done: int, total: int, what: str) -> None:
        """`done` of `total` steps of `what` are finished."""
        ...


class SilentProgress:
    """Nobody looks."""

    def advance(self, done: int, total: int, what: str) -> None:
        """Say nothing."""
