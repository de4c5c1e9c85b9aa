"""The real answering code in virtual time against seeded faulty worlds: invariant 2 of the design, and healing.

A failing seed is printed; `play(seed, telemetry)` runs that one world again, the same way.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from edge.answering.parts import Parts
from edge.answering.recommender import recommend
from edge.app import Edge, Outside, build
from edge.calls import Caller, ListQuery
from edge.http.rendering import list_response
from edge.lists.library import ReleaseSource
from edge.lists.release_lists import LoadedLists
from edge.metrics import EdgeMetrics
from edge.routing.breaker import Phase
from edge.settings import EdgeSettings
from infra.contracts.messages import DegradationStep, Invalidation, RecommendationType
from infra.contracts.release import ReleaseLists
from infra.plumbing.keys import RegionKeys, TrustDirectory
from infra.plumbing.service_keys import KeyRing
from infra.plumbing.telemetry import Telemetry, TelemetrySettings, start_telemetry
from infra.plumbing.tokens import Principal
from tests.sim.edge.faulty import FAULTS, RELEASE, FaultyGrid, FaultyRegions, Outage
from tests.sim.edge.virtual import LoopClock, run_virtually

SEEDS = 200
CALLS = 120
WORLD_S = 20.0
DEADLINE_S = 0.15
NODES = {"http://home-1": "here", "http://home-2": "here", "http://near": "near", "http://far": "far"}
KEYS = RegionKeys.generate("here")
TRUST = TrustDirectory.of([KEYS])
ITEMS = tuple(f"release-{number}" for number in range(60))
LISTS = LoadedLists(
    RELEASE, 2, ReleaseLists(popular={"all": ITEMS}, trending={"all": ITEMS}, similar={}, titles={}), "here"
)


@dataclass
class Outcome:
    """What one world showed."""

    steps: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    calls: int = 0


def outages(rng: random.Random) -> list[Outage]:
    """Up to five outages, all over at 60 % of the world's time."""
    healed_s = WORLD_S * 0.6
    made = []
    for _ in range(rng.randrange(6)):
        start_s = rng.uniform(0, healed_s)
        nodes = rng.sample(list(NODES), rng.choice([1, 1, 2, 4]))
        end_s = min(healed_s, start_s + rng.expovariate(1 / 4))
        made += [Outage(url, rng.choice(FAULTS), start_s, end_s) for url in nodes]
    return made


def make_edge(rng: random.Random, regions: FaultyRegions, grid: FaultyGrid, telemetry: Telemetry) -> Edge:
    settings = EdgeSettings(
        node="n", region="here", port=0, state_directory="unused", home_urls=("http://home-1", "http://home-2"),
        away_urls={"near": ("http://near",), "far": ("http://far",)}, repository_url="", trusted_root="",
        keys_file="", trust_file="", grid="memory",
    )  # fmt: skip
    outside = Outside(
        settings=settings, keys=KEYS, trust=TRUST, telemetry=telemetry, clock=LoopClock(), uniform=rng.uniform,
        grid=grid, open_source=_no_source, service_keys=KeyRing(None, clock=LoopClock()),
    )  # fmt: skip
    edge = build(outside, regions, EdgeMetrics(CollectorRegistry()))
    edge.shelf.current = LISTS
    return edge


def _no_source() -> ReleaseSource:
    raise AssertionError("the simulation has its lists already")


def a_query(rng: random.Random) -> ListQuery:
    kind = rng.choice(list(RecommendationType))
    return ListQuery(
        type=kind, n=rng.choice([1, 10, 10, 10, 40]), item="i" if kind is RecommendationType.SIMILAR else None,
        exclude=frozenset(rng.sample([f"home-{number}" for number in range(30)], rng.choice([0, 0, 5]))),
        vector=(1.0, 2.0) if rng.random() < 0.2 else None, vector_release=RELEASE,
    )  # fmt: skip


async def one_call(rng: random.Random, parts: Parts, outcome: Outcome) -> DegradationStep | None:
    caller = Caller(token="t", subject=f"u{rng.randrange(8)}") if rng.random() < 0.8 else Caller(session="s1")
    query = a_query(rng)
    if query.type is RecommendationType.PERSONAL and caller.subject is None:
        return None
    if caller.subject is not None:
        caller = Caller(token="t", principal=Principal("here", "x", 1), subject=caller.subject)
    started_s = parts.clock.monotonic_s()
    try:
        served = await recommend(parts, query, caller, deadline_s=started_s + DEADLINE_S)
        body = msgspec.json.decode(bytes(list_response(parts, query, caller, served, if_none_match=None).body))  # type: ignore[arg-type]
    except Exception as error:
        outcome.problems.append(f"{query} raised {error!r}")
        return None
    took_s = parts.clock.monotonic_s() - started_s
    names = [item["item"] for item in body["items"]]
    if len(names) != query.n or set(names) & query.exclude or len(set(names)) != len(names):
        outcome.problems.append(f"{query} got {names}")
    if took_s > DEADLINE_S:
        outcome.problems.append(f"{query} took {took_s}")
    outcome.steps[served.step.value] += 1
    return served.step


