"""A circuit breaker as a value: what a target may be asked, decided from what happened and from now. No clock inside.

    CLOSED --failures_to_open in a row--> OPEN --after a wait--> HALF_OPEN (one trial) --success--> CLOSED
                                            ^--------------- failure, the wait doubles -----------'

The wait is open_base_s * 2^(openings in a row - 1), at most open_max_s. A trial whose outcome never arrives (its
caller was cancelled) counts as lost after trial_max_s, so a breaker cannot stay half-open for ever.

Probes shape the waiting: while they fail, time alone lets no request through (requests would only find out again what
the probes know); when they first succeed after failing, the target gets its trial at once and the doubled waits are
forgotten. A target whose probes succeed while its requests fail keeps its doubled waits.
"""

import enum
from dataclasses import dataclass, replace

_DOUBLINGS_MAX = 16


class Phase(enum.StrEnum):
    """What the breaker lets through: all, nothing, one."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """Meaning and trade-off of each setting.

    failures_to_open: fewer reacts sooner; more forgives an unlucky moment.
    open_base_s, open_max_s: shorter returns sooner; longer spares a target that is coming up.
    trial_max_s: at least the longest call.
    probe_failures_to_open: as failures_to_open, for probes with no request succeeding in between.
    """

    failures_to_open: int = 3
    open_base_s: float = 0.5
    open_max_s: float = 8.0
    trial_max_s: float = 1.0
    probe_failures_to_open: int = 2


@dataclass(frozen=True, slots=True)
class Breaker:
    """State of one breaker. Times are monotonic seconds."""

    phase: Phase = Phase.CLOSED
    failures: int = 0
    """In a row."""
    openings: int = 0
    """In a row, without a success between."""
    open_until_s: float = 0.0
    trial_until_s: float = 0.0
    """HALF_OPEN: until when the one trial is out; 0 when it is there to be taken."""
    probe_failures: int = 0
    """In a row."""


def allows(breaker: Breaker, *, now_s: float) -> bool:
    """Whether a request may be sent now."""
    if breaker.phase is Phase.CLOSED:
        return True
    if breaker.phase is Phase.OPEN:
        return breaker.probe_failures == 0 and now_s >= breaker.open_until_s
    return now_s >= breaker.trial_until_s


def try_begins(breaker: Breaker, policy: BreakerPolicy, *, now_s: float) -> Breaker:
    """A request that was allowed is being sent: outside CLOSED it is the one trial."""
    if breaker.phase is Phase.CLOSED:
        return breaker
    return replace(breaker, phase=Phase.HALF_OPEN, trial_until_s=now_s + policy.trial_max_s)


def succeeded(breaker: Breaker) -> Breaker:
    """A request was answered. One answer closes the breaker: whatever was wrong, requests pass again."""
    if breaker.phase is Phase.CLOSED and breaker.failures == 0 and breaker.probe_failures == 0:
        return breaker
    return Breaker()


def failed(breaker: Breaker, policy: BreakerPolicy, *, now_s: float) -> Breaker:
    """A request failed. Failures of requests sent before it opened do not lengthen the wait."""
    counted = replace(breaker, failures=breaker.failures + 1)
    if breaker.phase is Phase.OPEN:
        return breaker
    if breaker.phase is Phase.HALF_OPEN or counted.failures >= policy.failures_to_open:
        return _open(counted, policy, now_s=now_s)
    return counted


def probe_succeeded(breaker: Breaker) -> Breaker:
    """A probe was answered: the first one after a failing probe gives an open breaker its trial at once."""
    if breaker.probe_failures == 0:
        return breaker
    if breaker.phase is Phase.OPEN:
        return Breaker(phase=Phase.HALF_OPEN, failures=breaker.failures)
    return replace(breaker, probe_failures=0)


def probe_failed(breaker: Breaker, policy: BreakerPolicy, *, now_s: float) -> Breaker:
    """A probe failed: enough of them open the breaker without any request having to find out."""
    counted = replace(breaker, probe_failures=breaker.probe_failures + 1)
    if breaker.phase is Phase.CLOSED and counted.probe_failures >= policy.probe_failures_to_open:
        return _open(counted, policy, now_s=now_s)
    return counted


def _open(breaker: Breaker, policy: BreakerPolicy, *, now_s: float) -> Breaker:
    wait_s = min(policy.open_base_s * 2.0 ** min(breaker.openings, _DOUBLINGS_MAX), policy.open_max_s)
    return replace(
        breaker,
        phase=Phase.OPEN,
        failures=0,
        openings=breaker.openings + 1,
        open_until_s=now_s + wait_s,
        trial_until_s=0.0,
    )
