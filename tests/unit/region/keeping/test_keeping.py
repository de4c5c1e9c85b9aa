"""What lies under keys: files at rest, subjects' events, and what happens while keys come and go."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest

from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import SettingsError
from infra.plumbing.keys import RegionKeys
from infra.plumbing.telemetry import TelemetrySettings, start_telemetry
from region.events.dead_letters import DeadLetters
from region.events.opening import open_log, open_seals
from region.events.records import SHREDDED, break_record
from region.events.sqlite import LOG_DATABASE, SqliteLog, require_no_sealed_records
from region.keeping import rotating
from region.keeping.files import FileKeys, SealedLines
from region.keeping.sealing import SealedRecord, Seals
from region.keeping.subject_keys import DAY_MS, USED_STEP_DAYS
from region.keeping.subject_keys_sqlite import FILE
from region.keeping.wrapping import FileWrapping, KeysUnavailableError
from region.settings import RegionSettings
from region.store.sqlite import SqliteStore
from region.worker.process import Worker
from tests.contract.building import ALICE, BOB, NOW_MS, logged, placed, stands_in_files
from tests.support.keeping import file_keys, key_file, seals, subject_keys
from tests.unit.local.waiting import until


def open_sealed(state: Path, **options: Seals) -> SqliteLog:
    return SqliteLog(
        state / "log.sqlite", queue_max=100, seals=options.get("seals") or seals(state), keys=file_keys(state)
    )


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    opened = open_sealed(tmp_path)
    yield opened
    await opened.close()


async def test_a_copy_of_the_log_gives_nothing_after_an_erasure_even_with_the_regions_key(
    log: SqliteLog, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    await log.append([logged(1, item="secret"), logged(2, subject=BOB), logged(3, query="very secret")])
    backup = tmp_path_factory.mktemp("backup")
    for name in ("log.sqlite", "log.sqlite-wal", "log.sqlite-shm", "log.sqlite.key"):
        shutil.copy(tmp_path / name, backup / name)
    assert (await log.forget(ALICE)).keys == 1
    await log.scrub()
    # Whoever holds the copy has the region's key file as well, and the keys as they are now.
    shutil.copy(key_file(tmp_path), key_file(backup))
    for name in ("subject-keys.sqlite", "subject-keys.sqlite-wal", "subject-keys.sqlite.key"):
        shutil.copy(tmp_path / name, backup / name)
    restored = open_sealed(backup)
    read = await restored.read(after={0: 0}, limit=10)
    assert [(one.offset, one.broken) for one in read] == [(1, SHREDDED), (2, ""), (3, SHREDDED)]
    assert await restored.of_subject(ALICE, after={}, limit=10) == []
    await restored.close()
    # Byte by byte, with the file's own encryption taken off: no name, no event id, no item, no words.
    clear = decrypted_pages(backup)
    for secret in (ALICE, logged(1).event.event_id, "secret", RegionKeys.load(key_file(backup)).pseudonym("user", "1")):
        assert secret.encode() not in clear
    assert BOB.encode() not in clear, "of those who stay only handles are in the log"


def decrypted_pages(state: Path) -> bytes:
    """Everything that a log's records say, as rows of an opened file."""
    connection = LOG_DATABASE.connect(state / "log.sqlite", read_only=True, keys=file_keys(state))
    try:
        rows = connection.execute("SELECT received_ms, subject, event_id, body FROM records").fetchall()
    finally:
        connection.close()
    assert len(rows) == 3
    return b"\n".join(f"{received} {name} {mark}".encode() + body for received, name, mark, body in rows)


async def test_nothing_can_be_read_in_any_file(tmp_path: Path) -> None:
    log, store = open_sealed(tmp_path), SqliteStore(tmp_path / "store.sqlite", clock=ManualClock(wall_ms=NOW_MS),
                                                     read_timeout_s=5.0, keys=file_keys(tmp_path))  # fmt: skip
    letters = DeadLetters(tmp_path / "dead-letters.sqlite", keys=file_keys(tmp_path), seals=seals(tmp_path))
    await log.append([logged(1, item="rosebud", query="sled")])
    await store.apply(await log.read(after={0: 0}, limit=10))
    await letters.add([break_record(placed(1, item="rosebud"), "no good")], now_ms=NOW_MS)
    row = await store.read(ALICE)
    assert row is not None
    assert row.history.items[0] == "rosebud"
    assert [letter.content async for letter in letters.letters()] == [
        break_record(placed(1, item="rosebud"), "").content
    ]
    for secret in (ALICE, "rosebud", "sled", "event-000001", "SQLite format"):
        assert not stands_in_files(tmp_path, secret)
    for part in (log, store, letters):
        await part.close()


