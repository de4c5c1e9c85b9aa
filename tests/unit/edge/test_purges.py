"""Purges by item and by tag, the pulse, and what an edge asks its region for."""

import asyncio
import random
from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from edge.cache.entry import Entry
from edge.cache.invalidation import CONFIRM_S, SILENT_LIFE_S, Ledger
from edge.cache.notices import NoticeKeeper
from edge.cache.policy import Life, Standing
from edge.cache.pulse import LATE_S, REFUSALS_MAX, SILENT_S, Pulse
from edge.cache.purges import PurgeNotes
from infra.contracts.messages import INVALIDATION_TOPIC, MORE_TAGS, Invalidation, Notices, NoticesCall
from infra.contracts.residency import encode_regional
from infra.plumbing.clock import ManualClock
from tests.sim.edge.faulty import FaultyRegions
from tests.unit.edge.conftest import World
from tests.unit.edge.fakes import answer

LIFE = Life(60, 90, 600)
NAMES = [f"tag:{letter}" for letter in "abcdef"] + [f"item:h-{number}" for number in range(4)]
names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4)


def entry(*tags: str, made_s: float = 0.0, items: int = 2) -> Entry:
    return Entry(answer("h", items, tags=tags), LIFE, made_s=made_s, asked=10)


@given(st.lists(st.tuples(st.floats(0, 2), names), max_size=30), names, st.integers(0, 3), st.floats(0, 40))
def test_a_purged_list_is_always_overtaken_and_another_only_when_memory_was_short(
    purges: list[tuple[float, list[str]]], tags: list[str], items: int, made_s: float
) -> None:
    ample, short = PurgeNotes(), PurgeNotes(names_max=3)
    now_s, purged = 0.0, False
    held = [entry(*tags, made_s=made_s, items=items) for _ in range(2)]
    own = {*tags, *(f"item:h-{number}" for number in range(items))}
    for wait_s, group in purges:
        now_s += wait_s
        purged |= now_s >= made_s and bool(own & set(group))
        ample.note(group, at_s=now_s)
        short.note(group, at_s=now_s)
        assert ample.overtake(held[0]) == purged
        assert short.overtake(held[1]) or not purged
        assert len(short) <= 3


def test_a_list_with_more_tags_than_it_can_carry_is_taken_to_carry_every_one() -> None:
    notes = PurgeNotes()
    notes.note(("item:elsewhere",), at_s=1.0)
    assert not notes.overtake(entry("tag:a", MORE_TAGS))
    notes.note(("tag:z",), at_s=2.0)
    assert notes.overtake(entry("tag:a", MORE_TAGS))
    assert not notes.overtake(entry("tag:a"))


def test_a_purge_gives_fills_a_new_edition() -> None:
    """Who comes after a purge must not join a fill from before it."""
    ledger = Ledger(clock=ManualClock())
    before = ledger.edition
    ledger.apply(Invalidation(purged=("tag:a",)))
    assert ledger.edition > before


def test_the_pulse_is_missed_after_a_while_and_found_again_at_once() -> None:
    pulse = Pulse()
    pulse.sent(now_s=0.0)
    pulse.sent(now_s=0.5)
    assert not pulse.judge(now_s=SILENT_S * 0.9, late_s=0.0)
    assert not pulse.judge(now_s=10.0, late_s=LATE_S), "who is late itself cannot tell"
    assert pulse.judge(now_s=SILENT_S, late_s=0.0)
    assert pulse.judge(now_s=SILENT_S, late_s=9.0)
    pulse.heard()
    assert not pulse.judge(now_s=99.0, late_s=0.0)
    for _ in range(REFUSALS_MAX):
        pulse.refused()
    assert pulse.judge(now_s=100.0, late_s=0.0)


def test_while_nothing_is_heard_personal_lists_live_a_second_and_others_as_before() -> None:
    clock = ManualClock()
    ledger = Ledger(clock=clock)
    clock.advance(SILENT_LIFE_S + 0.1)
    assert ledger.standing(entry(), "s") is Standing.CURRENT
    ledger.silent = True
    assert ledger.standing(entry(), "s") is Standing.OVERTAKEN
    assert ledger.standing(entry(), None) is Standing.CURRENT
    assert ledger.standing(entry(made_s=clock.monotonic_s()), "s") is Standing.CURRENT


