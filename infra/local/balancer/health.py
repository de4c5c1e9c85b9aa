"""What the balancer believes of one edge: a pure state machine fed by calls and probes.

Up, until a call cannot connect or breaks (out at once: the process is gone) or `FAILURES_OUT` probes or silent calls
in a row; out, until a probe succeeds. So a killed edge costs one failed attempt, which is repeated elsewhere, and a
slow moment costs nothing. An edge that says itself that it is not ready, because it drains, is out at its word: its
callers go elsewhere while it still answers.
"""

import enum
from dataclasses import dataclass, replace

FAILURES_OUT = 2


class Outcome(enum.Enum):
    """What happened to one call or probe."""

    ANSWERED = "answered"
    BROKEN = "broken"
    """No connection, or it broke before the whole answer came."""
    SILENT = "silent"
    """Nothing came in time."""
    UNREADY = "unready"
    """It answered that it cannot take calls (503)."""


@dataclass(frozen=True, slots=True)
class EdgeHealth:
    """State of one edge."""

    up: bool = True
    failures: int = 0
    ejections: int = 0


def after_call(health: EdgeHealth, outcome: Outcome) -> EdgeHealth:
    """The state after a call. A call that is answered does not bring an edge back: only a probe does."""
    if outcome is Outcome.ANSWERED:
        return replace(health, failures=0) if health.up and health.failures else health
    return _failed(health, at_once=outcome is Outcome.BROKEN)


def after_probe(health: EdgeHealth, outcome: Outcome) -> EdgeHealth:
    """The state after a probe."""
    if outcome is Outcome.ANSWERED:
        return replace(health, up=True, failures=0) if not health.up or health.failures else health
    return _failed(health, at_once=outcome in (Outcome.BROKEN, Outcome.UNREADY))


def _failed(health: EdgeHealth, *, at_once: bool) -> EdgeHealth:
    failures = health.failures + 1
    if health.up and (at_once or failures >= FAILURES_OUT):
        return EdgeHealth(up=False, failures=failures, ejections=health.ejections + 1)
    return replace(health, failures=failures)


def warmth(*, back_s: float | None, slow_start_s: float) -> float:
    """Share of its calls that an edge gets which came back `back_s` ago (None: was never out): from 0.1 to 1.

    What returns has cold caches and new connections; all of its callers at once would wait in one queue.
    """
    if back_s is None or slow_start_s <= 0.0 or back_s >= slow_start_s:
        return 1.0
    return max(0.1, back_s / slow_start_s)
