"""Poison goes aside with its reason, the others go on, and what can be read later counts once."""

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from infra.contracts.events import LoggedEvent
from infra.plumbing.clock import ManualClock
from infra.plumbing.grid.memory import MemoryGrid
from infra.plumbing.telemetry import TelemetrySettings, current_traceparent, start_telemetry
from region.events.dead_letters import DeadLetters, replay_letters
from region.events.memory import MemoryLog
from region.events.port import LogUnavailableError
from region.events.records import decode_record, encode_record
from region.events.streaming import Streaming
from region.store.memory import MemoryStore
from region.store.port import AppliedChange, OffsetEvent, Position, StoreUnavailableError
from tests.contract.building import ALICE, BOB, NOW_MS, logged


class PoisonStore(MemoryStore):
    """Fails for a reason of its own where a batch holds a certain item."""

    poison = "poison"

    async def apply(self, events: Sequence[OffsetEvent]) -> list[AppliedChange]:
        if any(not event.broken and event.logged.event.item == self.poison for event in events):
            raise ArithmeticError("said with what the event says")
        return await super().apply(events)


class RottenLog(MemoryLog):
    """Gives one record as bytes that nobody can read."""

    rotten = 2
    bytes_then = b"\xc1"

    async def read(self, *, after: Position, limit: int) -> list[OffsetEvent]:
        found = await super().read(after=after, limit=limit)
        return [decode_record(one.offset, self.bytes_then) if one.offset == self.rotten else one for one in found]


class Region:
    def __init__(self, path: Path, *, log: MemoryLog | None = None) -> None:
        self.clock = ManualClock(wall_ms=NOW_MS)
        self.log = log if log is not None else MemoryLog()
        self.store = PoisonStore(clock=self.clock)
        self.registry = CollectorRegistry()
        self.letters = DeadLetters(path / "dead-letters.sqlite", registry=self.registry, letters_max=3)
        self.grid = MemoryGrid(clock=self.clock)
        self.streaming = Streaming(
            log=self.log, store=self.store, grid=self.grid, clock=self.clock, registry=self.registry,
            dead_letters=self.letters,
        )  # fmt: skip

    async def items(self, subject: str = ALICE) -> list[str]:
        row = await self.store.read(subject)
        return [entry.item for entry in row.history] if row is not None else []

    async def reasons(self) -> list[tuple[int, str]]:
        return [(letter.offset, letter.reason) async for letter in self.letters.letters()]


@pytest.fixture
async def region(tmp_path: Path) -> AsyncIterator[Region]:
    made = Region(tmp_path)
    yield made
    await made.letters.close()


async def test_an_event_that_cannot_be_applied_goes_aside_and_the_others_go_on(region: Region) -> None:
    await region.log.append([logged(1, item="a"), logged(2, item="poison"), logged(3, item="b", subject=BOB)])
    await region.streaming.start()
    assert await region.streaming.step() == 3
    assert (await region.items(), await region.items(BOB)) == (["a"], ["b"])
    assert await region.reasons() == [(2, "it could not be applied: ArithmeticError")], "not what the event says"
    assert await region.store.applied_offsets() == {0: 3}
    assert await region.streaming.step() == 0
    assert region.registry.get_sample_value("atoll_worker_poison_total") == 1


async def test_what_can_be_applied_later_is_replayed_and_counts_once(region: Region) -> None:
    await region.log.append([logged(1, item="a"), logged(2, item="poison")])
    await region.streaming.start()
    await region.streaming.step()
    region.store.poison = "mended"
    letters = [letter async for letter in region.letters.letters()]
    report = await replay_letters(region.letters, region.log)
    assert (report.replayed, report.left, await region.letters.count()) == (1, 0, 0)
    await region.letters.add(
        [OffsetEvent(offset=2, logged=logged(2), broken="cut short", content=letters[0].content)], now_ms=NOW_MS
    )
    assert (await replay_letters(region.letters, region.log)).replayed == 1
    while await region.streaming.step():
        pass
    assert await region.items() == ["a", "poison"]


async def test_bytes_that_are_no_record_wait_for_a_version_that_reads_them(tmp_path: Path) -> None:
    region = Region(tmp_path, log=RottenLog())
    await region.log.append([logged(1, item="a"), logged(2, item="lost"), logged(3, item="b")])
    await region.streaming.start()
    assert await region.streaming.step() == 3
    assert await region.items() == ["a", "b"]
    report = await replay_letters(region.letters, region.log)
    assert (report.replayed, report.left, list(report.reasons.values())) == (0, 1, [1])
    newer = [OffsetEvent(offset=2, logged=logged(2), broken="newer", content=encode_record(logged(2, item="lost")))]
    await region.letters.expire(before_ms=NOW_MS + 1)
    await region.letters.add(newer, now_ms=NOW_MS)
    assert (await replay_letters(region.letters, region.log)).replayed == 1
    await region.streaming.step()
    assert await region.items() == ["a", "lost", "b"], "in its place by time"
    await region.letters.close()


async def test_the_dead_letters_are_bounded_and_drops_are_counted(region: Region) -> None:
    await region.log.append([logged(number, item="poison") for number in range(1, 6)])
    await region.streaming.start()
    await region.streaming.step()
    assert [offset for offset, _ in await region.reasons()] == [3, 4, 5]
    assert region.registry.get_sample_value("atoll_dead_letters_dropped_total") == 2


async def test_a_part_that_does_not_answer_is_no_poison(region: Region) -> None:
    await region.log.append([logged(1)])
    await region.streaming.start()
    region.store.available = False
    with pytest.raises(StoreUnavailableError):
        await region.streaming.step()
    assert await region.letters.count() == 0


async def test_without_a_dead_letter_log_poison_stops_the_worker() -> None:
    clock, log = ManualClock(wall_ms=NOW_MS), RottenLog()
    await log.append([logged(1), logged(2)])
    streaming = Streaming(
        log=log, store=MemoryStore(clock=clock), grid=MemoryGrid(clock=clock), clock=clock, registry=CollectorRegistry()
    )
    await streaming.start()
    with pytest.raises(LogUnavailableError, match="offset 2 is broken"):
        await streaming.step()


async def test_the_workers_span_links_to_the_intakes(tmp_path: Path) -> None:
    spans = tmp_path / "spans.jsonl"
    telemetry = start_telemetry(
        service="worker", region="r", node="n", settings=TelemetrySettings(spans_file=str(spans), sample_ratio=1.0)
    )
    region = Region(tmp_path)
    region.streaming = Streaming(
        log=region.log, store=region.store, grid=region.grid, clock=region.clock, registry=CollectorRegistry(),
        telemetry=telemetry,
    )  # fmt: skip
    assert current_traceparent() == ""
    records: list[LoggedEvent] = []
    for number in (1, 2):
        with telemetry.span("take events"):
            records.append(msgspec.structs.replace(logged(number), traceparent=current_traceparent()))
    await region.log.append(records)
    await region.streaming.start()
    await region.streaming.step()
    telemetry.close()
    await region.letters.close()
    by_name: dict[str, list[dict[str, object]]] = {}
    for line in spans.read_text().splitlines():
        span = json.loads(line)
        by_name.setdefault(span["name"], []).append(span)
    (applied,) = by_name["apply events"]
    taken = [span["context"]["span_id"] for span in by_name["take events"]]  # type: ignore[index]
    assert [link["context"]["span_id"] for link in applied["links"]] == taken  # type: ignore[attr-defined]
    assert applied["parent_id"] == taken[0], "it belongs to the first call's trace"
