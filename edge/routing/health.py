"""Health of the nodes that an edge may ask, and in which order to ask them. Pure: fed with outcomes, asked with `now`.

Passive: consecutive failures open a node's breaker; a node whose answers became slow stands behind its siblings; one
that has as many calls in flight as it can carry (`edge.routing.concurrency`) gets no more.
Active: `/health/ready` is probed (see `edge.routing.probes`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from edge.routing.breaker import (
    Breaker,
    BreakerPolicy,
    Phase,
    allows,
    failed,
    probe_failed,
    probe_succeeded,
    succeeded,
    try_begins,
)
from edge.routing.concurrency import (
    Concurrency,
    ConcurrencyPolicy,
    Priority,
    answered,
    came_back,
    first_limit,
    overloaded,
    room,
)
from edge.routing.quantile import LatencyQuantile

HEDGE_SHARE = 0.95
"""A second request leaves when the first has taken longer than this share of the node's answers lately."""
_LATENCY_WEIGHT = 0.2
SLOW_FACTOR = 3.0
SLOW_FLOOR_S = 0.02
_FORGET_PER_PROBE = 0.95


@dataclass(frozen=True, slots=True)
class Target:
    """One node of a region's API. `place` is its position in the settings, 0 first."""

    region: str
    url: str
    place: int


@dataclass(frozen=True, slots=True)
class TargetHealth:
    """What is known of one target. `latency_s` is a moving average, None before the first answer."""

    concurrency: Concurrency
    breaker: Breaker = field(default_factory=Breaker)
    latency_s: float | None = None
    answered: bool = False
    """Whether it has ever answered, a probe or a request."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Nodes that may be asked now, best first; `full` when there are none only because each has enough to do."""

    nodes: tuple[Target, ...]
    full: bool = False


def smoothed(average_s: float | None, sample_s: float) -> float:
    """Exponentially weighted mean, in seconds."""
    return sample_s if average_s is None else average_s + _LATENCY_WEIGHT * (sample_s - average_s)


