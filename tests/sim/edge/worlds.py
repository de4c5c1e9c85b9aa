"""One seeded faulty world: real edges (answering, routing, caches, invalidation) in virtual time, and what must hold.

A world is small, so that thousands can be played: a few calls and outages. Every CROWDED_EVERY-th is crowded: many
calls in little time on two edges, where budgets and limits matter. The same seed gives the same world.

What is checked in every world:
- a valid call gets its page: full, without what was excluded, consumed or withdrawn, nothing twice, within its time;
- a list that was purged, or overtaken by an event, is not called fresh;
- calls behind the edges stay within first calls + the retry budget;
- when all is healed, the home region answers again, nothing is avoided and nothing is left in flight.
"""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

import msgspec
from prometheus_client import CollectorRegistry

from edge.answering.recommender import recommend
from edge.app import Edge, Outside, build
from edge.calls import Caller, ListQuery
from edge.http.query import ABOUT_AN_ITEM
from edge.http.rendering import list_response
from edge.lists.library import ReleaseSource
from edge.lists.release_lists import LoadedLists
from edge.metrics import EdgeMetrics
from edge.routing.breaker import Phase
from edge.routing.retry_budget import RetryBudget
from edge.settings import EdgeSettings
from infra.contracts.messages import DegradationStep, Invalidation, RecommendationType, Surface
from infra.contracts.release import ReleaseLists
from infra.plumbing.keys import RegionKeys, TrustDirectory
from infra.plumbing.service_keys import KeyRing
from infra.plumbing.telemetry import Telemetry
from infra.plumbing.tokens import Principal
from tests.sim.edge.faulty import FAULTS, RELEASE, FaultyGrid, FaultyRegions, Outage
from tests.sim.edge.virtual import LoopClock, run_virtually

CROWDED_EVERY = 49
DEADLINE_S = 0.15
NODES = {"http://home-1": "here", "http://home-2": "here", "http://near": "near", "http://far": "far"}
KEYS = RegionKeys.generate("here")
TRUST = TrustDirectory.of([KEYS])
METRICS = EdgeMetrics(CollectorRegistry())
ITEMS = tuple(f"release-{number}" for number in range(60))
LISTS = LoadedLists(
    RELEASE, 2, ReleaseLists(popular={"all": ITEMS}, trending={"all": ITEMS}, similar={}, titles={}), "here"
)
SUBJECTS = 6


@dataclass(frozen=True)
class Size:
    """How much happens in a world."""

    calls: int
    edges: int
    world_s: float
    outages_max: int
    heal_s: float
    """As long as a breaker can wait after so much time of failing, and a little."""


SMALL = Size(calls=9, edges=1, world_s=5.0, outages_max=3, heal_s=5.0)
CROWDED = Size(calls=300, edges=2, world_s=6.0, outages_max=5, heal_s=9.0)


@dataclass
class Outcome:
    """What one world showed."""

    steps: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    calls: int = 0
    requests: int = 0


def size_of(seed: int) -> Size:
    return CROWDED if seed % CROWDED_EVERY == CROWDED_EVERY - 1 else SMALL


def play(seed: int, telemetry: Telemetry) -> Outcome:
    """One world; the same seed gives the same outcome."""
    outcome = Outcome()

    async def lived() -> None:
        # Made inside the loop: an edge reads the clock when it is built.
        await World(seed, telemetry, outcome).live()

    run_virtually(lived())
    return outcome


