"""Edges that start anew while their region is dark: nobody who opted out, or was erased, is shown a list of before.

Real edges and the region's real announcer over a grid that fails, in virtual time; ATOLL_SIM_SEED plays one seed.
"""

import asyncio
import contextlib
import os
import random
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import CollectorRegistry

from edge.answering.recommender import recommend
from edge.app import Edge
from edge.cache.invalidation import follow_invalidations
from edge.calls import Caller, ListQuery
from infra.contracts.messages import DegradationStep, Invalidation, RecommendationType
from infra.plumbing.telemetry import Telemetry, TelemetrySettings, start_telemetry
from infra.plumbing.tokens import Principal
from region.api.announcing import Announcer
from tests.sim.edge.faulty import RELEASE, FaultyGrid, FaultyRegions, Outage
from tests.sim.edge.virtual import LoopClock, run_virtually
from tests.sim.edge.worlds import DEADLINE_S, NODES, make_edge, stop

SEEDS = range(30) if "ATOLL_SIM_SEED" not in os.environ else [int(os.environ["ATOLL_SIM_SEED"])]
SUBJECTS = [f"u{number}" for number in range(3)]
STEP_S = 0.05


@pytest.fixture(scope="module")
def telemetry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Telemetry]:
    log = tmp_path_factory.mktemp("sim") / "log"
    made = start_telemetry(
        service="edge", region="here", node="sim", settings=TelemetrySettings(log_file=str(log), sample_ratio=0.0)
    )
    yield made
    made.close()


class World:
    """Two edges that start anew now and then, and a region that goes dark in the end.

    Lists come to lie in the grid, edges forget them by starting anew, some subjects choose, edges start anew again, and
    then home is gone: what is left of before lies in the grid, and nobody is there to say whose it may not be.
    """

    def __init__(self, seed: int, telemetry: Telemetry) -> None:
        self.rng = random.Random(seed)
        self.telemetry = telemetry
        self.clock = LoopClock()
        self.regions = FaultyRegions(self.rng, [], NODES, self.clock)
        down_s = self.rng.uniform(0.5, 2.0)
        self.grid = FaultyGrid(self.rng, down_s, down_s + self.rng.choice([0.0, 0.3]), hangs=self.rng.random() < 0.5)
        self.announcer = Announcer(grid=self.grid, registry=CollectorRegistry())
        self.running = [self._start() for _ in range(2)]
        self.told: dict[str, tuple[int, float]] = {}
        """Below which version a subject's lists are from before its choice, and since when the grid has it."""
        self.shown = 0
        self.problems: list[str] = []

    def _start(self) -> tuple[Edge, asyncio.Task[None]]:
        edge = make_edge(self.rng, self.regions, self.grid, self.telemetry, self.clock)
        ear = follow_invalidations(
            self.grid,
            edge.ledger,
            counted=lambda _kind: None,
            on_release=lambda _release: None,
            on_erased=edge.parts.filler.drop_subject,
            on_opted_out=edge.parts.filler.drop_subject,
        )
        return edge, asyncio.create_task(ear)

    async def live(self) -> None:
        await self._calls(8)
        await self._restart(1.0)
        for _ in range(8):
            await self._region_acts()
            await self._calls(self.rng.choice([0, 0, 1]))
        await self._restart(0.7)
        self.regions.outages += [Outage(f"http://home-{node}", "refused", 0.0, 1e9) for node in (1, 2)]
        await self._calls(16)
        for edge, ear in self.running:
            await self._end(edge, ear)

    async def _calls(self, count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(STEP_S)
            await self._call(self.rng.choice(self.running)[0], self.rng.choice(SUBJECTS))

    async def _region_acts(self) -> None:
        """Somebody may choose or be erased; what the grid did not take is told again."""
        await asyncio.sleep(STEP_S)
        await self._bounded(self.announcer.catch_up())
        subject = self.rng.choice(SUBJECTS)
        if self.rng.random() > 0.3 or subject in self.told:
            return
        version = self.regions.versions[subject] = self.regions.versions.get(subject, 0) + 1
        is_erased = self.rng.random() < 0.3
        # Who is erased is somebody new: the choice goes too.
        (self.regions.opted_out.discard if is_erased else self.regions.opted_out.add)(subject)
        word = Invalidation(
            subject=subject, subject_version=version, opted_out=None if is_erased else True, erased=is_erased
        )
        if await self._bounded(self.announcer.insist(word)):
            self.told[subject] = (version, self.clock.monotonic_s())

    async def _bounded(self, telling: object) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):  # as the adapters' own bound
                return bool(await telling)  # type: ignore[misc]
        return False

    async def _restart(self, chance: float) -> None:
        for place in range(len(self.running)):
            if self.rng.random() < chance:
                await self._end(*self.running[place])
                self.running[place] = self._start()
        await asyncio.sleep(STEP_S)

    async def _end(self, edge: Edge, ear: asyncio.Task[None]) -> None:
        ear.cancel()
        await asyncio.gather(ear, return_exceptions=True)
        await stop(edge)

    async def _call(self, edge: Edge, subject: str) -> None:
        caller = Caller(token="t", principal=Principal("here", "x", 1), subject=subject)
        vector = (1.0, 2.0) if self.rng.random() < 0.3 else None
        query = ListQuery(type=RecommendationType.PERSONAL, n=5, vector=vector, vector_release=RELEASE)
        started_s = self.clock.monotonic_s()
        served = await recommend(edge.parts, query, caller, deadline_s=started_s + DEADLINE_S)
        self.shown += served.step is DegradationStep.GRID
        version, since_s = self.told.get(subject, (0, 0.0))
        if not version or started_s < since_s + STEP_S:
            return
        of_before = served.answer.personal and served.answer.subject_version < version
        if of_before and (served.step is not DegradationStep.FAILOVER_VECTOR or subject in self.regions.opted_out):
            self.problems.append(f"{subject} got {served.step} of version {served.answer.subject_version} < {version}")


def play(seed: int, telemetry: Telemetry) -> tuple[list[str], int]:
    """What went wrong in a world, and how many lists came from the grid."""
    problems: list[str] = []
    shown = 0

    async def lived() -> None:
        nonlocal shown
        world = World(seed, telemetry)
        await world.live()
        problems.extend(world.problems)
        shown = world.shown

    run_virtually(lived())
    return problems, shown


def test_whoever_opted_out_is_shown_nothing_personal_by_an_edge_that_starts_in_the_dark(telemetry: Telemetry) -> None:
    from_grid = 0
    for seed in SEEDS:
        problems, shown = play(seed, telemetry)
        assert not problems, f"replay with ATOLL_SIM_SEED={seed}: {problems[:3]}"
        from_grid += shown
    assert from_grid > len(SEEDS) // 2, "worlds in which the grid shows nothing prove nothing"


async def _yes(*_: object, **__: object) -> bool:
    return True


async def _no(*_: object, **__: object) -> None:
    return None


BUGS: dict[str, tuple[str, Callable[..., object]]] = {
    "marks are not read": ("edge.cache.filling.ListFiller._hear_choice", _yes),
    "marks are not left": ("region.api.announcing.Announcer._mark", _no),
    "marks are not read before a vector is used": ("edge.cache.filling.ListFiller.may_use_vector", _yes),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    monkeypatch.setattr(*BUGS[bug])
    assert any(play(seed, telemetry)[0] for seed in range(60))
