"""What every store must do; run against all of them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.contracts.events import EventType
from infra.plumbing.clock import ManualClock
from region.events.records import break_record
from region.store.applying import BUCKET_MS, EVENT_IDS_MAX, ApplyRules
from region.store.cassandra import CassandraStore
from region.store.memory import MemoryStore
from region.store.port import Erasure, HistoryEntry, Interactions, OffsetEvent, Session, Store, SubjectCounters, UserRow
from region.store.sqlite import SqliteStore
from tests.contract.building import ALICE, BOB, NOW_MS, VISITOR, placed, stands_in_files
from tests.support.keeping import row_seals
from tests.support.keyspaces import Keyspace

HISTORY_MAX = 5
CLOCK = ManualClock(wall_ms=NOW_MS)

Open = Callable[[], Store]


@pytest.fixture(params=["memory", "sqlite", "cassandra"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same store each time."""
    if request.param == "cassandra":
        keyspace: Keyspace = request.getfixturevalue("keyspace")
        keyspace.empty()
        return lambda: CassandraStore(
            keyspace.address, clock=CLOCK, rules=ApplyRules(history_max=HISTORY_MAX), read_timeout_s=10.0,
            scan_timeout_s=20.0, write_timeout_s=30.0, seals=row_seals(tmp_path),
        )  # fmt: skip
    if request.param == "memory":
        store = MemoryStore(clock=CLOCK, history_max=HISTORY_MAX)
        return lambda: store
    return lambda: SqliteStore(
        tmp_path / "store.sqlite", clock=CLOCK, history_max=HISTORY_MAX, read_timeout_s=5.0, scan_timeout_s=10.0
    )


@pytest.fixture(params=["memory", "sqlite"])
async def asked_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """A store that forgets when it is asked to; Cassandra's rows carry a time to live (`test_cassandra_store.py`)."""
    if request.param == "memory":
        yield MemoryStore(clock=CLOCK, history_max=HISTORY_MAX)
        return
    opened = SqliteStore(
        tmp_path / "store.sqlite", clock=CLOCK, history_max=HISTORY_MAX, read_timeout_s=5.0, scan_timeout_s=10.0
    )
    yield opened
    await opened.close()


@pytest.fixture
async def store(open_store: Open) -> AsyncIterator[Store]:
    opened = open_store()
    yield opened
    await opened.close()


async def items_of(store: Store, subject: str = ALICE) -> list[str]:
    row = await store.read(subject)
    return [entry.item for entry in row.history] if row else []


async def test_a_subject_never_heard_of_has_no_row(store: Store) -> None:
    assert await store.read(ALICE) is None
    assert await store.applied_offsets() == {}
    assert await store.trending(since_ms=0, limit=10) == []


async def test_an_interaction_enters_the_history_and_raises_the_version(store: Store) -> None:
    (change,) = await store.apply([placed(1, item="x", kind=EventType.RATING, value=4.0)])
    assert (change.subject, change.version, change.consumed) == (ALICE, 1, ("x",))
    row = await store.read(ALICE)
    assert row == UserRow(
        subject=ALICE, version=1, history=Interactions(("x",), (4,), (NOW_MS + 1,)),
        last_event_ms=NOW_MS + 1, offset=1, counters=SubjectCounters(interactions=1),
        session=Session(NOW_MS + 1, NOW_MS + 1, 1),
    )  # fmt: skip
    assert await store.applied_offsets() == {0: 1}


async def test_impressions_are_counted_and_change_no_list(store: Store) -> None:
    changes = await store.apply([placed(1, kind=EventType.IMPRESSION), placed(2, kind=EventType.IMPRESSION)])
    assert changes == []
    row = await store.read(ALICE)
    assert row is not None
    assert (row.impressions, row.version, row.history, row.last_event_ms) == (2, 0, Interactions(), NOW_MS + 2)
    assert await store.trending(since_ms=0, limit=10) == []


