"""What the balancer believes of one edge: a pure state machine fed by calls and probes.

Up, until a call cannot connect or breaks (out at once: the process is gone) or `FAILURES_OUT` probes or silent calls
in a row; out, until a probe succeeds. So a killed edge costs one failed attempt, which is repeated elsewhere, and a
slow moment costs nothing.
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
    return _failed(health, at_once=outcome is Outcome.BROKEN)


def _failed(health: EdgeHealth, *, at_once: bool) -> EdgeHealth:
    failures = health.failures + 1
    if health.up and (at_once or failures >= FAILURES_OUT):
        return EdgeHealth(up=False, failures=failures, ejections=health.ejections + 1)
    return replace(health, failures=failures)
