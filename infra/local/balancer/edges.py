"""The edges as the balancer knows them: health, calls in flight, and the probes that keep it true."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import aiohttp
from aiohttp import ClientSession, ClientTimeout
from prometheus_client import Counter, Gauge

from infra.local.balancer.health import EdgeHealth, Outcome, after_call, after_probe, warmth
from infra.local.balancer.settings import BalancerSettings, EdgeAddress
from infra.plumbing.clock import Clock
from infra.plumbing.telemetry import Telemetry


class EdgeBoard:
    """Health and load of every edge, by name."""

    def __init__(self, *, settings: BalancerSettings, telemetry: Telemetry, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._back_at_s: dict[str, float] = {}
        self._logger = telemetry.logger
        self.edges = {edge.name: edge for region in settings.regions for edge in region.edges}
        self._health = {name: EdgeHealth() for name in self.edges}
        self._load = dict.fromkeys(self.edges, 0)
        self._up = Gauge(
            "atoll_balancer_edge_up", "Whether an edge takes calls.", ("edge",), registry=telemetry.registry
        )
        self._ejections = Counter(
            "atoll_balancer_ejections", "Times an edge was taken out.", ("edge",), registry=telemetry.registry
        )
        for name in self.edges:
            self._up.labels(name).set(1)

    def is_up(self, name: str) -> bool:
        """Whether the edge takes calls."""
        return self._health[name].up

    def warmth(self, name: str) -> float:
        """Share of its calls that the edge gets: 1, or less for a while after it came back."""
        back_at_s = self._back_at_s.get(name)
        if back_at_s is None:
            return 1.0
        share = warmth(back_s=self._clock.monotonic_s() - back_at_s, slow_start_s=self._settings.slow_start_s)
        if share >= 1.0:
            del self._back_at_s[name]
        return share

    def load(self, name: str) -> int:
        """Calls in flight at the edge."""
        return self._load[name]

    @contextmanager
    def calling(self, name: str) -> Iterator[None]:
        """A call is in flight inside the block."""
        self._load[name] += 1
        try:
            yield
        finally:
            self._load[name] -= 1

    def note_call(self, name: str, outcome: Outcome) -> None:
        """What a call taught us."""
        self._become(name, after_call(self._health[name], outcome))

    def note_probe(self, name: str, outcome: Outcome) -> None:
        """What a probe taught us."""
        self._become(name, after_probe(self._health[name], outcome))

    def describe(self) -> dict[str, dict[str, bool | int]]:
        """Every edge now, for people."""
        return {
            name: {"up": health.up, "ejections": health.ejections, "in_flight": self._load[name]}
            for name, health in self._health.items()
        }

    def _become(self, name: str, health: EdgeHealth) -> None:
        before = self._health[name]
        if health is before:
            return
        self._health[name] = health
        if health.up is not before.up:
            if health.up:
                self._back_at_s[name] = self._clock.monotonic_s()
            self._up.labels(name).set(int(health.up))
            self._logger.warning("an edge is %s", "back" if health.up else "out", extra={"fields": {"edge": name}})
        if health.ejections > before.ejections:
            self._ejections.labels(name).inc()

    async def probe_for_ever(self, session: ClientSession) -> None:
        """Ask every edge for its readiness, each at its own pace, until cancelled."""
        async with asyncio.TaskGroup() as probes:
            for edge in self.edges.values():
                probes.create_task(self._probe_edge_for_ever(session, edge))

    async def _probe_edge_for_ever(self, session: ClientSession, edge: EdgeAddress) -> None:
        while True:
            self.note_probe(edge.name, await self._probe(session, edge))
            await asyncio.sleep(self._settings.probe_interval_s)

    async def _probe(self, session: ClientSession, edge: EdgeAddress) -> Outcome:
        timeout = ClientTimeout(total=self._settings.probe_timeout_s)
        try:
            async with session.get(f"{base_url(edge, self._settings)}/health/ready", timeout=timeout) as answer:
                return Outcome.ANSWERED if answer.status == 200 else Outcome.UNREADY
        except TimeoutError:
            return Outcome.SILENT
        except aiohttp.ClientError:
            return Outcome.BROKEN


def base_url(edge: EdgeAddress, settings: BalancerSettings) -> str:
    """`http://host:port`, or `https`."""
    return f"{'https' if settings.edges_tls else 'http'}://{edge.host}:{edge.port}"


def any_up(board: EdgeBoard, names: Iterable[str]) -> bool:
    """Whether at least one of `names` takes calls."""
    return any(board.is_up(name) for name in names)