async def test_a_skip_raises_the_version_and_a_dislike_enters_the_history(store: Store) -> None:
    (change,) = await store.apply([placed(1, kind=EventType.SKIP), placed(2, item="bad", kind=EventType.DISLIKE)])
    assert (change.version, change.consumed) == (2, ("bad",))
    row = await store.read(ALICE)
    assert row is not None
    assert [(entry.item, entry.strength) for entry in row.history] == [("bad", 1)]
    assert await store.trending(since_ms=0, limit=10) == []


async def test_a_batch_that_is_applied_again_has_no_effect(store: Store) -> None:
    batch = [placed(1, item="x"), placed(2, item="y")]
    await store.apply(batch)
    assert await store.apply(batch) == []
    (change,) = await store.apply([*batch, placed(3, item="z")])
    assert (change.version, change.consumed) == (3, ("z",))
    assert await items_of(store) == ["x", "y", "z"]
    assert [count.count for count in await store.trending(since_ms=0, limit=10)] == [1.0, 1.0, 1.0]


async def test_every_partition_has_an_offset_of_its_own(store: Store) -> None:
    await store.apply([placed(1, item="x"), placed(1, item="y", subject=BOB, partition=2), placed(2, item="z")])
    assert await store.applied_offsets() == {0: 2, 2: 1}
    await store.apply([placed(2, item="z"), placed(2, item="w", subject=BOB, partition=2)])
    assert await store.applied_offsets() == {0: 2, 2: 2}
    assert (await items_of(store), await items_of(store, BOB)) == (["x", "z"], ["y", "w"])


async def test_a_broken_record_moves_the_offset_only(store: Store) -> None:
    await store.apply([placed(1, item="x"), break_record(placed(2, item="y"), "torn"), placed(3, item="z")])
    assert await store.applied_offsets() == {0: 3}
    assert await items_of(store) == ["x", "z"]
    assert await store.apply([break_record(placed(4), "torn")]) == []
    assert await store.applied_offsets() == {0: 4}


async def test_the_same_event_id_at_another_offset_counts_once(store: Store) -> None:
    await store.apply([placed(1, number=7, item="x"), placed(2, number=7, item="x")])
    assert await store.apply([placed(3, number=7, item="x")]) == []
    assert await items_of(store) == ["x"]
    assert await store.applied_offsets() == {0: 3}


async def test_the_same_event_id_of_another_subject_is_another_event(store: Store) -> None:
    changes = await store.apply([placed(1, number=7), placed(2, number=7, subject=BOB)])
    assert [(change.subject, change.version) for change in changes] == [(ALICE, 1), (BOB, 1)]


async def test_event_ids_are_remembered_for_a_bounded_window(store: Store) -> None:
    window = [placed(offset, kind=EventType.IMPRESSION) for offset in range(1, EVENT_IDS_MAX + 2)]
    await store.apply(window)
    last = EVENT_IDS_MAX + 1
    await store.apply([placed(last + 1, number=last, kind=EventType.IMPRESSION)])
    await store.apply([placed(last + 2, number=2, kind=EventType.IMPRESSION)])
    row = await store.read(ALICE)
    assert row is not None
    assert row.impressions == last, "ids inside the window are recognised"
    await store.apply([placed(last + 3, number=1, kind=EventType.IMPRESSION)])
    row = await store.read(ALICE)
    assert row is not None
    assert row.impressions == last + 1, "the window is bounded"


async def test_the_history_is_bounded_and_ordered_by_time(store: Store) -> None:
    await store.apply([placed(offset, item=f"i{offset}") for offset in range(1, HISTORY_MAX + 3)])
    assert await items_of(store) == [f"i{number}" for number in range(3, HISTORY_MAX + 3)]
    await store.apply([placed(100, item="late", at_ms=NOW_MS + 5)])
    assert await items_of(store) == ["i4", "i5", "late", "i6", "i7"], "ties keep the order of arrival"


