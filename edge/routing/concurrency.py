"""How many calls one node may have in flight: learnt from how long its answers take, shared out by priority.

The limit follows the gradient of latency (Netflix concurrency-limits, `Gradient2Limit`)::

    short     <- mean latency of the last WINDOW_CALLS calls
    long      <- long + long_weight * (short - long)            what the node takes when nothing queues
    gradient  <- max(0.5, min(1, tolerance * long / short))     under 1: answers queue somewhere
    limit     <- (1 - smoothing) * limit + smoothing * (limit * gradient + queue)

within [limit_min, limit_max]. Where it differs: a node that says that it is overloaded (429, 503) lowers the limit at
once by `backoff`; when less than half of the limit was in use the limit does not grow (it would learn nothing); and
when `short` falls below half of `long`, `long` follows faster, so that one bad hour is not taken for the normal state.

A call is let through while the calls in flight are fewer than

    limit * share(priority) * warmth

`share` keeps room for what people wait for; `warmth` rises from WARMTH_MIN to 1 in slow_start_s after a node came
back, so that a cold node is not met by everything that waited for it. Nothing queues here: who finds no room goes
down the ladder at once.
"""

import enum
from dataclasses import dataclass, replace

from infra.contracts.messages import Surface

WINDOW_CALLS = 16
WARMTH_MIN = 0.2
_DRIFT_FACTOR = 2.0
_DRIFT_STEP = 0.95


class Priority(enum.Enum):
    """What a call is worth, most first."""

    EVENT = "event"
    """What must become durable: never held back here, only by `limit_max`. The region itself says when it is full."""
    PAGE = "page"
    """Somebody waits for it."""
    REFRESH = "refresh"
    """Somebody has an older list already."""
    BULK = "bulk"
    """A batch: it can come again."""


SHARES = {Priority.EVENT: 1.0, Priority.PAGE: 1.0, Priority.REFRESH: 0.8, Priority.BULK: 0.5}


def priority_of(surface: Surface) -> Priority:
    """E-mail is made in batches; everything else is a page that somebody waits for."""
    return Priority.BULK if surface is Surface.EMAIL else Priority.PAGE


@dataclass(frozen=True, slots=True)
class ConcurrencyPolicy:
    """Meaning and trade-off of each setting.

    limit_start: too low sheds at the start; too high queues until the first windows are in.
    limit_min, limit_max: what latency alone can never do; limit_max is at most the connections to one node.
    tolerance: how much slower than normal is still normal; lower reacts sooner, and to noise.
    smoothing: how much one window moves the limit.
    queue: how many calls may wait at the node at the best of times; also how fast the limit grows.
    long_weight: how fast "normal" follows.
    backoff: what is left of the limit after a node said that it has too much.
    slow_start_s: how long a node that came back takes to get its whole share.
    """

    limit_start: float = 20.0
    limit_min: float = 4.0
    limit_max: float = 100.0
    tolerance: float = 1.5
    smoothing: float = 0.2
    queue: float = 4.0
    long_weight: float = 0.05
    backoff: float = 0.9
    slow_start_s: float = 3.0


@dataclass(frozen=True, slots=True)
class Concurrency:
    """What has been learnt of one node. Times are monotonic seconds."""

    limit: float
    long_s: float | None = None
    back_s: float | None = None
    """When the node came back; None when it has never been away."""
    sum_s: float = 0.0
    count: int = 0
    peak: int = 0
    """Of the window under way: latencies, calls, and the most calls in flight."""


def first_limit(policy: ConcurrencyPolicy) -> Concurrency:
    """Before anything is known."""
    return Concurrency(limit=min(policy.limit_start, policy.limit_max))


def room(held: Concurrency, policy: ConcurrencyPolicy, priority: Priority, *, now_s: float) -> int:
    """How many calls may be in flight for one more of `priority` to be let through; at least one."""
    limit = policy.limit_max if priority is Priority.EVENT else held.limit * _warmth(held, policy, now_s=now_s)
    return max(1, int(limit * SHARES[priority]))


def answered(held: Concurrency, policy: ConcurrencyPolicy, *, took_s: float, in_flight: int) -> Concurrency:
    """A call ended after `took_s`, by an answer or by running out of its time; `in_flight` counts it."""
    noted = replace(held, sum_s=held.sum_s + took_s, count=held.count + 1, peak=max(held.peak, in_flight))
    return noted if noted.count < WINDOW_CALLS else _window_done(noted, policy)


def overloaded(held: Concurrency, policy: ConcurrencyPolicy) -> Concurrency:
    """The node said that it has too much."""
    return replace(held, limit=max(policy.limit_min, held.limit * policy.backoff))


def came_back(held: Concurrency, *, now_s: float) -> Concurrency:
    """The node answers again after it was avoided: its limit is what it was, but it starts slowly."""
    return replace(held, back_s=now_s, sum_s=0.0, count=0, peak=0)


def _window_done(held: Concurrency, policy: ConcurrencyPolicy) -> Concurrency:
    short_s = held.sum_s / held.count
    long_s = short_s if held.long_s is None else held.long_s + policy.long_weight * (short_s - held.long_s)
    if long_s > _DRIFT_FACTOR * short_s:
        long_s *= _DRIFT_STEP
    gradient = max(0.5, min(1.0, policy.tolerance * long_s / short_s)) if short_s > 0 else 1.0
    wanted = (1 - policy.smoothing) * held.limit + policy.smoothing * (held.limit * gradient + policy.queue)
    if held.peak < held.limit / 2:
        wanted = min(wanted, held.limit)
    limit = min(policy.limit_max, max(policy.limit_min, wanted))
    return replace(held, limit=limit, long_s=long_s, sum_s=0.0, count=0, peak=0)


def _warmth(held: Concurrency, policy: ConcurrencyPolicy, *, now_s: float) -> float:
    if held.back_s is None or policy.slow_start_s <= 0:
        return 1.0
    return min(1.0, max(WARMTH_MIN, (now_s - held.back_s) / policy.slow_start_s))
