"""Lists made ahead: for the likely, within a budget, void on every word about their subject, never by the busy."""

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from prometheus_client import CollectorRegistry, generate_latest

from infra.contracts.lists import GridValue, grid_key
from infra.contracts.messages import INVALIDATION_TOPIC, Context, HomeAnswer, HomeRequest, Invalidation
from infra.contracts.residency import encode_regional
from infra.plumbing.clock import ManualClock
from infra.plumbing.grid.memory import MemoryGrid
from region.funnel.plans import OPTED_OUT_LIFETIME
from region.precompute.making import GUESSED_AT_ONCE, Precomputer, hear_changes
from region.precompute.predicting import DAY_MS, HOUR_MS, chance_of_visit, visits_of
from region.precompute.visitors import Visitors, key_of
from region.privacy.bulk import STANDING_S
from region.settings import PrecomputeSettings
from tests.support.keeping import NotedReads
from tests.unit.region.worlds import NOW_MS, SUBJECT, World, personal, row_of

MIDNIGHT_MS = NOW_MS - NOW_MS % DAY_MS
SETTINGS = PrecomputeSettings(enabled=True, lists_per_s=1000.0, cpu_share=1.0, chance_min=0.2)


def test_moments_close_together_are_one_visit() -> None:
    assert visits_of([60_000, 0, 120_000, 4 * HOUR_MS]) == [0, 4 * HOUR_MS]


