"""When a call is sent again: pure. Every call may be: lists are reads, events count once, a choice is a state.

Retries come out of a budget that first calls fill, so that clients do not multiply what a service in trouble gets
(SRE Book, "Handling overload"); between them lies full jitter (Brooker 2015, "Exponential backoff and jitter").
"""

from collections.abc import Callable
from dataclasses import dataclass

AGAIN = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how soon. `share`: retries per first call in the long run; `reserve`: how many may be saved up."""

    tries_max: int = 3
    base_s: float = 0.05
    wait_max_s: float = 2.0
    share: float = 0.1
    reserve: float = 10.0


RETRIES = RetryPolicy()


class Retries:
    """The budget of one client, and its decisions. `uniform(low, high)` draws the jitter."""

    def __init__(self, policy: RetryPolicy, *, uniform: Callable[[float, float], float]) -> None:
        self._policy = policy
        self._uniform = uniform
        self._saved = policy.reserve

    def note_first(self) -> None:
        """A call was sent for the first time."""
        self._saved = min(self._policy.reserve, self._saved + self._policy.share)

    def wait_s(self, tries: int, *, retry_after_s: float | None, left_s: float) -> float | None:
        """How long to wait before the next try; None: there is none.

        Args:
            tries: how many there were.
            retry_after_s: what the edge asked for.
            left_s: until the deadline; a wait that would not leave time for an answer is not begun.
        """
        policy = self._policy
        if tries >= policy.tries_max or self._saved < 1.0:
            return None
        wait_s = self._uniform(0.0, min(policy.wait_max_s, policy.base_s * 2.0 ** (tries - 1)))
        wait_s = max(wait_s, retry_after_s or 0.0)
        if wait_s >= left_s:
            return None
        self._saved -= 1.0
        return wait_s