async def test_files_and_records_of_before_there_were_keys_stay(tmp_path: Path) -> None:
    plain = SqliteLog(tmp_path / "log.sqlite", queue_max=100)
    await plain.append([logged(1, item="old"), logged(2, subject=BOB, item="old")])
    await plain.close()
    assert stands_in_files(tmp_path, ALICE)
    log = open_sealed(tmp_path)
    assert not stands_in_files(tmp_path, ALICE), "the file was encrypted, and what was there is gone"
    await log.append([logged(3, item="new")])
    assert [one.logged.event.item for one in await log.read(after={0: 0}, limit=10)] == ["old", "old", "new"]
    assert await log.count_of(ALICE) == 2
    assert (await log.forget(ALICE)).records == 2
    assert [one.logged.subject for one in await log.read(after={0: 0}, limit=10)] == [BOB]
    assert await log.last_offsets() == {0: 3}
    await log.close()


class ErasedMeanwhile(SqliteLog):
    """Another process erases the subject when the record is durable and not acknowledged yet."""

    other: Seals | None = None

    async def _commit(self, rows: Sequence[SealedRecord]) -> int:
        accepted = await super()._commit(rows)
        if self.other is not None:
            other, self.other = self.other, None
            await other.forget(ALICE)
        return accepted


async def test_an_event_is_not_lost_when_its_subject_is_erased_by_another_process_while_it_is_written(
    tmp_path: Path,
) -> None:
    writer = ErasedMeanwhile(tmp_path / "log.sqlite", queue_max=100, seals=seals(tmp_path), keys=file_keys(tmp_path))
    theirs = seals(tmp_path)
    other = open_sealed(tmp_path, seals=theirs)
    await writer.append([logged(1)])
    writer.other = theirs
    result = await writer.append([logged(2), logged(3, subject=BOB)])
    assert (result.accepted, result.duplicates) == (2, 0)
    read = await other.read(after={0: 0}, limit=10)
    assert [(one.offset, one.broken) for one in read] == [(1, SHREDDED), (2, SHREDDED), (3, ""), (4, "")]
    assert [one.logged.event.event_id for one in read if not one.broken] == ["event-000003", "event-000002"]
    assert (await writer.append([logged(2)])).duplicates == 1
    await writer.close()
    await other.close()


async def test_a_remembered_key_that_was_erased_elsewhere_costs_one_more_write_and_no_event(tmp_path: Path) -> None:
    writer, theirs = open_sealed(tmp_path), seals(tmp_path)
    await writer.append([logged(1)])
    await theirs.forget(ALICE)
    assert (await writer.append([logged(2)])).accepted == 1
    other = open_sealed(tmp_path, seals=theirs)
    read = await other.read(after={0: 0}, limit=10)
    assert [one.logged.event.event_id for one in read if not one.broken] == ["event-000002"]
    await writer.close()
    await other.close()


async def test_while_the_keys_are_away_those_at_hand_are_used_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealing = seals(tmp_path)
    log = open_sealed(tmp_path, seals=sealing)
    await log.append([logged(1)])

    async def gone(*_values: object, **_named: object) -> object:
        raise KeysUnavailableError("the store is gone.")

    for name in ("epoch", "for_writing"):
        monkeypatch.setattr(sealing.keys, name, gone)
    assert (await log.append([logged(2)])).accepted == 1
    with pytest.raises(KeysUnavailableError):
        await log.append([logged(3, subject=BOB)])
    monkeypatch.undo()
    assert [one.logged.event.event_id for one in await log.read(after={0: 0}, limit=10)] == [
        "event-000001", "event-000002"
    ]  # fmt: skip
    await log.close()


async def test_processes_that_make_a_key_at_once_use_the_same(tmp_path: Path) -> None:
    one, other = subject_keys(tmp_path), subject_keys(tmp_path)
    first = await one.for_writing([ALICE, BOB], today=1)
    assert {name: key.key for name, key in (await other.for_writing([BOB, ALICE], today=1)).items()} == {
        name: key.key for name, key in first.items()
    }
    await one.close()
    await other.close()


async def test_a_key_lives_as_long_as_it_is_used(tmp_path: Path) -> None:
    clock = ManualClock(wall_ms=1000 * DAY_MS)
    sealing = seals(tmp_path, clock=clock)
    await sealing.seal([logged(1)])
    for _ in range(3):
        clock.advance((USED_STEP_DAYS + 1) * 86_400.0)
        await sealing.seal([logged(2)])  # from the cache, and its use is noted all the same
    assert await sealing.expire(before_ms=clock.now_ms()) == 0
    assert await sealing.expire(before_ms=clock.now_ms() + 100 * DAY_MS) == 1
    await sealing.keys.close()


async def test_the_regions_key_changes_and_everything_still_opens(log: SqliteLog, tmp_path: Path) -> None:
    await log.append([logged(1), logged(2, subject=BOB)])
    path = key_file(tmp_path)
    RegionKeys.load(path).with_new_rest_key(now_ms=1).save(path)
    keys = subject_keys(tmp_path)
    assert await keys.rewrap() == 2
    assert file_keys(tmp_path).rewrap(tmp_path) >= 2
    RegionKeys.load(path).with_latest_rest_key_only().save(path)
    again = open_sealed(tmp_path)
    assert [one.logged for one in await again.read(after={0: 0}, limit=10)] == [logged(1), logged(2, subject=BOB)]
    assert await keys.rewrap() == 0
    await keys.close()
    await again.close()