def test_who_comes_every_evening_is_expected_in_the_evening() -> None:
    evenings = [MIDNIGHT_MS - day * DAY_MS + 20 * HOUR_MS for day in range(14, 0, -1)]
    at_19 = chance_of_visit(evenings, now_ms=MIDNIGHT_MS + 19 * HOUR_MS + HOUR_MS // 2, horizon_ms=HOUR_MS)
    at_8 = chance_of_visit(evenings, now_ms=MIDNIGHT_MS + 8 * HOUR_MS, horizon_ms=HOUR_MS)
    assert at_19 > 0.25 > 0.05 > at_8
    gone = chance_of_visit(evenings, now_ms=MIDNIGHT_MS + 30 * DAY_MS + 19 * HOUR_MS, horizon_ms=HOUR_MS)
    assert gone < at_19 / 3
    assert chance_of_visit([], now_ms=NOW_MS, horizon_ms=HOUR_MS) == 0.0


@given(st.lists(st.integers(NOW_MS - 60 * DAY_MS, NOW_MS), max_size=50), st.integers(1, 6 * HOUR_MS))
def test_a_chance_is_one_and_grows_with_the_horizon(moments: list[int], horizon_ms: int) -> None:
    visits = visits_of(moments)
    near = chance_of_visit(visits, now_ms=NOW_MS, horizon_ms=horizon_ms)
    far = chance_of_visit(visits, now_ms=NOW_MS, horizon_ms=2 * horizon_ms)
    assert 0.0 <= near <= far + 1e-12 <= 1.0


class Made:
    """A precomputer over a world, and what became of it."""

    def __init__(self, world: World, settings: PrecomputeSettings = SETTINGS) -> None:
        self.world = world
        self.clock = ManualClock(wall_ms=MIDNIGHT_MS + 19 * HOUR_MS)
        self.grid = MemoryGrid(clock=self.clock)
        self.registry = CollectorRegistry()
        self.busy = False
        self.asked: list[HomeRequest] = []
        self.changed: dict[str, object] = {}
        self.visitors = Visitors()
        self.reads = NotedReads()
        self.precomputer = Precomputer(
            settings=settings, visitors=self.visitors, store=world.store, grid=self.grid, clock=self.clock,
            make=self.make, is_busy=lambda: self.busy, registry=self.registry,
            standing=self.reads.standing(who="node", action="lists made ahead", why="test", clock=self.clock),
        )  # fmt: skip

    async def make(self, request: HomeRequest) -> HomeAnswer:
        self.asked.append(request)
        return msgspec.structs.replace(await self.world.recommender.home(request, shown=False), **self.changed)

    async def known(self, subject: str = SUBJECT) -> HomeRequest:
        await self.world.live.refresh()
        await self.world.store.write_rows([row_of("item-3", "item-7", subject=subject)])
        request = personal(subject=subject, n=10, context=Context(locale="de", local_hour=3))
        now_ms = self.clock.now_ms()
        for day in range(9, -1, -1):
            self.visitors.note(request, now_ms=now_ms - day * DAY_MS - 10 * 60_000)
        return request

    async def in_grid(self, request: HomeRequest) -> GridValue | None:
        content = await self.grid.get(grid_key(key_of(request)))
        return None if content is None else msgspec.msgpack.decode(content, type=GridValue)

    def count(self, outcome: str) -> float:
        line = f'atoll_region_precomputed_total{{outcome="{outcome}"}} '
        text = generate_latest(self.registry).decode()
        return next((float(one.removeprefix(line)) for one in text.splitlines() if one.startswith(line)), 0.0)


@pytest.fixture
def made(world: World) -> Made:
    return Made(world)


async def test_what_is_read_without_anybody_asking_is_in_the_account_by_the_hour(made: Made) -> None:
    await made.known()
    await made.precomputer.round()
    await made.precomputer.round()
    made.clock.advance(STANDING_S)
    await made.known("d" * 32)
    await made.precomputer.round()
    assert [(outcome, detail.split(";")[0]) for _, _, outcome, detail in made.reads.noted] == [
        ("asked", "test"), ("done", "1 lists, 1 rows"), ("asked", "test")
    ]  # fmt: skip


async def test_a_likely_visitor_finds_a_list_in_the_grid(made: Made) -> None:
    request = await made.known()
    await made.precomputer.round()
    value = await made.in_grid(request)
    assert value is not None
    assert value.answer.precomputed
    assert (value.asked, len(value.answer.items)) == (10, 30)
    assert value.answer.lifetime.max_age_s == SETTINGS.horizon_s
    assert made.count("made") == 1
    await made.precomputer.round()
    assert len(made.asked) == 1  # it is there already
    made.clock.advance(SETTINGS.horizon_s + 1)
    await made.precomputer.round()
    assert made.count("ran out") == 1


async def test_every_word_about_a_subject_makes_its_list_void(made: Made) -> None:
    request = await made.known()
    await made.precomputer.round()
    hearing = asyncio.create_task(hear_changes(made.grid, made.precomputer))
    await asyncio.sleep(0)
    await made.grid.publish(INVALIDATION_TOPIC, encode_regional(Invalidation(subject=SUBJECT, subject_version=9)))
    while await made.in_grid(request) is not None:  # noqa: ASYNC110 - the grid tells nobody what left it
        await asyncio.sleep(0)
    hearing.cancel()
    await asyncio.wait([hearing])
    assert made.count("void") == 1


async def test_a_list_that_is_not_whole_is_left_to_the_visit_and_counted(made: Made) -> None:
    request = await made.known()
    for field, value, outcome in (("degraded", ("ranker",), "degraded"), ("items", (), "empty")):
        made.changed = {field: value}
        await made.precomputer.round()
        assert await made.in_grid(request) is None
        assert made.count(outcome) == 1
    made.world.active[:] = [None]
    await made.precomputer.round()
    assert (made.count("failed"), made.count("made")) == (1, 0)


async def test_nobody_gets_one_who_opted_out_or_is_not_likely(made: Made) -> None:
    request = await made.known()
    await made.world.store.set_opt_out(SUBJECT, opted_out=True)
    await made.precomputer.round()
    assert await made.in_grid(request) is None
    made.clock.advance(8 * 3600)
    await made.world.store.set_opt_out(SUBJECT, opted_out=False)
    await made.precomputer.round()
    assert made.asked == []
    assert OPTED_OUT_LIFETIME.max_age_s < SETTINGS.horizon_s


async def test_a_busy_node_and_a_peak_hour_make_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("region.precompute.making.LOADED_PAUSE_S", 0.0)
    made = Made(world)
    await made.known()
    made.busy = True
    await made.precomputer.round()
    assert (made.asked, made.count("busy")) == ([], 1)
    peak = Made(world, replace(SETTINGS, hours_utc=(3,)))
    await peak.known()
    await peak.precomputer.round()
    assert peak.asked == []
    many = Made(world, replace(SETTINGS, requests_per_s_max=5.0))
    request = await many.known()
    for _ in range(7):
        many.precomputer.asked(request)
    await many.precomputer.round()
    assert (many.asked, many.count("busy")) == ([], 1)


async def test_requests_get_their_turns_while_it_is_guessed_who_comes(made: Made) -> None:
    request = await made.known()
    others = 10 * GUESSED_AT_ONCE
    for number in range(others):
        made.visitors.note(replace(request, subject=f"{number:032x}"), now_ms=made.clock.now_ms())
    turns = 0

    async def serve() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    serving = asyncio.create_task(serve())
    guessed = await made.precomputer._guessed(made.clock.now_ms(), HOUR_MS)
    serving.cancel()
    await asyncio.wait([serving])
    assert guessed[0][1].subject == SUBJECT
    assert turns >= others / GUESSED_AT_ONCE


async def test_the_budget_bounds_a_round(world: World) -> None:
    made = Made(world, replace(SETTINGS, lists_per_round=3))
    for number in range(6):
        await made.known(f"{number:032x}")
    await made.precomputer.round()
    assert len(made.asked) == 3


async def test_who_asks_the_region_all_the_same_had_no_use_of_it(made: Made) -> None:
    request = await made.known()
    await made.precomputer.round()
    made.precomputer.asked(request)
    assert made.count("asked for all the same") == 1
    assert made.precomputer.count_of(SUBJECT) == 1
    assert await made.precomputer.forget(SUBJECT) == 1
    assert made.precomputer.count_of(SUBJECT) == 0


def test_only_plain_requests_are_remembered() -> None:
    visitors = Visitors(visitors_max=2)
    for request in (
        personal(category="drama"),
        personal(recent=("a",)),
        personal(subject=None),
        personal(explain=True),
    ):
        visitors.note(request, now_ms=1)
    assert list(visitors.all()) == []
    for subject in ("a", "b", "c"):
        visitors.note(personal(subject=subject), now_ms=1)
    assert [visitors.count_of(subject) for subject in "abc"] == [0, 1, 1]
