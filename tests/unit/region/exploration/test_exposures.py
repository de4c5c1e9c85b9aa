"""Pages with drawn items: logged with every chance, joined with what came of them, and deterministic by request."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from infra.contracts.events import Event, EventType, LoggedEvent
from infra.contracts.messages import ReasonCode, Source
from region.events.memory import MemoryLog
from region.exploration.exposures import Exposure, ExposureLog, exposure_of, read_exposures
from region.exploration.rounds import Reading, read_rounds
from region.funnel.finishing import Finished
from region.funnel.ruling import Ruling
from region.funnel.understanding import Call
from region.rules.schema import Exploration, RuleFile, SlateRules
from tests.unit.region.conftest import NewWorld
from tests.unit.region.worlds import World, personal, row_of

RULES = Exploration(positions=(2, 5), epsilon=0.5, new_share_min=0.3, new_share_max=0.9)
WARM = row_of("item-3", "item-7", "item-12")


@pytest.fixture
def world(new_world: NewWorld) -> World:
    return new_world(rules=RuleFile(format=1, region="us-east", slate=SlateRules(exploration=RULES)))


def watched(world: World) -> list[tuple[Call, Finished, Ruling]]:
    seen: list[tuple[Call, Finished, Ruling]] = []

    def shown(call: Call, finished: Finished, ruling: Ruling) -> None:
        if finished.drawn:
            seen.append((call, finished, ruling))

    world.funnel._on_shown = shown
    return seen


async def test_a_page_shows_and_explains_what_was_drawn(world: World) -> None:
    request = personal(n=8, request_id="request-1", explain=True)
    slate = await world.funnel.run(world.call(request, WARM))
    for position in (2, 5):
        item = slate[position - 1]
        assert "exploration" in item.rules
        assert item.reason.code in (ReasonCode.NEW_ITEM, ReasonCode.DISCOVER)
        assert 0.0 < item.stages["propensity"] <= 1.0
    assert all("propensity" not in slate[place].stages for place in range(28) if place not in (1, 4))
    again = await world.funnel.run(world.call(request, WARM))
    assert again == slate
    others = [
        await world.funnel.run(world.call(replace(request, request_id=f"request-{number}"), WARM))
        for number in range(2, 12)
    ]
    assert len({tuple(item.item for item in one) for one in others}) > 1


async def test_only_pages_that_go_to_whom_they_are_about_are_told_of(world: World) -> None:
    seen = watched(world)
    request = personal(n=8, request_id="request-1")
    for call in (
        world.call(replace(request, explain=True), WARM),
        world.call(replace(request, request_id=""), WARM),
        world.call(request, replace(WARM, opted_out=True)),
        world.call(replace(request, subject=None)),
    ):
        await world.funnel.run(call)
    assert not seen
    await world.funnel.run(world.call(request, WARM))
    (call, finished, ruling) = seen[0]
    exposure = exposure_of(
        call.request, finished.slate, finished.drawn, now_s=call.now_s, release="r", edition=ruling.edition,
        prior_rate=0.05,
    )  # fmt: skip
    assert exposure.page == tuple(item.item for item in finished.slate[:8])
    assert [slot.position for slot in exposure.slots] == [2, 5]
    for slot in exposure.slots:
        assert exposure.page[slot.position - 1] == slot.arms[slot.shown]
        assert exposure.propensities[slot.position - 1] == slot.chances[slot.shown]
        assert sum(slot.chances) == pytest.approx(1.0)
    assert [value for place, value in enumerate(exposure.propensities) if place not in (1, 4)] == [1.0] * 6


async def test_new_items_get_their_share_until_they_were_shown_enough(world: World) -> None:
    seen = watched(world)
    for number in range(300):
        await world.funnel.run(world.call(personal(n=8, request_id=f"request-{number}"), WARM))
    shares = [
        sum(chance for chance, new in zip(slot.drawn.chances, slot.drawn.known.new, strict=True) if new)
        for _, finished, _ in seen
        for slot in finished.drawn
        if slot.drawn.known.new.any()
    ]
    assert len(shares) >= 300
    assert all(0.3 - 1e-9 <= share <= 0.9 + 1e-9 for share in shares)
    shown = [slot.is_new for _, finished, _ in seen for slot in finished.drawn if slot.drawn.known.new.any()]
    assert 0.22 <= sum(shown) / len(shown) <= 0.95
    newest = {world.release.tables.items[row].item for row in world.release.standing.newest.tolist()}
    told = {slot.items[slot.drawn.shown] for _, finished, _ in seen for slot in finished.drawn if slot.is_new}
    assert told <= newest
    assert Source.NEW in {item.source for _, finished, _ in seen for item in finished.slate[:8]}


def page_at(at_ms: int, name: str, exposure: Exposure) -> Exposure:
    return replace(exposure, exposure=name, at_ms=at_ms)


async def test_the_log_of_events_says_what_came_of_a_draw(world: World, tmp_path: Path) -> None:
    seen = watched(world)
    await world.funnel.run(world.call(personal(n=8, request_id="request-1"), WARM))
    call, finished, ruling = seen[0]
    first = exposure_of(
        call.request, finished.slate, finished.drawn, now_s=100.0, release="r", edition=ruling.edition, prior_rate=0.05
    )
    log = ExposureLog(tmp_path, gap_min_s=1.0)
    assert log.offer(first, monotonic_s=1.0)
    assert not log.offer(page_at(1, "too soon", first), monotonic_s=1.5)
    assert log.offer(page_at(900_000, "late", first), monotonic_s=2.5)
    log.write(now_ms=900_000)
    assert read_exposures(tmp_path) == [first, page_at(900_000, "late", first)]
    events = MemoryLog()
    drawn = [slot.arms[slot.shown] for slot in first.slots]
    told = [(EventType.CLICK, drawn[0], 150_000), (EventType.IMPRESSION, drawn[1], 110_000)]
    told += [(EventType.CLICK, drawn[1], 500_000), (EventType.CLICK, "item-1", 120_000)]
    await events.append(
        [
            LoggedEvent(
                subject=first.subject, received_ms=at_ms,
                event=Event(event_id=f"event-{place:04}", type=kind, item=item, at_ms=at_ms),
            )
            for place, (kind, item, at_ms) in enumerate(told)
        ]
    )  # fmt: skip
    reading = Reading(window_ms=300_000, now_ms=1_000_000)
    found = await read_rounds(read_exposures(tmp_path), events, reading)
    assert [(one.position, one.reward) for one in found.rounds] == [(2, 1.0), (5, 0.0)]
    assert found.left_out == {"pages whose window is not over yet": 1}
    only = await read_rounds(
        read_exposures(tmp_path), events, Reading(window_ms=300_000, now_ms=1_000_000, only_seen=True)
    )
    assert [one.position for one in only.rounds] == [5]
    assert log.forget(first.subject) == 2
    assert read_exposures(tmp_path) == []