async def test_a_worker_makes_the_rest_key_anew_when_it_is_due_and_somebody_was_erased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotating, "LOOK_EVERY_S", 0.0)
    clock, path = ManualClock(wall_ms=1_000 * rotating.HOUR_MS), key_file(tmp_path)
    settings = RegionSettings(
        node="r1", region="us-east", port=1, worker_port=2, state_directory=str(tmp_path), repository_url="",
        trusted_root="", keys_file=str(path), trust_file=str(tmp_path / "trust.json"), grid="memory",
        rest_rotation_h=1.0,
    )  # fmt: skip
    log = open_log(settings, seals=open_seals(settings, clock=clock))
    await log.append([logged(1), logged(2, subject=BOB)])
    assert rotating.rest_is_due(settings, now_ms=clock.now_ms())
    for never in ({"rest_rotation_h": 0.0}, {"rest_rotation_h": None}):
        assert not rotating.rest_is_due(msgspec.structs.replace(settings, **never), now_ms=clock.now_ms())
    await log.forget(logged(1).subject)
    telemetry = start_telemetry(service="worker", region="us-east", node="r1", settings=TelemetrySettings())
    worker = Worker(
        settings=settings, streaming=None, log=log, store=None, grid=None,  # type: ignore[arg-type] # not for rotating
        clock=clock, telemetry=telemetry,
    )  # fmt: skip
    stop = asyncio.Event()
    rotation = asyncio.create_task(worker.rotate(stop))
    await until(lambda: RegionKeys.load(path).rest_since_ms == clock.now_ms())
    assert list(RegionKeys.load(path).rest_keys()) == ["2"]
    assert not rotating.rest_is_due(settings, now_ms=clock.now_ms())
    stop.set()
    await rotation
    telemetry.close()
    assert [one.logged for one in await log.read(after={0: 0}, limit=10)] == [logged(2, subject=BOB)]
    await log.close()
    again = open_log(settings, seals=open_seals(settings, clock=clock))
    assert [one.logged for one in await again.read(after={0: 0}, limit=10)] == [logged(2, subject=BOB)]
    await again.close()


async def test_a_key_that_does_not_open_is_not_taken_for_an_erased_one(tmp_path: Path) -> None:
    log = open_sealed(tmp_path)
    await log.append([logged(1)])
    await log.close()
    RegionKeys.generate("us-east").save(key_file(tmp_path))
    with pytest.raises(KeysUnavailableError):
        open_sealed(tmp_path)


async def test_fresh_keys_beside_a_sealed_log_are_refused(tmp_path: Path) -> None:
    log = open_sealed(tmp_path)
    require_no_sealed_records(tmp_path / "log.sqlite", file_keys(tmp_path))
    await log.append([logged(1)])
    await log.close()
    with pytest.raises(SettingsError, match=FILE):
        require_no_sealed_records(tmp_path / "log.sqlite", file_keys(tmp_path))


async def test_a_record_that_was_changed_or_put_under_another_name_is_broken(log: SqliteLog, tmp_path: Path) -> None:
    await log.append([logged(1), logged(2, subject=BOB)])
    connection = LOG_DATABASE.connect(tmp_path / "log.sqlite", read_only=False, keys=file_keys(tmp_path))
    (first,), (second,) = connection.execute("SELECT body FROM records ORDER BY position").fetchall()
    connection.execute("UPDATE records SET body = ? WHERE position = 1", (second[:34] + first[34:],))
    connection.close()
    read = await log.read(after={0: 0}, limit=10)
    assert "changed" in read[0].broken
    assert read[1].logged == logged(2, subject=BOB)


async def test_the_cache_of_keys_is_bounded(tmp_path: Path) -> None:
    sealing = Seals(subject_keys(tmp_path), clock=ManualClock(), cached_max=3)
    for number in range(9):
        await sealing.seal([logged(1, subject=f"{number:032x}")])
    assert len(sealing._cached) == len(sealing._handles) == 3
    await sealing.keys.close()


def test_lines_open_under_their_own_key_only(tmp_path: Path) -> None:
    lines = SealedLines(file_keys(tmp_path).of(tmp_path / "lines"))
    sealed = [lines.seal(b"one"), b"cut sh", lines.seal(b"two")]
    assert list(lines.open(sealed)) == [b"one", b"two"]
    assert list(SealedLines(bytes(32)).open(sealed)) == []


def test_a_wrapped_key_opens_for_what_it_was_wrapped_for_only(tmp_path: Path) -> None:
    wrapping = FileWrapping(key_file(tmp_path))
    wrapped = wrapping.wrap(bytes(32), about=b"this")
    assert wrapping.unwrap(wrapped, about=b"this") == bytes(32)
    with pytest.raises(KeysUnavailableError):
        wrapping.unwrap(wrapped, about=b"that")
    with pytest.raises(KeysUnavailableError, match="rest key"):
        wrapping.unwrap(b"\x019" + wrapped[2:], about=b"this")


def test_a_file_key_is_made_once(tmp_path: Path) -> None:
    keys = FileKeys(FileWrapping(key_file(tmp_path)))
    assert keys.of(tmp_path / "a") == keys.of(tmp_path / "a") != keys.of(tmp_path / "b")
