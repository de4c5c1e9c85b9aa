import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from infra.contracts.events import EVENTS_PER_BATCH_MAX, Event, EventBatch, EventType
from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import InvalidInputError, OverloadedError
from infra.plumbing.grid.memory import MemoryGrid
from infra.plumbing.keys import RegionKeys
from region.events.intake import AGE_MAX_MS, FUTURE_MAX_MS, Intake, check_batch
from region.events.memory import MemoryLog
from region.events.port import LogUnavailableError
from region.events.waking import LOG_TOPIC, Waker
from region.store.subjects import is_session, is_subject, session_subject, user_subject
from tests.contract.building import ALICE, NOW_MS, VISITOR, an_event


def a_batch(*events: Event, subject: str | None = ALICE, version: str = "1.0") -> EventBatch:
    return EventBatch(events=events, subject=subject, schema_version=version)


def reason(event: Event) -> str:
    """Why the event is refused; empty when it is not."""
    checked = check_batch(a_batch(event), now_ms=NOW_MS)
    assert len(checked.events) + len(checked.rejected) == 1
    return checked.rejected[0].reason if checked.rejected else ""


def event(**fields: object) -> Event:
    known: dict[str, object] = {"event_id": "event-001", "type": EventType.VIEW, "item": "x", "at_ms": NOW_MS}
    return Event(**{**known, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (event(event_id="short"), "event_id"),
        (event(event_id="x" * 65), "event_id"),
        (event(event_id="with space"), "event_id"),
        (event(event_id="trailing\n"), "event_id"),
        (event(item=""), "item"),
        (event(item="x" * 129), "item"),
        (event(item="a\x00b"), "item"),
        (event(request_id=""), "request_id"),
        (event(request_id="x" * 65), "request_id"),
        (event(at_ms=NOW_MS + FUTURE_MAX_MS + 1), "future"),
        (event(at_ms=NOW_MS // 1000), "2 years"),
        (event(at_ms=NOW_MS - AGE_MAX_MS - 1), "2 years"),
        (event(type=EventType.RATING, value=0.99), "from 1 to 5"),
        (event(type=EventType.RATING, value=5.01), "from 1 to 5"),
        (event(type=EventType.RATING, value=float("nan")), "from 1 to 5"),
        (event(type=EventType.WATCH, value=-0.1), "from 0 to 1"),
        (event(type=EventType.WATCH, value=float("inf")), "from 0 to 1"),
        (event(type=EventType.CLICK, value=1.0), "ratings and watches only"),
        (event(type=EventType.SEARCH, item="", query="a\tb"), "query"),
        (event(type=EventType.SEARCH, item="", query="abc\u202ecba"), "query"),
    ],
)
def test_an_event_that_cannot_be_used_is_refused_with_the_reason(bad: Event, said: str) -> None:
    assert said in reason(bad)


@pytest.mark.parametrize(
    "good",
    [
        event(event_id="x" * 8),
        event(event_id="A-Z_0.9:" * 8),
        event(item="x" * 128),
        event(item="étoile ✓"),
        event(request_id="r"),
        event(at_ms=NOW_MS + FUTURE_MAX_MS),
        event(at_ms=NOW_MS - AGE_MAX_MS),
        event(type=EventType.RATING, value=1.0),
        event(type=EventType.RATING, value=5.0),
        event(type=EventType.RATING),
        event(type=EventType.WATCH, value=0.0),
        event(type=EventType.WATCH, value=1.0),
        event(type=EventType.SEARCH, item="", query="進撃\u3000巨人"),
        event(type=EventType.SEARCH, item="", query="می\u200cشد"),
        event(type=EventType.FOLLOW, item="", follows="category:本\u3000雑誌"),
    ],
)
def test_an_event_at_the_edge_of_the_limits_is_taken(good: Event) -> None:
    assert reason(good) == ""


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (a_batch(an_event(1), version="2.0"), "schema version"),
        (a_batch(an_event(1), version=""), "schema version"),
        (a_batch(), "holds no events"),
        (a_batch(*(an_event(number) for number in range(EVENTS_PER_BATCH_MAX + 1))), "501 events"),
        (a_batch(an_event(1), subject=None), "no subject"),
        (a_batch(an_event(1), subject="user-42"), "no subject"),
        (a_batch(an_event(1), subject="A" * 32), "no subject"),
    ],
)
def test_a_batch_that_cannot_be_used_is_refused_as_a_whole(bad: EventBatch, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        check_batch(bad, now_ms=NOW_MS)


EVENTS = st.builds(
    Event,
    event_id=st.one_of(st.text(max_size=70), st.just("event-001")),
    type=st.sampled_from(EventType),
    item=st.one_of(st.text(max_size=140), st.just("x")),
    at_ms=st.one_of(st.integers(), st.just(NOW_MS)),
    value=st.one_of(st.none(), st.floats()),
)


@given(events=st.lists(EVENTS, min_size=1, max_size=10))
def test_every_event_is_either_taken_or_refused_in_order(events: list[Event]) -> None:
    checked = check_batch(a_batch(*events), now_ms=NOW_MS)
    refused = {one.index for one in checked.rejected}
    assert checked.events == tuple(one for index, one in enumerate(events) if index not in refused)
    for one in checked.rejected:
        assert events[one.index].item not in one.reason or len(events[one.index].item) < 10, "nothing sent is repeated"


class Region:
    def __init__(self, *, records_max: int = 1000) -> None:
        self.clock = ManualClock(wall_ms=NOW_MS)
        self.log = MemoryLog(records_max=records_max)
        self.woken = 0
        self.registry = CollectorRegistry()
        self.intake = Intake(log=self.log, clock=self.clock, wake=self.wake, registry=self.registry)

    def wake(self) -> None:
        self.woken += 1

    def counted(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"atoll_intake_{name}_total", labels) or 0.0


async def test_what_is_taken_is_in_the_log_and_the_worker_is_woken() -> None:
    region = Region()
    ack = await region.intake.take(a_batch(an_event(1), event(item=""), an_event(2)))
    assert (ack.accepted, ack.duplicates, [one.index for one in ack.rejected]) == (2, 0, [1])
    again = await region.intake.take(a_batch(an_event(2), an_event(3), subject=ALICE))
    assert (again.accepted, again.duplicates) == (1, 1)
    read = await region.log.read(after={0: 0}, limit=10)
    assert [(one.logged.subject, one.logged.received_ms) for one in read] == [(ALICE, NOW_MS)] * 3
    assert region.woken == 2
    outcomes = [region.counted("events", outcome=one) for one in ("accepted", "duplicate", "rejected")]
    assert outcomes == [3, 1, 1]


async def test_a_batch_without_a_good_event_touches_nothing() -> None:
    region = Region()
    region.log.available = False
    ack = await region.intake.take(a_batch(event(item="")))
    assert (ack.accepted, len(ack.rejected), region.woken) == (0, 1, 0)


async def test_what_is_not_durable_is_not_acknowledged() -> None:
    region = Region(records_max=1)
    with pytest.raises(OverloadedError):
        await region.intake.take(a_batch(an_event(1), an_event(2)))
    region.log.available = False
    with pytest.raises(LogUnavailableError):
        await region.intake.take(a_batch(an_event(1)))
    with pytest.raises(InvalidInputError):
        await region.intake.take(a_batch())
    assert region.woken == 0
    for error in ("OverloadedError", "LogUnavailableError", "InvalidInputError"):
        assert region.counted("batches_refused", error=error) == 1


class CountingGrid(MemoryGrid):
    def __init__(self) -> None:
        super().__init__(clock=ManualClock())
        self.published: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def publish(self, topic: str, message: bytes) -> None:
        self.published.append(topic)
        await self.gate.wait()
        await super().publish(topic, message)


async def test_wake_ups_during_a_publish_make_one_more() -> None:
    grid = CountingGrid()
    waker = Waker(grid=grid, registry=CollectorRegistry())
    await waker.close()
    grid.gate.clear()
    waker.wake()
    await asyncio.sleep(0)
    for _ in range(5):
        waker.wake()
    grid.gate.set()
    await waker.close()
    assert grid.published == [LOG_TOPIC] * 2
    waker.wake()
    await waker.close()
    assert grid.published == [LOG_TOPIC] * 3


async def test_a_grid_that_is_gone_is_counted_and_forgotten() -> None:
    grid, registry = CountingGrid(), CollectorRegistry()
    grid.available = False
    waker = Waker(grid=grid, registry=registry)
    waker.wake()
    await waker.close()
    assert registry.get_sample_value("atoll_intake_wake_failures_total") == 1


def test_subjects_are_pseudonyms_and_sessions_can_be_told() -> None:
    keys = RegionKeys.generate("us-east")
    user, session = user_subject(keys, "same"), session_subject(keys, "same")
    assert is_subject(user)
    assert is_subject(session)
    assert (is_session(user), is_session(session)) == (False, True)
    assert user != session[1:]
    bad: Sequence[str] = ("", "same", "s", user[:-1], user + "0", user + "\n", user.upper() + "A")
    assert not any(is_subject(name) for name in bad)
    assert is_subject(VISITOR)