async def test_trending_counts_interest_since_a_moment(store: Store) -> None:
    old, new = NOW_MS - 10 * BUCKET_MS, NOW_MS
    await store.apply(
        [
            placed(1, item="a", at_ms=old), placed(2, item="a", at_ms=old), placed(3, item="b", at_ms=new),
            placed(4, item="c", at_ms=new, subject=BOB), placed(5, item="c", at_ms=new),
            placed(6, item="left", at_ms=new, kind=EventType.WATCH, value=0.1),
        ]
    )  # fmt: skip
    everything = [(count.item, count.count) for count in await store.trending(since_ms=0, limit=10)]
    assert everything == [("a", 2.0), ("c", 2.0), ("b", 1.0)]
    recent = [(count.item, count.count) for count in await store.trending(since_ms=new - BUCKET_MS, limit=1)]
    assert recent == [("c", 2.0)]


async def test_an_opted_out_subject_leaves_no_trace(store: Store) -> None:
    await store.apply([placed(1, item="before")])
    assert await store.set_opt_out(ALICE, opted_out=True) == 2
    assert await store.apply([placed(2, item="x"), placed(3, kind=EventType.IMPRESSION)]) == []
    row = await store.read(ALICE)
    assert row is not None
    assert (row.opted_out, row.version, row.impressions) == (True, 2, 0)
    assert [count.item for count in await store.trending(since_ms=0, limit=10)] == ["before"]
    assert await store.set_opt_out(ALICE, opted_out=False) == 3
    await store.apply([placed(4, item="y")])
    assert await items_of(store) == ["before", "y"]


async def test_a_subject_may_opt_out_before_anything_else(store: Store) -> None:
    assert await store.set_opt_out(BOB, opted_out=True) == 1
    row = await store.read(BOB)
    assert row is not None
    assert row.opted_out


async def test_written_rows_replace_but_never_go_back(store: Store) -> None:
    await store.apply([placed(offset, item=f"i{offset}") for offset in (1, 2, 3)])
    await store.set_opt_out(BOB, opted_out=True)
    entries = [HistoryEntry(item=f"n{number}", strength=4, at_ms=NOW_MS - number) for number in range(HISTORY_MAX + 2)]
    await store.write_rows(
        [UserRow(subject=ALICE, version=1, history=Interactions.of(entries)), UserRow(subject=BOB, version=9)]
    )
    alice, bob = await store.read(ALICE), await store.read(BOB)
    assert alice is not None
    assert bob is not None
    assert alice.version == 4, "a version never goes down"
    assert await items_of(store) == ["n4", "n3", "n2", "n1", "n0"], "ordered and bounded"
    assert (bob.version, bob.opted_out) == (9, True), "an import does not undo an opt-out"
    await store.write_rows([])


async def test_expire_forgets_old_sessions_and_counts_only(asked_store: Store) -> None:
    store = asked_store
    await store.apply(
        [
            placed(1, subject=VISITOR, received_ms=NOW_MS - 2000, item="x", at_ms=NOW_MS - 5 * BUCKET_MS),
            placed(2, subject=VISITOR[:-1] + "d", received_ms=NOW_MS, item="y"),
            placed(3, subject=ALICE, received_ms=NOW_MS - 2000, item="z"),
        ]
    )
    forgotten = await store.expire(sessions_before_ms=NOW_MS - 1000, counts_before_ms=NOW_MS - BUCKET_MS)
    assert forgotten == 2, "one session and one count"
    assert await store.read(VISITOR) is None
    assert await store.read(VISITOR[:-1] + "d") is not None
    assert await store.read(ALICE) is not None
    assert [count.item for count in await store.trending(since_ms=0, limit=10)] == ["y", "z"]
    assert await store.expire(sessions_before_ms=NOW_MS - 1000, counts_before_ms=NOW_MS - BUCKET_MS) == 0


async def test_a_late_event_of_a_live_session_does_not_end_it(store: Store) -> None:
    await store.apply([placed(1, subject=VISITOR, at_ms=NOW_MS - 86_400_000, received_ms=NOW_MS)])
    await store.expire(sessions_before_ms=NOW_MS - 1000, counts_before_ms=0)
    assert await store.read(VISITOR) is not None


