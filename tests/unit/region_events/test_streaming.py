import asyncio

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from infra.contracts.events import EventType
from infra.contracts.messages import INVALIDATION_TOPIC, Invalidation
from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import SettingsError
from infra.plumbing.grid.memory import MemoryGrid
from region.events import streaming as streaming_module
from region.events.memory import MemoryLog
from region.events.port import LogUnavailableError
from region.events.streaming import BATCH_MAX, Streaming
from region.store.memory import MemoryStore
from region.store.port import OffsetEvent, Position, StoreUnavailableError
from tests.contract.building import ALICE, BOB, NOW_MS, logged, placed


class HoledLog(MemoryLog):
    """Gives every hundredth offset only, as a log with holes does."""

    async def read(self, *, after: Position, limit: int) -> list[OffsetEvent]:
        everything = await super().read(after={0: 0}, limit=1_000_000)
        spread = [OffsetEvent(offset=one.offset * 100, logged=one.logged) for one in everything]
        return [one for one in spread if one.offset > after[0]][:limit]

    async def last_offsets(self) -> dict[int, int]:
        return {0: 100 * (await super().last_offsets())[0]}


class Region:
    def __init__(self, log: MemoryLog | None = None) -> None:
        self.clock = ManualClock(wall_ms=NOW_MS)
        self.log = log if log is not None else MemoryLog()
        self.store = MemoryStore(clock=self.clock)
        self.grid = MemoryGrid(clock=self.clock)
        self.told = self.grid.subscribe(INVALIDATION_TOPIC)
        self.registry = CollectorRegistry()
        self.streaming = self.again()

    def again(self) -> Streaming:
        """A worker that starts anew."""
        self.registry = CollectorRegistry()
        return Streaming(log=self.log, store=self.store, grid=self.grid, clock=self.clock, registry=self.registry)

    async def heard(self) -> list[Invalidation]:
        """Everything told so far."""
        await self.grid.publish(INVALIDATION_TOPIC, b"end")
        messages: list[Invalidation] = []
        while (message := await anext(self.told)) != b"end":
            if message is not None:
                messages.append(msgspec.json.decode(message, type=Invalidation))
        return messages

    def counted(self, outcome: str) -> float:
        return self.registry.get_sample_value("atoll_worker_invalidations_total", {"outcome": outcome}) or 0.0


@pytest.fixture
async def region() -> Region:
    return Region()


async def test_a_step_applies_and_tells(region: Region) -> None:
    shown = logged(3, subject=BOB, kind=EventType.IMPRESSION)
    await region.log.append([logged(1, item="x"), logged(2, item="y"), shown])
    await region.streaming.start()
    region.clock.advance(0.1)
    assert await region.streaming.step() == 3
    assert await region.streaming.step() == 0
    assert await region.heard() == [Invalidation(subject=ALICE, subject_version=2, consumed=("x", "y"))]
    assert await region.store.applied_offsets() == {0: 3}
    assert region.registry.get_sample_value("atoll_worker_events_applied_total") == 3
    assert region.registry.get_sample_value("atoll_worker_visible_seconds_sum") == pytest.approx(0.3)
    assert region.registry.get_sample_value("atoll_worker_lag_events") == 0


async def test_a_long_log_is_applied_in_batches(region: Region) -> None:
    await region.log.append([logged(number) for number in range(BATCH_MAX + 10)])
    await region.streaming.start()
    assert [await region.streaming.step() for _ in range(3)] == [BATCH_MAX, 10, 0]


async def test_killed_before_it_told_anybody_it_tells_at_the_next_start(region: Region) -> None:
    await region.log.append([logged(1, item="x"), logged(2, subject=BOB, item="y"), logged(3, kind=EventType.SKIP)])
    await region.store.apply(await region.log.read(after={0: 0}, limit=10))
    await region.log.append([logged(4, item="z")])
    streaming = region.again()
    await streaming.start()
    await streaming.step()
    heard = {one.subject: (one.subject_version, set(one.consumed)) for one in await region.heard()}
    assert heard == {ALICE: (3, {"x", "z"}), BOB: (1, {"y"})}


async def test_an_opted_out_subject_is_not_told_of_again(region: Region) -> None:
    await region.log.append([logged(1, item="x")])
    await region.store.apply(await region.log.read(after={0: 0}, limit=10))
    await region.store.set_opt_out(ALICE, opted_out=True)
    streaming = region.again()
    await streaming.start()
    await streaming.publish_pending()
    assert await region.heard() == []


