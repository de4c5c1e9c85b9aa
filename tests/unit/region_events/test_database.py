from pathlib import Path

import pytest

from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import SettingsError
from region.events.sqlite import LOG_DATABASE
from region.store.database import Database, transaction
from region.store.driver import sqlite3
from region.store.sqlite import STORE_DATABASE, SqliteStore


@pytest.mark.parametrize("database", [STORE_DATABASE, LOG_DATABASE])
def test_a_prepared_file_says_what_it_is_and_is_prepared_once(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "below" / "file.sqlite"
    database.prepare(path)
    database.prepare(path)
    connection = database.connect(path, read_only=False)
    assert connection.execute("PRAGMA application_id").fetchone() == (database.application_id,)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(database.migrations()),)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_the_log_syncs_every_commit_and_the_store_does_not(tmp_path: Path) -> None:
    levels = []
    for database in (LOG_DATABASE, STORE_DATABASE):
        database.prepare(tmp_path / database.name)
        connection = database.connect(tmp_path / database.name, read_only=False)
        levels.append(connection.execute("PRAGMA synchronous").fetchone()[0])
        connection.close()
    assert levels == [2, 1], "FULL and NORMAL"


def test_a_read_only_connection_cannot_write(tmp_path: Path) -> None:
    STORE_DATABASE.prepare(tmp_path / "s")
    connection = STORE_DATABASE.connect(tmp_path / "s", read_only=True)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("UPDATE progress SET applied_offset = 7")
    connection.close()


def test_a_newer_schema_is_refused_with_the_fix(tmp_path: Path) -> None:
    path = tmp_path / "s"
    STORE_DATABASE.prepare(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(SettingsError, match="has schema 99") as caught:
        STORE_DATABASE.prepare(path)
    assert "newer version of Atoll" in caught.value.fix


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    LOG_DATABASE.prepare(path)
    with pytest.raises(SettingsError, match="is not a store"):
        STORE_DATABASE.prepare(path)
    foreign = tmp_path / "foreign"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE diary (day TEXT)")
    connection.close()
    with pytest.raises(SettingsError, match="is not a store"):
        STORE_DATABASE.prepare(foreign)
    (tmp_path / "text").write_text("no database at all, but long enough for a header" * 10)
    with pytest.raises(SettingsError, match="cannot be opened"):
        STORE_DATABASE.prepare(tmp_path / "text")
    with pytest.raises(SettingsError, match="cannot be opened"):
        STORE_DATABASE.prepare(tmp_path / "text" / "below")


def a_database(folder: Path, *scripts: str) -> Database:
    (folder / "migrations").mkdir(parents=True)
    for number, script in enumerate(scripts, start=1):
        (folder / "migrations" / f"{number:04d}_step.sql").write_text(script)
    return Database(name="store", application_id=77, sql=folder, synchronous="NORMAL")


def test_an_older_schema_is_brought_up_to_date_step_by_step(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = "CREATE TABLE one (x INTEGER);\nINSERT INTO one VALUES (1); -- a comment; with a semicolon\n"
    a_database(tmp_path / "old", first).prepare(path)
    a_database(tmp_path / "new", first, "ALTER TABLE one ADD COLUMN y INTEGER DEFAULT 5;\n").prepare(path)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT x, y FROM one").fetchall() == [(1, 5)]
    assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    connection.close()


def test_a_migration_that_fails_leaves_nothing_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "s"
    broken = a_database(tmp_path / "broken", "CREATE TABLE one (x INTEGER);\nINSERT INTO nowhere VALUES (1);\n")
    with pytest.raises(SettingsError, match="no such table"):
        broken.prepare(path)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    connection.close()


def test_a_gap_among_migrations_is_refused(tmp_path: Path) -> None:
    database = a_database(tmp_path / "gap", "CREATE TABLE one (x INTEGER);\n", "SELECT 1;\n")
    (tmp_path / "gap" / "migrations" / "0001_step.sql").unlink()
    with pytest.raises(SettingsError, match="without a gap"):
        database.prepare(tmp_path / "s")


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "t", isolation_level=None)
    connection.execute("CREATE TABLE one (x INTEGER)")

    def write_and_fail() -> None:
        with transaction(connection):
            connection.execute("INSERT INTO one VALUES (1)")
            raise KeyError

    with pytest.raises(KeyError):
        write_and_fail()
    with transaction(connection):
        connection.execute("INSERT INTO one VALUES (2)")
    assert connection.execute("SELECT x FROM one").fetchall() == [(2,)]
    connection.close()


def test_every_query_of_the_adapters_is_a_file() -> None:
    assert set(STORE_DATABASE.queries()) >= {"read_subject", "save_state", "trending"}
    assert set(LOG_DATABASE.queries()) == {
        "append_record", "count_subject", "expire_records", "first_kept", "forget_subject", "last_position",
        "read_records", "read_subject", "sealed_record",
    }  # fmt: skip


async def test_a_store_of_one_partition_keeps_its_offset(tmp_path: Path) -> None:
    path = tmp_path / "s"
    connection = sqlite3.connect(path)
    connection.executescript(STORE_DATABASE.migrations()[0])
    connection.executescript(
        f"PRAGMA application_id = {STORE_DATABASE.application_id}; PRAGMA user_version = 1;"
        "UPDATE progress SET applied_offset = 7;"
    )
    connection.close()
    store = SqliteStore(path, clock=ManualClock(), history_max=5)
    assert await store.applied_offsets() == {0: 7}
    await store.close()