async def test_what_was_applied_is_there_after_a_restart(open_store: Open) -> None:
    first = open_store()
    await first.apply([placed(1, item="x"), placed(2, subject=BOB)])
    before = await first.read(ALICE)
    await first.close()
    again = open_store()
    assert await again.read(ALICE) == before
    assert await again.applied_offsets() == {0: 2}
    assert await again.apply([placed(1, item="x"), placed(2, subject=BOB)]) == []
    await again.close()


async def test_concurrent_writers_lose_nothing(open_store: Open) -> None:
    worker, api = open_store(), open_store()

    async def apply_all() -> None:
        for offset in range(1, 41):
            await worker.apply([placed(offset, subject=BOB)])

    async def opt_many() -> None:
        for turn in range(20):
            await api.set_opt_out(ALICE, opted_out=turn % 2 == 1)
            await api.read(BOB)

    await asyncio.gather(apply_all(), opt_many())
    alice, bob = await api.read(ALICE), await worker.read(BOB)
    assert alice is not None
    assert bob is not None
    assert (alice.version, alice.opted_out, bob.version) == (20, True, 40)
    await worker.close()
    await api.close()


async def test_two_workers_by_mistake_still_count_once(open_store: Open) -> None:
    one, other = open_store(), open_store()
    batch = [placed(offset) for offset in range(1, 21)]

    async def run(store: Store) -> None:
        for start in range(0, 20, 4):
            await store.apply(batch[: start + 4])

    await asyncio.gather(run(one), run(other))
    row = await one.read(ALICE)
    assert row is not None
    assert row.version == 20
    await one.close()
    await other.close()


KINDS = st.sampled_from([EventType.VIEW, EventType.SKIP, EventType.IMPRESSION, EventType.DISLIKE, EventType.LIKE])


@st.composite
def logs(draw: st.DrawFn) -> list[OffsetEvent]:
    drawn = draw(
        st.lists(st.tuples(st.sampled_from([ALICE, BOB]), KINDS, st.integers(0, 6), st.integers(0, 50)), max_size=25)
    )
    return [
        placed(offset, number=number, subject=subject, kind=kind, item=f"i{number}", at_ms=NOW_MS + at)
        for offset, (subject, kind, number, at) in enumerate(drawn, start=1)
    ]


@given(events=logs(), cuts=st.lists(st.integers(0, 25), max_size=6))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_are_a_function_of_the_log_however_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory, events: list[OffsetEvent], cuts: list[int]
) -> None:
    """Any batching with any repetition, in any adapter, comes to what one event at a time comes to."""

    async def run() -> None:
        reference = MemoryStore(clock=CLOCK, history_max=HISTORY_MAX)
        for event in events:
            await reference.apply([event])
        path = tmp_path_factory.mktemp("law") / "store.sqlite"
        sqlite = SqliteStore(path, clock=CLOCK, history_max=HISTORY_MAX, read_timeout_s=5.0)
        try:
            for cut in [*sorted(cuts), len(events)]:
                await sqlite.apply(events[max(0, cut - 9) : cut] if cut < 9 else events[:cut])
            for subject in (ALICE, BOB):
                assert await sqlite.read(subject) == await reference.read(subject)
            assert await sqlite.trending(since_ms=0, limit=99) == await reference.trending(since_ms=0, limit=99)
        finally:
            with suppress(Exception):
                await sqlite.close()

    asyncio.run(run())


def erased(*, through: int, at_ms: int = NOW_MS) -> Erasure:
    return Erasure(erased_ms=at_ms, through={0: through})