async def stop(edges: list[Edge], probers: list[asyncio.Task[None]]) -> None:
    for prober in probers:
        prober.cancel()
    await asyncio.gather(*probers, return_exceptions=True)
    for edge in edges:
        await edge.background.close()
        await edge.parts.filler.close()


async def live(seed: int, telemetry: Telemetry, outcome: Outcome) -> None:
    rng = random.Random(seed)
    regions = FaultyRegions(rng, outages(rng), NODES)
    down_s = rng.uniform(0, WORLD_S / 2)
    grid = FaultyGrid(rng, down_s, down_s + rng.choice([0.0, 1.0, 4.0]), hangs=rng.random() < 0.5)
    edges = [make_edge(rng, regions, grid, telemetry) for _ in range(2)]
    edge = edges[0]
    probers = [asyncio.create_task(each.prober.run()) for each in edges]
    async with asyncio.TaskGroup() as calls:
        for number in range(CALLS):
            await asyncio.sleep(rng.expovariate(CALLS / (WORLD_S * 0.65)))
            if rng.random() < 0.1:
                subject = f"u{rng.randrange(8)}"
                regions.versions[subject] = regions.versions.get(subject, 0) + 1
                version = regions.versions[subject]
                told = Invalidation(subject=subject, subject_version=version, consumed=(f"home-{number % 20}",))
                for each in edges:
                    each.ledger.apply(told)
            calls.create_task(one_call(rng, rng.choice(edges).parts, outcome))
    # All is healed by now. Give probes, trials and doubled waits their time, then everything must be as if new.
    await asyncio.sleep(max(0.0, WORLD_S - edge.parts.clock.monotonic_s()) + 10.0)
    for number in range(4):
        caller = Caller(token="t", subject=f"fresh-{number}")
        query = ListQuery(type=RecommendationType.POPULAR, category=f"c{number}")
        served = await recommend(edge.parts, query, caller, deadline_s=edge.parts.clock.monotonic_s() + DEADLINE_S)
        if served.step not in (DegradationStep.HOME, DegradationStep.REPLICA):
            outcome.problems.append(f"after healing: {served.step} with {edge.targets!r}")
    if edge.targets.health(edge.targets.all()[0]).breaker.phase is not Phase.CLOSED:
        outcome.problems.append(f"the first node is still avoided: {edge.targets!r}")
    await stop(edges, probers)
    outcome.calls = regions.calls


def play(seed: int, telemetry: Telemetry) -> Outcome:
    """One world; the same seed gives the same outcome."""
    outcome = Outcome()
    run_virtually(live(seed, telemetry, outcome))
    return outcome


@pytest.fixture(scope="module")
def telemetry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Telemetry]:
    log = tmp_path_factory.mktemp("sim") / "log"
    made = start_telemetry(
        service="edge", region="here", node="sim", settings=TelemetrySettings(log_file=str(log), sample_ratio=0.0)
    )
    yield made
    made.close()


def test_no_valid_call_fails_in_any_world_and_every_world_heals(telemetry: Telemetry) -> None:
    steps: Counter[str] = Counter()
    for seed in range(SEEDS):
        outcome = play(seed, telemetry)
        assert not outcome.problems, f"seed {seed}: {outcome.problems[:3]}"
        steps += outcome.steps
    # Worlds that never leave the first rungs would prove nothing.
    assert {step.value for step in DegradationStep} == set(steps), steps


def test_a_seed_plays_the_same_world_twice(telemetry: Telemetry) -> None:
    one, again = play(7, telemetry), play(7, telemetry)
    assert (one.steps, one.calls) == (again.steps, again.calls)


def test_a_planted_bug_is_caught(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.routing.health.succeeded", lambda breaker: breaker)
    monkeypatch.setattr("edge.routing.health.probe_succeeded", lambda breaker: breaker)
    assert any(play(seed, telemetry).problems for seed in range(20))


async def _outage_and_heal(telemetry: Telemetry, took: list[float], extra: list[float]) -> None:
    rng = random.Random(1)
    regions = FaultyRegions(rng, [Outage(f"http://home-{n}", "refused", 5.0, 15.0) for n in (1, 2)], NODES)
    edge = make_edge(rng, regions, FaultyGrid(rng, 0, 0, hangs=False), telemetry)
    prober = asyncio.create_task(edge.prober.run())
    first = 0
    while edge.parts.clock.monotonic_s() < 20.0:
        await asyncio.sleep(0.02)
        first += 1
        caller = Caller(token="t", principal=Principal("here", "x", 1), subject=f"user-{first}")
        deadline_s = edge.parts.clock.monotonic_s() + DEADLINE_S
        served = await recommend(edge.parts, ListQuery(type=RecommendationType.PERSONAL), caller, deadline_s=deadline_s)
        at_s = edge.parts.clock.monotonic_s()
        if at_s > 15.0 and served.step is DegradationStep.HOME and not took:
            took.append(at_s - 15.0)
    extra.append(regions.calls / first)
    await stop([edge], [prober])


def test_personal_lists_are_back_within_about_a_probe_interval_and_nobody_storms(telemetry: Telemetry) -> None:
    took: list[float] = []
    calls_per_request: list[float] = []
    run_virtually(_outage_and_heal(telemetry, took, calls_per_request))
    assert took
    assert took[0] <= 1.0
    assert calls_per_request[0] <= 1.1