async def test_holes_in_the_log_do_not_hide_the_last_batch() -> None:
    region = Region(HoledLog())
    await region.log.append([logged(number) for number in range(10)])
    await region.streaming.start()
    steps = [await region.streaming.step() for _ in range(3)]
    assert steps == [5, 5, 0], "a batch spans at most BATCH_MAX offsets"
    await region.heard()
    streaming = region.again()
    await streaming.start()
    await streaming.publish_pending()
    (again,) = await region.heard()
    assert set(again.consumed) >= {f"item-{number}" for number in range(5, 10)}


async def test_what_the_grid_does_not_take_is_told_later_and_merged(region: Region) -> None:
    await region.streaming.start()
    region.grid.available = False
    for number in (1, 2):
        await region.log.append([logged(number, item=f"i{number}")])
        assert await region.streaming.step() == 1
    region.grid.available = True
    assert region.counted("put off") == 2
    await region.streaming.step()
    assert await region.heard() == [Invalidation(subject=ALICE, subject_version=2, consumed=("i1", "i2"))]


async def test_what_waits_for_the_grid_is_bounded(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming_module, "PENDING_MAX", 3)
    await region.streaming.start()
    region.grid.available = False
    await region.log.append([logged(1, subject=f"{number:032x}") for number in range(5)])
    await region.streaming.step()
    region.grid.available = True
    await region.streaming.publish_pending()
    assert [one.subject for one in await region.heard()] == [f"{number:032x}" for number in (2, 3, 4)]
    assert region.counted("dropped") == 2


async def test_more_subjects_than_are_told_at_once(region: Region) -> None:
    await region.log.append([logged(1, subject=f"{number:032x}") for number in range(200)])
    await region.streaming.start()
    await region.streaming.step()
    assert len(await region.heard()) == 200
    assert region.counted("told") == 200


async def test_a_part_that_does_not_answer_loses_nothing(region: Region) -> None:
    await region.log.append([logged(1)])
    await region.streaming.start()
    region.store.available = False
    with pytest.raises(StoreUnavailableError):
        await region.streaming.step()
    region.store.available, region.log.available = True, False
    with pytest.raises(LogUnavailableError):
        await region.streaming.step()
    region.log.available = True
    assert await region.streaming.step() == 1


async def test_a_store_ahead_of_its_log_is_refused(region: Region) -> None:
    await region.store.apply([placed(7)])
    with pytest.raises(SettingsError, match="up to 7, but it ends at 0"):
        await region.streaming.start()


async def test_a_kill_at_any_place_loses_nothing_and_tells_everything() -> None:
    """Cut the step short at its every await; a new worker goes on. Nothing lost, nothing twice, everybody told."""
    for cut in range(60):
        region = Region()
        await region.log.append([logged(number, subject=ALICE if number % 2 else BOB) for number in range(20)])
        await region.streaming.start()
        step = asyncio.create_task(region.streaming.step())
        for _ in range(cut):
            await asyncio.sleep(0)
        step.cancel()
        await asyncio.gather(step, return_exceptions=True)
        streaming = region.again()
        await streaming.start()
        while await streaming.step():
            pass
        await streaming.publish_pending()
        versions: dict[str | None, int] = {}
        for one in await region.heard():
            versions[one.subject] = max(versions.get(one.subject, 0), one.subject_version)
        assert versions == {ALICE: 10, BOB: 10}
        for subject in (ALICE, BOB):
            row = await region.store.read(subject)
            assert row is not None
            assert (row.version, len(row.history)) == (10, 10)


class PartedLog(MemoryLog):
    """Two partitions: Bob's events are in the second."""

    async def read(self, *, after: Position, limit: int) -> list[OffsetEvent]:
        found: list[OffsetEvent] = []
        for partition, offset in after.items():
            found += [one for one in await self._of(partition) if one.offset > offset]
        return found[:limit]

    async def last_offsets(self) -> dict[int, int]:
        return {partition: len(await self._of(partition)) for partition in (0, 1)}

    async def _of(self, partition: int) -> list[OffsetEvent]:
        everything = await super().read(after={0: 0}, limit=1_000_000)
        mine = [one.logged for one in everything if (one.logged.subject == BOB) == (partition == 1)]
        return [OffsetEvent(offset=place, logged=one, partition=partition) for place, one in enumerate(mine, start=1)]


async def test_every_partition_is_applied_and_found_again() -> None:
    region = Region(PartedLog())
    await region.log.append([logged(1), logged(2, subject=BOB), logged(3)])
    await region.streaming.start()
    assert await region.streaming.step() == 3
    assert await region.store.applied_offsets() == {0: 2, 1: 1}
    await region.log.append([logged(4, subject=BOB)])
    again = region.again()
    await again.start()
    assert await again.step() == 1
    assert await region.store.applied_offsets() == {0: 2, 1: 2}
    bob = await region.store.read(BOB)
    assert bob is not None
    assert bob.version == 2