async def test_an_erased_subject_is_gone_and_no_event_of_before_brings_it_back(store: Store) -> None:
    await store.apply([placed(1, item="x"), placed(2, item="y"), placed(3, subject=BOB, item="z")])
    forgotten = await store.forget(ALICE, erased(through=3))
    assert (forgotten.rows, forgotten.erasure.version) == (1, 3)
    assert await store.holds(ALICE) == 0
    assert await items_of(store) == []
    assert await items_of(store, BOB) == ["z"]
    # Told late of a moment before; and read from the log before the records left it.
    late = [placed(4, item="late", at_ms=NOW_MS - 5), placed(5, number=9, subject=BOB, item="w")]
    await store.apply(late)
    assert await store.holds(ALICE) == 0
    assert await items_of(store, BOB) == ["z", "w"]
    await store.write_rows([UserRow(subject=ALICE, history=Interactions(("old",), (3,), (1,)))])
    assert await store.holds(ALICE) == 0


async def test_records_of_before_an_erasure_have_no_effect_whatever_moment_they_tell_of(store: Store) -> None:
    await store.forget(ALICE, erased(through=2))
    changes = await store.apply([placed(1, item="x", at_ms=NOW_MS + 50), placed(2, item="y", at_ms=NOW_MS + 60)])
    assert changes == []
    assert await store.holds(ALICE) == 0


async def test_a_subject_that_comes_back_begins_anew_above_every_version_of_before(store: Store) -> None:
    await store.apply([placed(1, item="x"), placed(2, item="y")])
    await store.set_opt_out(ALICE, opted_out=True)
    kept = (await store.forget(ALICE, erased(through=2))).erasure
    assert kept.version == 4
    row = await store.read(ALICE)
    assert row is not None
    assert (row.version, len(row.history), row.opted_out) == (4, 0, False)
    (change,) = await store.apply([placed(3, item="new")])
    assert (change.version, change.consumed) == (5, ("new",))
    assert await items_of(store) == ["new"]
    again = (await store.forget(ALICE, erased(through=3, at_ms=NOW_MS + 10))).erasure
    assert (again.version, again.through, again.erased_ms) == (6, {0: 3}, NOW_MS + 10)
    assert await store.erasure(ALICE) == again
    assert await store.set_opt_out(ALICE, opted_out=True) == 7


async def test_erasures_are_kept_until_they_are_old(asked_store: Store) -> None:
    await asked_store.forget(ALICE, erased(through=0))
    assert await asked_store.expire(sessions_before_ms=0, counts_before_ms=0, erasures_before_ms=NOW_MS) == 0
    assert await asked_store.expire(sessions_before_ms=0, counts_before_ms=0, erasures_before_ms=NOW_MS + 1) == 1
    assert await asked_store.erasure(ALICE) is None


async def test_nothing_of_an_erased_subject_stands_in_the_files(tmp_path: Path) -> None:
    opened = SqliteStore(tmp_path / "store.sqlite", clock=CLOCK, history_max=HISTORY_MAX, read_timeout_s=5.0)
    for number in range(1, 40):
        await opened.apply([placed(number, subject=f"{number % 7:032x}", item=f"film-{number}")])
    secret = f"{3:032x}"
    assert stands_in_files(tmp_path, secret)
    await opened.forget(secret, erased(through=39))
    await opened.scrub()
    assert not stands_in_files(tmp_path, secret)
    await opened.close()


async def test_a_walk_meets_every_user_with_a_history_once_and_nobody_else(store: Store) -> None:
    users = [f"{number:032x}" for number in range(1, 8)]
    entries = Interactions(("x",), (3,), (NOW_MS,))
    await store.write_rows([UserRow(subject=user, history=entries) for user in users])
    await store.write_rows([UserRow(subject=BOB)])
    await store.apply([placed(1, subject=VISITOR, item="x", kind=EventType.RATING, value=4.0)])
    await store.set_opt_out(users[0], opted_out=True)
    for limit in (1, 3, 100):
        met: list[str] = []
        after = ""
        for _ in range(20):
            walk = await store.walk(after=after, limit=limit)
            assert len(walk.rows) <= limit
            met += [row.subject for row in walk.rows]
            after = walk.after
            if not after:
                break
        assert sorted(met) == users[1:]
        assert not after
    assert (await store.walk(after="", limit=100)).rows[0].history == entries