async def shown(client: object, path: str = "popular?n=5") -> list[str]:
    response = await client.get(f"/v1/recommendations/{path}")  # type: ignore[attr-defined]
    assert response.status == 200
    return [item["item"] for item in (await response.json())["items"]]


async def until(holds: object) -> None:
    async with asyncio.timeout(10):
        while not holds():  # type: ignore[operator]  # noqa: ASYNC110 - nothing tells when the edge has heard
            await asyncio.sleep(0.01)


async def test_a_purge_by_item_or_by_category_makes_lists_anew_everywhere(world: World) -> None:
    clients = [await world.edge(), await world.edge()]
    for client in clients:
        await shown(client)
    for names, remade in ((("item:popular-3",), True), (("category:none",), False), (("category:x",), False)):
        before = len(world.home.calls("/v1/recommend"))
        await world.grid.publish(INVALIDATION_TOPIC, encode_regional(Invalidation(purged=names)))
        await until(lambda: world.metric('atoll_edge_invalidations_total{kind="purge"}'))
        for client in clients:
            await shown(client)
        assert (len(world.home.calls("/v1/recommend")) > before) is remade, names


async def test_an_edge_learns_at_its_start_what_was_withdrawn_while_it_was_away(world: World) -> None:
    world.home.withdrawn = ("popular-0",)
    assert "popular-0" not in await shown(await world.edge())


async def test_an_edge_that_starts_in_the_dark_still_shows_nothing_withdrawn(world: World) -> None:
    world.replica.withdrawn = ("r-10",)
    directory = str(world.directory / "same")
    await shown(await world.edge(state_directory=directory))
    assert (Path(directory) / "withdrawn.json").exists()
    world.kill("home", "replica", "near", "far")
    dark = await world.edge(state_directory=directory)
    items = await shown(dark)
    assert len(items) == 5
    assert "r-10" not in items


async def test_with_the_grid_cut_purges_and_withdrawals_arrive_over_the_region(world: World) -> None:
    client = await world.edge(notices_poll_s=3600.0)
    await shown(client)
    world.grid.available = False
    await until(lambda: world.metric("atoll_edge_grid_silent") == 1)
    calls = len(world.home.calls("/v1/recommend"))
    world.home.purges.append(("item:popular-1",))
    world.home.withdrawn = ("popular-2",)
    read = world.home.notices_read
    await until(lambda: world.home.notices_read >= read + 2)
    assert "popular-2" not in await shown(client)
    assert len(world.home.calls("/v1/recommend")) == calls + 1
    world.grid.available = True
    await until(lambda: world.metric("atoll_edge_grid_silent") == 0)


async def test_an_answer_from_before_a_withdrawal_does_not_bring_the_item_back(tmp_path: Path) -> None:
    clock, counts = ManualClock(), Counter[str]()
    ledger = Ledger(clock=clock)

    class Region(FaultyRegions):
        async def notices(self, url: str, call: NoticesCall, *, timeout_s: float) -> Notices:
            digest = ",".join(sorted(told))
            old = Notices(boot="b", release=None, withdrawn=tuple(told), withdrawn_digest=digest, purges=())
            if not told:
                # While the answer is on its way, an operator withdraws x, and the grid is quicker.
                told.append("x")
                ledger.apply(Invalidation(withdrawn=("x",)))
            return old

    told: list[str] = []
    keeper = NoticeKeeper(
        region=Region(random.Random(0), [], {}), urls=["http://one"], ledger=ledger, clock=ManualClock(),
        uniform=lambda low, high: low, directory=tmp_path, calm_s=1.0, counted=lambda what: counts.update([what]),
        on_release=lambda _: None,
    )  # fmt: skip
    assert await keeper.ask()
    assert "x" in ledger.withdrawn
    clock.advance(CONFIRM_S + 1)
    assert await keeper.ask()
    assert "x" in ledger.withdrawn
    told.clear()
    told_nothing = ledger.replace_withdrawn(told)
    assert told_nothing
    assert "x" not in ledger.withdrawn
    assert (tmp_path / "withdrawn.json").read_bytes() == b'["x"]'