class World:
    """The edges of region `here`, the nodes around them, and what their callers were told."""

    def __init__(self, seed: int, telemetry: Telemetry, outcome: Outcome) -> None:
        self.rng = random.Random(seed)
        self.size = size_of(seed)
        self.outcome = outcome
        self.clock = LoopClock()
        self.regions = FaultyRegions(self.rng, self._outages(), NODES, self.clock)
        down_s = self.rng.uniform(0, self.size.world_s / 2)
        down_for_s = self.rng.choice([0.0, 0.5, 2.0])
        self.grid = FaultyGrid(self.rng, down_s, down_s + down_for_s, hangs=self.rng.random() < 0.5)
        self.edges = [
            make_edge(self.rng, self.regions, self.grid, telemetry, self.clock) for _ in range(self.size.edges)
        ]
        self.consumed: dict[str, set[str]] = {}
        self.withdrawn: set[str] = set()
        self.purged_s = -1.0
        """When everybody's lists were last purged."""

    async def live(self) -> None:
        probers = [asyncio.create_task(edge.prober.run()) for edge in self.edges]
        async with asyncio.TaskGroup() as calls:
            for _ in range(self.size.calls):
                await asyncio.sleep(self.rng.expovariate(self.size.calls / (self.size.world_s * 0.7)))
                if self.rng.random() < 0.15:
                    self._something_happens()
                calls.create_task(self._call(self.rng.choice(self.edges)))
        await asyncio.sleep(max(0.0, self.size.world_s - self.clock.monotonic_s()) + self.size.heal_s)
        for edge in self.edges:
            await self._check_healed(edge)
        self._check_calls()
        for prober in probers:
            prober.cancel()
        await asyncio.gather(*probers, return_exceptions=True)
        for edge in self.edges:
            await stop(edge)

    def _outages(self) -> list[Outage]:
        """All over at 60 % of the world's time."""
        healed_s = self.size.world_s * 0.6
        made = []
        for _ in range(self.rng.randrange(self.size.outages_max + 1)):
            start_s = self.rng.uniform(0, healed_s)
            nodes = self.rng.sample(list(NODES), self.rng.choice([1, 1, 2, 4]))
            end_s = min(healed_s, start_s + self.rng.expovariate(1 / 2))
            made += [Outage(url, self.rng.choice(FAULTS), start_s, end_s) for url in nodes]
        return made

    def _something_happens(self) -> None:
        """An event, a withdrawal, a purge, or a clock that is set; every edge hears of the first three."""
        kind = self.rng.choice(["event", "event", "withdraw", "purge", "clock"])
        told = Invalidation()
        if kind == "event":
            subject, item = f"u{self.rng.randrange(SUBJECTS)}", f"home-{self.rng.randrange(20)}"
            version = self.regions.versions[subject] = self.regions.versions.get(subject, 0) + 1
            told = Invalidation(subject=subject, subject_version=version, consumed=(item,))
            self.consumed.setdefault(subject, set()).add(item)
        elif kind == "withdraw":
            self.withdrawn.add(f"home-{self.rng.randrange(20)}")
            told = Invalidation(withdrawn=tuple(self.withdrawn))
        elif kind == "purge":
            told = Invalidation(purged=("item:home-0",))
            self.purged_s = self.clock.monotonic_s()
        else:
            self.clock.wall_offset_ms += self.rng.choice([-3_600_000, -5_000, 5_000, 3_600_000])
        for edge in self.edges:
            edge.ledger.apply(told)

    async def _call(self, edge: Edge) -> None:
        caller, query = self._caller(), self._query()
        if query.type is RecommendationType.PERSONAL and caller.subject is None:
            return
        parts, started_s = edge.parts, self.clock.monotonic_s()
        blocked = self.consumed.get(caller.subject or "", set()) | self.withdrawn | query.exclude
        version = self.regions.versions.get(caller.subject or "", 0)
        self.outcome.requests += 1
        try:
            served = await recommend(parts, query, caller, deadline_s=started_s + DEADLINE_S)
            response = list_response(parts, query, caller, served, if_none_match=None)
            items = msgspec.json.decode(bytes(response.body))["items"]  # type: ignore[arg-type]
        except Exception as error:
            self.outcome.problems.append(f"{query} raised {error!r}")
            return
        took_s = self.clock.monotonic_s() - started_s
        names = [item["item"] for item in items]
        if len(names) != query.n or set(names) & blocked or len(set(names)) != len(names):
            self.outcome.problems.append(f"{query} got {names}, {blocked} must not be shown")
        if took_s > DEADLINE_S:
            self.outcome.problems.append(f"{query} took {took_s}")
        if served.step is DegradationStep.FRESH and served.entry is not None:
            too_old = served.entry.made_s < self.purged_s <= started_s
            if too_old or (served.answer.personal and served.answer.subject_version < version):
                self.outcome.problems.append(f"{query} got a list as fresh that had been overtaken")
        self.outcome.steps[served.step.value] += 1

    def _caller(self) -> Caller:
        if self.rng.random() < 0.2:
            return Caller(session="s1")
        return Caller(token="t", principal=Principal("here", "x", 1), subject=f"u{self.rng.randrange(SUBJECTS)}")

    def _query(self) -> ListQuery:
        kind = self.rng.choice(list(RecommendationType))
        return ListQuery(
            type=kind, n=self.rng.choice([1, 10, 10, 10, 40]), item="i" if kind in ABOUT_AN_ITEM else None,
            surface=self.rng.choice([Surface.HOME, Surface.HOME, Surface.EMAIL]),
            exclude=frozenset(f"home-{self.rng.randrange(30)}" for _ in range(self.rng.choice([0, 0, 5]))),
            vector=(1.0, 2.0) if self.rng.random() < 0.2 else None, vector_release=RELEASE,
        )  # fmt: skip

    async def _check_healed(self, edge: Edge) -> None:
        for number in range(3):
            # A category that nobody has asked for: neither this edge nor the grid has its list.
            category = f"c{self.edges.index(edge)}-{number}"
            query = ListQuery(type=RecommendationType.POPULAR, category=category)
            deadline_s = self.clock.monotonic_s() + DEADLINE_S
            served = await recommend(edge.parts, query, Caller(), deadline_s=deadline_s)
            self.outcome.requests += 1
            if served.step not in (DegradationStep.HOME, DegradationStep.REPLICA):
                self.outcome.problems.append(f"after healing: {served.step} with {edge.targets!r}")
            # Before the last one, a node that stood behind its sibling for being slow comes forward again: its breaker
            # may have waited for that call since long ago. After it, a hedge that lost may still be answered.
            await asyncio.sleep(1.0 if number else 0.0)
        # A node that was slow may stand behind its sibling for a while; the one that is asked first is well.
        candidates = edge.targets.candidates("here", now_s=self.clock.monotonic_s())
        if not candidates or edge.targets.health(candidates[0]).breaker.phase is not Phase.CLOSED:
            self.outcome.problems.append(f"the home region is still avoided: {edge.targets!r}")
        if any(edge.targets.in_flight(target) for target in edge.targets.all()):
            self.outcome.problems.append(f"calls are left in flight: {edge.targets!r}")

    def _check_calls(self) -> None:
        self.outcome.calls = self.regions.calls
        budget = RetryBudget()
        # A refresh behind the caller's back is a first call of its own.
        first = self.outcome.requests + self.outcome.steps[DegradationStep.STALE.value]
        allowed = (1 + budget.share) * first + budget.reserve * len(self.edges)
        if self.regions.calls > allowed:
            self.outcome.problems.append(f"{self.regions.calls} calls for {first} requests")


def make_edge(
    rng: random.Random, regions: FaultyRegions, grid: FaultyGrid, telemetry: Telemetry, clock: LoopClock,
    *, probe_s: float = 1.5,
) -> Edge:  # fmt: skip
    settings = EdgeSettings(
        node="n", region="here", port=0, state_directory="unused", home_urls=("http://home-1", "http://home-2"),
        away_urls={"near": ("http://near",), "far": ("http://far",)}, repository_url="", trusted_root="",
        keys_file="", trust_file="", grid="memory", probe_interval_s=probe_s,
    )  # fmt: skip
    outside = Outside(
        settings=settings, keys=KEYS, trust=TRUST, telemetry=telemetry, clock=clock, uniform=rng.uniform, grid=grid,
        open_source=_no_source, service_keys=KeyRing(None, clock=clock),
    )  # fmt: skip
    edge = build(outside, regions, METRICS)
    edge.shelf.current = LISTS
    return edge


async def stop(edge: Edge) -> None:
    await edge.background.close()
    await edge.parts.filler.close()
    await edge.parts.dispatcher.close()


def _no_source() -> ReleaseSource:
    raise AssertionError("the simulation has its lists already")
