"""A retry budget: second calls of a request are paid from what first calls put in, so that failures do not multiply.

tokens <- min(tokens + share, reserve) at a first call; an extra call costs one token. Over any stretch of time:
extra calls <= share * first calls + reserve. The reserve lets a quiet edge retry at all.

Hedges, which are extra calls made before anything has failed, are paid from the same tokens, but only while more than
half of the reserve is there: they can never take from a failed call its second try.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class RetryBudget:
    """Token bucket that is filled by calls, not by time."""

    share: float = 0.1
    reserve: float = 10.0
    tokens: float = 10.0
    refused: int = 0

    def note_first(self) -> None:
        """A request makes its first call behind the edge."""
        self.tokens = min(self.tokens + self.share, self.reserve)

    def take(self) -> bool:
        """Whether a request may make one call more, after one that failed."""
        if self.tokens < 1.0:
            self.refused += 1
            return False
        self.tokens -= 1.0
        return True

    def take_spare(self) -> bool:
        """Whether a request may make one call more while its first is still out."""
        if self.tokens - 1.0 < self.reserve / 2:
            return False
        self.tokens -= 1.0
        return True
