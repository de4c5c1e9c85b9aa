"""How many calls may be given up early: a budget, so that impatience with slow edges does not become their load. Pure.

tokens <- min(tokens + SHARE, RESERVE) with every call; a call that is given up costs one. Over any stretch of time:
given up early <= SHARE * calls + RESERVE.
"""

from dataclasses import dataclass

SHARE = 0.1
RESERVE = 50.0


@dataclass(slots=True)
class Patience:
    """Token bucket that is filled by calls, not by time."""

    tokens: float = RESERVE

    def note_call(self) -> None:
        """A caller's call begins."""
        self.tokens = min(self.tokens + SHARE, RESERVE)

    def may_give_up_early(self) -> bool:
        """Whether a call that begins now may be given up early."""
        return self.tokens >= 1.0

    def note_given_up(self) -> None:
        """A call was given up: another edge is asked."""
        self.tokens = max(0.0, self.tokens - 1.0)
