"""Thousands of seeded faulty worlds: invariant 2 of the design, the budgets, and healing; planted bugs are caught.

ATOLL_SIM_SEEDS says how many seeds are played (10,000 if not), ATOLL_SIM_SEED plays one of them alone:

    ATOLL_SIM_SEED=4711 pytest tests/sim/edge -k worlds
"""

import asyncio
import gc
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from edge.answering.recommender import recommend
from edge.calls import Caller, ListQuery
from infra.contracts.messages import DegradationStep, RecommendationType
from infra.plumbing.errors import UnavailableError
from infra.plumbing.telemetry import Telemetry, TelemetrySettings, start_telemetry
from infra.plumbing.tokens import Principal
from tests.sim.edge.faulty import FaultyGrid, FaultyRegions, Outage
from tests.sim.edge.virtual import LoopClock, run_virtually
from tests.sim.edge.worlds import CROWDED_EVERY, DEADLINE_S, NODES, make_edge, play, stop

SEEDS = int(os.environ.get("ATOLL_SIM_SEEDS", "10000"))
ONE_SEED = os.environ.get("ATOLL_SIM_SEED")
SHARDS = 4
"""So that several processes can share the work."""


@pytest.fixture(scope="module")
def telemetry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Telemetry]:
    log = tmp_path_factory.mktemp("sim") / "log"
    made = start_telemetry(
        service="edge", region="here", node="sim", settings=TelemetrySettings(log_file=str(log), sample_ratio=0.0)
    )
    # What the test session holds already need not be looked through again after every few worlds.
    gc.freeze()
    yield made
    gc.unfreeze()
    made.close()


@pytest.mark.parametrize("shard", range(SHARDS))
def test_no_valid_call_fails_in_any_of_the_worlds_and_every_world_heals(telemetry: Telemetry, shard: int) -> None:
    steps: Counter[str] = Counter()
    seeds = [int(ONE_SEED)] if ONE_SEED is not None else range(shard, SEEDS, SHARDS)
    for seed in seeds:
        outcome = play(seed, telemetry)
        assert not outcome.problems, f"replay with ATOLL_SIM_SEED={seed}: {outcome.problems[:3]}"
        steps += outcome.steps
    # Worlds that never leave the first rungs would prove nothing.
    if len(seeds) >= 250:
        assert {step.value for step in DegradationStep} == set(steps), steps


@pytest.mark.parametrize("seed", [7, CROWDED_EVERY - 1])
def test_a_seed_plays_the_same_world_twice(telemetry: Telemetry, seed: int) -> None:
    one, again = play(seed, telemetry), play(seed, telemetry)
    assert (one.steps, one.calls, one.requests) == (again.steps, again.calls, again.requests)


def _refuse(*_: object, **__: object) -> None:
    raise UnavailableError("the last rung is gone.")


BUGS: dict[str, dict[str, Callable[..., object]]] = {
    "the breaker never closes": {"edge.routing.health.succeeded": lambda breaker: breaker},
    "retries without a budget": {"edge.routing.retry_budget.RetryBudget.take": lambda self: True},
    "hedges at once and without a budget": {
        "edge.routing.retry_budget.RetryBudget.take_spare": lambda self: True,
        "edge.routing.health.Targets.hedge_after_s": lambda self, target: 0.0,
    },
    "ended calls stay in flight": {"edge.routing.health.Targets.inconclusive": lambda self, target: None},
    "asking may take all of the time": {"edge.routing.ladder.Shares.of": lambda self, rung, remaining_s: 10.0},
    "purges are not heard": {"edge.cache.purges.PurgeNotes.overtake": lambda self, entry: False},
    "withdrawn items are not heard": {"edge.cache.invalidation.Ledger._note_items": lambda self, message: None},
    "events are not heard": {"edge.cache.invalidation.Ledger._note_subject": lambda self, message: None},
    "a room that never opens": {"edge.routing.health.room": lambda *_args, **_words: 0},
    "the last rung refuses": {"edge.answering.climb.from_release": _refuse},
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    for where, instead in BUGS[bug].items():
        monkeypatch.setattr(where, instead)
    seeds = [*range(150), *range(CROWDED_EVERY - 1, 40 * CROWDED_EVERY, CROWDED_EVERY)]  # the crowded ones too
    caught = next((seed for seed in seeds if play(seed, telemetry).problems), None)
    assert caught is not None


async def _outage_and_heal(telemetry: Telemetry, took: list[float], extra: list[float]) -> None:
    rng = random.Random(1)
    regions = FaultyRegions(rng, [Outage(f"http://home-{n}", "refused", 5.0, 15.0) for n in (1, 2)], NODES)
    edge = make_edge(rng, regions, FaultyGrid(rng, 0, 0, hangs=False), telemetry, LoopClock(), probe_s=0.5)
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
    prober.cancel()
    await asyncio.gather(prober, return_exceptions=True)
    await stop(edge)


def test_personal_lists_are_back_within_about_a_probe_interval_and_nobody_storms(telemetry: Telemetry) -> None:
    took: list[float] = []
    calls_per_request: list[float] = []
    run_virtually(_outage_and_heal(telemetry, took, calls_per_request))
    assert took
    assert took[0] <= 1.0
    assert calls_per_request[0] <= 1.1
