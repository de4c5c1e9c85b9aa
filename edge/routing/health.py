"""Health of the nodes that an edge may ask, and in which order to ask them. Pure: fed with outcomes, asked with `now`.

Passive: consecutive failures open a node's breaker; a node whose answers became slow stands behind its siblings.
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

    breaker: Breaker = field(default_factory=Breaker)
    latency_s: float | None = None
    answered: bool = False
    """Whether it has ever answered, a probe or a request."""


def smoothed(average_s: float | None, sample_s: float) -> float:
    """Exponentially weighted mean, in seconds."""
    return sample_s if average_s is None else average_s + _LATENCY_WEIGHT * (sample_s - average_s)


class Targets:
    """Health of every target. The event loop's only."""

    def __init__(self, targets: Sequence[Target], *, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._health = {target: TargetHealth() for target in targets}
        self._by_region: dict[str, list[Target]] = {}
        for target in targets:
            self._by_region.setdefault(target.region, []).append(target)

    def __repr__(self) -> str:
        states = ", ".join(f"{t.region}[{t.place}]={h.breaker.phase.value}" for t, h in self._health.items())
        return f"Targets({states})"

    def all(self) -> list[Target]:
        """Every target, in the order of the settings."""
        return list(self._health)

    def health(self, target: Target) -> TargetHealth:
        """What is known of `target`."""
        return self._health[target]

    def candidates(self, region: str, *, now_s: float) -> list[Target]:
        """Nodes of `region` that may be asked now, best first: settings order, slow ones behind."""
        open_ = [t for t in self._by_region.get(region, []) if allows(self._health[t].breaker, now_s=now_s)]
        slow = slow_targets([(t, self._health[t].latency_s) for t in open_])
        return sorted(open_, key=lambda t: (t in slow, t.place))

    def begin(self, target: Target, *, now_s: float) -> None:
        """A request is sent to `target`."""
        self._change(target, breaker=try_begins(self._health[target].breaker, self._policy, now_s=now_s))

    def succeeded(self, target: Target, *, took_s: float) -> None:
        """A request was answered after `took_s` seconds."""
        health = self._health[target]
        self._health[target] = TargetHealth(
            succeeded(health.breaker), smoothed(health.latency_s, took_s), answered=True
        )

    def failed(self, target: Target, *, now_s: float) -> None:
        """A request was not answered in time, or with an error of the node."""
        self._change(target, breaker=failed(self._health[target].breaker, self._policy, now_s=now_s))

    def probed(self, target: Target, *, ok: bool, now_s: float) -> None:
        """A probe came back, or did not."""
        health = self._health[target]
        breaker = probe_succeeded(health.breaker) if ok else probe_failed(health.breaker, self._policy, now_s=now_s)
        # A slow node gets no requests and so no new figures: good probes let the old ones fade, then it is tried again.
        latency_s = health.latency_s * _FORGET_PER_PROBE if ok and health.latency_s is not None else health.latency_s
        self._health[target] = TargetHealth(breaker, latency_s, answered=health.answered or ok)

    def answered(self, region: str) -> bool:
        """Whether any node of `region` has ever answered."""
        return any(self._health[target].answered for target in self._by_region.get(region, []))

    def is_open(self, target: Target) -> bool:
        """Whether requests avoid `target` at present."""
        return self._health[target].breaker.phase is not Phase.CLOSED

    def _change(self, target: Target, *, breaker: Breaker) -> None:
        self._health[target] = replace(self._health[target], breaker=breaker)


def slow_targets(latencies: Sequence[tuple[Target, float | None]]) -> frozenset[Target]:
    """Targets that answer SLOW_FACTOR times slower than the fastest sibling, and slower than SLOW_FLOOR_S."""
    known = [latency for _, latency in latencies if latency is not None]
    if not known:
        return frozenset()
    limit_s = max(SLOW_FLOOR_S, SLOW_FACTOR * min(known))
    return frozenset(target for target, latency in latencies if latency is not None and latency > limit_s)