class Targets:
    """Health of every target. The event loop's only.

    Every `begin` is followed by one `succeeded`, `failed` or `inconclusive`.
    """

    def __init__(
        self, targets: Sequence[Target], *, policy: BreakerPolicy, concurrency: ConcurrencyPolicy | None = None
    ) -> None:
        self._policy = policy
        self._concurrency = concurrency or ConcurrencyPolicy()
        self._health = {target: TargetHealth(first_limit(self._concurrency)) for target in targets}
        self._in_flight = dict.fromkeys(targets, 0)
        self._tails = {target: LatencyQuantile(HEDGE_SHARE) for target in targets}
        self._by_region: dict[str, list[Target]] = {}
        for target in targets:
            self._by_region.setdefault(target.region, []).append(target)

    def __repr__(self) -> str:
        states = ", ".join(
            f"{t.region}[{t.place}]={h.breaker.phase.value} {self._in_flight[t]}/{h.concurrency.limit:.0f}"
            for t, h in self._health.items()
        )
        return f"Targets({states})"

    def all(self) -> list[Target]:
        """Every target, in the order of the settings."""
        return list(self._health)

    def health(self, target: Target) -> TargetHealth:
        """What is known of `target`."""
        return self._health[target]

    def in_flight(self, target: Target) -> int:
        """Calls that `target` has not answered yet."""
        return self._in_flight[target]

    def candidates(self, region: str, *, now_s: float) -> list[Target]:
        """Nodes of `region` that are not avoided now, best first: settings order, slow ones behind."""
        open_ = [t for t in self._by_region.get(region, []) if allows(self._health[t].breaker, now_s=now_s)]
        slow = slow_targets([(t, self._health[t].latency_s) for t in open_])
        return sorted(open_, key=lambda t: (t in slow, t.place))

    def choose(self, region: str, priority: Priority, *, now_s: float) -> Choice:
        """The candidates of `region` that have room for one more call of `priority`."""
        candidates = self.candidates(region, now_s=now_s)
        nodes = tuple(target for target in candidates if self.has_room(target, priority, now_s=now_s))
        return Choice(nodes, full=bool(candidates) and not nodes)

    def has_room(self, target: Target, priority: Priority, *, now_s: float) -> bool:
        """Whether `target` may have one more call of `priority` in flight."""
        held = self._health[target].concurrency
        return self._in_flight[target] < room(held, self._concurrency, priority, now_s=now_s)

    def hedge_after_s(self, target: Target) -> float | None:
        """How long to wait for `target` before a second request; None while that is not known."""
        return self._tails[target].read_s()

    def begin(self, target: Target, *, now_s: float) -> None:
        """A request is sent to `target`."""
        self._in_flight[target] += 1
        self._change(target, breaker=try_begins(self._health[target].breaker, self._policy, now_s=now_s))

    def succeeded(self, target: Target, *, took_s: float, now_s: float, learn: bool = True) -> None:
        """A request was answered after `took_s` seconds; `learn` when that is typical of lists."""
        learnt = self._ended(target, took_s, learn=learn)
        health = self._health[target]
        if health.breaker.phase is not Phase.CLOSED:
            learnt = came_back(learnt, now_s=now_s)
        latency_s = smoothed(health.latency_s, took_s) if learn else health.latency_s
        self._health[target] = TargetHealth(learnt, succeeded(health.breaker), latency_s, answered=True)

    def failed(
        self, target: Target, *, took_s: float, now_s: float, learn: bool = True, has_too_much: bool = False
    ) -> None:
        """A request was not answered in time, or with an error of the node.

        Args:
            target: the node.
            took_s: how long the request was out.
            now_s: monotonic seconds.
            learn: whether `took_s` says something about the node's load: a broken connection's does not.
            has_too_much: the node said so.
        """
        learnt = self._ended(target, took_s, learn=learn)
        if has_too_much:
            learnt = overloaded(learnt, self._concurrency)
        breaker = failed(self._health[target].breaker, self._policy, now_s=now_s)
        self._change(target, breaker=breaker, concurrency=learnt)

    def inconclusive(self, target: Target) -> None:
        """A request ended in a way that says nothing about the node: too little time, or nobody waits any more."""
        self._in_flight[target] -= 1

    def probed(self, target: Target, *, ok: bool, now_s: float) -> None:
        """A probe came back, or did not."""
        health = self._health[target]
        breaker = probe_succeeded(health.breaker) if ok else probe_failed(health.breaker, self._policy, now_s=now_s)
        # A slow node gets no requests and so no new figures: good probes let the old ones fade, then it is tried again.
        latency_s = health.latency_s * _FORGET_PER_PROBE if ok and health.latency_s is not None else health.latency_s
        self._health[target] = TargetHealth(health.concurrency, breaker, latency_s, answered=health.answered or ok)

    def answered(self, region: str) -> bool:
        """Whether any node of `region` has ever answered."""
        return any(self._health[target].answered for target in self._by_region.get(region, []))

    def is_open(self, target: Target) -> bool:
        """Whether requests avoid `target` at present."""
        return self._health[target].breaker.phase is not Phase.CLOSED

    def _ended(self, target: Target, took_s: float, *, learn: bool) -> Concurrency:
        held, in_flight = self._health[target].concurrency, self._in_flight[target]
        self._in_flight[target] -= 1
        if not learn:
            return held
        self._tails[target].note(took_s)
        return answered(held, self._concurrency, took_s=took_s, in_flight=in_flight)

    def _change(self, target: Target, *, breaker: Breaker, concurrency: Concurrency | None = None) -> None:
        health = self._health[target]
        self._health[target] = replace(health, breaker=breaker, concurrency=concurrency or health.concurrency)


def slow_targets(latencies: Sequence[tuple[Target, float | None]]) -> frozenset[Target]:
    """Targets that answer SLOW_FACTOR times slower than the fastest sibling, and slower than SLOW_FLOOR_S."""
    known = [latency for _, latency in latencies if latency is not None]
    if not known:
        return frozenset()
    limit_s = max(SLOW_FLOOR_S, SLOW_FACTOR * min(known))
    return frozenset(target for target, latency in latencies if latency is not None and latency > limit_s)
