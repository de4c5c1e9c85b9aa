"""Every feature is a function of the log: rebuilt from it, everything is as the live store says."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.contracts.events import EventType, LoggedEvent
from infra.plumbing.clock import ManualClock
from infra.plumbing.progress import SilentProgress
from region.events.memory import MemoryLog
from region.events.replaying import Replayer, ReplayReport
from region.store.memory import MemoryStore
from region.store.port import Interactions, UserRow
from region.store.sqlite import SqliteStore
from tests.contract.building import ALICE, BOB, NOW_MS, VISITOR, logged

SESSION_MS = 30 * 60_000


class World:
    def __init__(self) -> None:
        self.clock = ManualClock(wall_ms=NOW_MS)
        self.log = MemoryLog()
        self.live = MemoryStore(clock=self.clock, history_max=5)

    async def take(self, *records: LoggedEvent) -> None:
        """Log and apply, a record at a time, as a slow worker does."""
        await self.log.append(records)
        await self.live.apply(await self.log.read(after=await self.position(), limit=1000))

    async def position(self) -> dict[int, int]:
        return {0: 0} | await self.live.applied_offsets()

    async def replay(self, path: Path) -> ReplayReport:
        fresh = SqliteStore(path, clock=self.clock, history_max=5, read_timeout_s=5.0, scan_timeout_s=10.0)
        try:
            return await Replayer(
                log=self.log, live=self.live, fresh=fresh, clock=self.clock, progress=SilentProgress()
            ).run()
        finally:
            await fresh.close()


KINDS = st.sampled_from(list(EventType))
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("event"), st.sampled_from([ALICE, BOB, VISITOR]), KINDS, st.integers(0, 9),
            st.integers(0, 2 * SESSION_MS), st.sampled_from([(), ("Drama",), ("Drama", "War"), ("Comedy",)]),
        ),
        st.tuples(st.just("choice"), st.sampled_from([ALICE, BOB]), st.booleans()),
        st.tuples(st.just("expire")),
    ),
    max_size=30,
)  # fmt: skip


@given(steps=STEPS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_replay_equals_live_whatever_happened(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[object, ...]]
) -> None:
    """Events of all types, out of order, opt-outs in between, sessions that end, rows that expire."""

    async def run() -> ReplayReport:
        world = World()
        for number, step in enumerate(steps):
            if step[0] == "choice":
                await world.live.set_opt_out(str(step[1]), opted_out=bool(step[2]))
            elif step[0] == "expire":
                before_ms = world.clock.now_ms() - SESSION_MS - 1
                await world.live.expire(sessions_before_ms=before_ms, counts_before_ms=0)
            else:
                _, subject, kind, item, later_ms, categories = step
                world.clock.advance(int(str(later_ms)) / 2000)
                now_ms = world.clock.now_ms()
                await world.take(
                    logged(
                        number, subject=str(subject), kind=EventType(str(kind)), item=f"i{item}", received_ms=now_ms,
                        at_ms=now_ms - int(str(later_ms)) // 3, categories=categories, brand=f"b{item}",  # type: ignore[arg-type]
                        query="q" if kind is EventType.SEARCH else None,
                    )
                )  # fmt: skip
        return await world.replay(tmp_path_factory.mktemp("replay") / "store.sqlite")

    report = asyncio.run(run())
    assert (report.differences, report.behind) == ({}, 0), report.examples


async def test_a_difference_is_found_and_named(tmp_path: Path) -> None:
    world = World()
    await world.take(logged(1, item="a", categories=("Drama",)), logged(2, subject=BOB))
    row = await world.live.read(ALICE)
    assert row is not None
    await world.live.write_rows([UserRow(subject=ALICE, history=Interactions())])
    report = await world.replay(tmp_path / "store.sqlite")
    assert {"history", "affinities", "session", "counters"} <= set(report.differences)
    assert report.imported == 1
    assert any("history: live (), replayed" in example for example in report.examples)


async def test_a_count_that_was_lost_is_found(tmp_path: Path) -> None:
    world = World()
    await world.take(logged(1, item="a"), logged(2, item="b"))
    kept = world.live._aggregates
    for key in [key for key in kept if key.scope == "a" or key.kind == "trend"]:
        del kept[key]
    report = await world.replay(tmp_path / "store.sqlite")
    assert report.differences == {"trending": 2, "item_counters": 1}
