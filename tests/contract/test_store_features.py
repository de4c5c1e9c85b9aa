"""What every store must keep besides histories: sessions, affinities, counters, trending by category, retention."""

import sqlite3
from pathlib import Path

import msgspec

from infra.contracts.events import EventType
from infra.contracts.features import DecayedValue
from infra.plumbing.clock import ManualClock
from region.store.aggregates import IMPORTED
from region.store.port import Affinity, ItemCounters, Session, Store, SubjectCounters, UserRow, pack_affinities
from region.store.sqlite import STORE_DATABASE, SqliteStore
from tests.contract.building import ALICE, BOB, NOW_MS, placed
from tests.contract.test_store_contract import asked_store, open_store, store

__all__ = ["asked_store", "open_store", "store"]


async def row_of(store: Store, subject: str = ALICE) -> UserRow:
    row = await store.read(subject)
    assert row is not None
    return row


async def test_a_row_tells_session_counters_and_affinities(store: Store) -> None:
    await store.apply(
        [
            placed(1, kind=EventType.LIKE, categories=("Drama",), brand="acme", at_ms=NOW_MS),
            placed(2, kind=EventType.SKIP, categories=("Drama",), at_ms=NOW_MS),
            placed(3, kind=EventType.SEARCH, query="a film", at_ms=NOW_MS + 5),
            placed(4, kind=EventType.PURCHASE, creator="ana", at_ms=NOW_MS + 9),
        ]
    )
    row = await row_of(store)
    assert row.session == Session(NOW_MS, NOW_MS + 9, 4)
    assert row.counters == SubjectCounters(interactions=2, skips=1, searches=1, purchases=1)
    assert row.affinities == {
        "category": (Affinity("Drama", 0.7, NOW_MS),),
        "brand": (Affinity("acme", 1.0, NOW_MS),),
        "creator": (Affinity("ana", 1.0, NOW_MS + 9),),
    }
    assert row.leanings("category", NOW_MS) == {"Drama": 0.7}
    assert (row.offset, row.version) == (4, 3)


async def test_imported_events_count_over_items_once_beside_those_of_the_log(store: Store) -> None:
    await store.apply([placed(1, item="a", kind=EventType.CLICK, categories=("War",))])
    imported = [
        placed(7, item="a", kind=EventType.CLICK, categories=("War",), partition=IMPORTED),
        placed(9, item="b", kind=EventType.PURCHASE, partition=IMPORTED),
    ]
    for _ in range(2):
        await store.write_counts(imported)
        trending = await store.trending(since_ms=0, limit=9)
        assert [(one.item, one.count) for one in trending] == [("b", 3.0), ("a", 2.0)]
        counters = {one.item: one for one in await store.item_counters(since_ms=0, limit=9)}
        assert (counters["a"].clicks, counters["b"].purchases) == (2, 1)
        assert await store.applied_offsets() == {0: 1}, "the import is no part of the log"
    assert (await row_of(store)).version == 1


async def test_trending_by_category(store: Store) -> None:
    await store.apply(
        [
            placed(1, item="a", categories=("Drama", "War")),
            placed(2, item="b", categories=("War",), kind=EventType.PURCHASE),
            placed(3, item="c"),
        ]
    )

    async def best(category: str | None) -> list[tuple[str, float]]:
        return [(one.item, one.count) for one in await store.trending(since_ms=0, limit=9, category=category)]

    assert await best("Drama") == [("a", 1.0)]
    assert await best("War") == [("b", 3.0), ("a", 1.0)]
    assert await best(None) == [("b", 3.0), ("a", 1.0), ("c", 1.0)]
    assert await best("Unheard-of") == []


async def test_item_counters_tell_the_click_rate(store: Store) -> None:
    kinds = [EventType.IMPRESSION] * 4 + [EventType.CLICK, EventType.PURCHASE, EventType.SKIP]
    await store.apply([placed(offset, item="a", kind=kind) for offset, kind in enumerate(kinds, start=1)])
    await store.apply([placed(20, item="b", kind=EventType.IMPRESSION)])
    counters = await store.item_counters(since_ms=0, limit=9)
    assert counters == [
        ItemCounters(item="a", impressions=4, clicks=1, interactions=2, purchases=1),
        ItemCounters(item="b", impressions=1),
    ]
    assert counters[0].click_rate(prior_rate=0.0, prior_impressions=0.0) == 0.25
    assert counters[0].click_rate(prior_rate=0.1, prior_impressions=10.0) == (1 + 1) / 14
    assert [one.item for one in await store.item_counters(since_ms=0, limit=1)] == ["a"]
    assert await store.item_counters(since_ms=NOW_MS + 2 * 86_400_000, limit=9) == []


async def test_the_features_of_an_import_are_kept(store: Store) -> None:
    row = UserRow(
        subject=ALICE, version=1, imported=True, counters=SubjectCounters(interactions=3), session=Session(1, 2, 3),
        affinities_packed=pack_affinities({"brand": {"acme": DecayedValue(0.5, 7)}}),
    )  # fmt: skip
    await store.write_rows([row])
    assert await row_of(store) == row


async def test_users_not_heard_of_are_forgotten_and_their_choice_is_not(asked_store: Store) -> None:
    store = asked_store
    await store.apply([placed(1, received_ms=NOW_MS - 5000), placed(2, subject=BOB, received_ms=NOW_MS - 5000)])
    await store.set_opt_out(BOB, opted_out=True)
    gone = await store.expire(sessions_before_ms=0, counts_before_ms=0, users_before_ms=NOW_MS - 1)
    assert gone == 1, "the choice was made just now"
    assert await store.read(ALICE) is None
    assert await store.expire(sessions_before_ms=0, counts_before_ms=0, users_before_ms=NOW_MS + 1) == 1
    assert await row_of(store, BOB) == UserRow(subject=BOB, version=2, opted_out=True, offset=2, choices=1)
    assert await store.expire(sessions_before_ms=0, counts_before_ms=0, users_before_ms=NOW_MS + 1) == 0


async def test_rows_of_the_first_schema_are_brought_along(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    first = STORE_DATABASE.migrations()[0]
    connection = sqlite3.connect(path)
    connection.executescript(first)
    connection.execute(
        "INSERT INTO subjects VALUES (?, 3, 2, 1, ?, ?, 0, ?, ?)",
        (ALICE, NOW_MS, NOW_MS, msgspec.msgpack.encode((["a"], [4], [NOW_MS])), b"12345678"),
    )
    connection.execute("UPDATE progress SET applied_offset = 9")
    connection.execute(f"PRAGMA application_id = {STORE_DATABASE.application_id}")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    store = SqliteStore(path, clock=ManualClock(wall_ms=NOW_MS), read_timeout_s=5.0)
    row = await row_of(store)
    assert (row.version, row.impressions, row.opted_out, row.last_event_ms) == (3, 2, True, NOW_MS)
    assert [(one.item, one.strength, one.at_ms) for one in row.history] == [("a", 4, NOW_MS)]
    assert await store.applied_offsets() == {0: 9}
    assert await store.set_opt_out(ALICE, opted_out=False) == 4
    await store.close()
