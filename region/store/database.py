"""SQLite files: opening them, bringing their schema up to date, reading their queries.

A file says what it is (`application_id`) and which migration it stands at (`user_version`); a start-up that meets
anything else stops and says what to do. Several processes of a node may open the same file at once.

With `keys` a file lies encrypted (SQLCipher, AES-256 by page; its write-ahead log too). One that lies in the clear from
an earlier version is encrypted when it is prepared.
"""

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.plumbing.errors import SettingsError
from infra.plumbing.files import sync_directory
from region.keeping.files import FileKeys
from region.store.driver import sqlite3

BUSY_TIMEOUT_S = 5.0
"""How long a writer waits for another process's transaction before it gives up."""
_JOURNAL_BYTES_MAX = 64 << 20
_CACHE_KIB = 16_384
_CUTS_MAX = 100
_CUT_PAUSE_S = 0.02
VACUUM_BYTES_MAX = 128 << 20
"""About a second's work: nobody can write meanwhile."""
_CLEAR = b"SQLite format 3\0"
"""How a file begins that is not encrypted."""
_ZEROS = bytes(1 << 20)
_MIGRATION = re.compile(r"(\d{4})_[a-z_]+\.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A kind of SQLite file: where its SQL lives, how it is recognised and how durable its commits are."""

    name: str
    application_id: int
    sql: Path
    """Holds `migrations/NNNN_word.sql`, without a gap from 0001, and one query a file beside that folder."""
    synchronous: str
    """`FULL`: a commit survives power loss; `NORMAL`: it survives kill -9, power loss may take the last ones."""
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    """Functions by name for migrations that change how a value is encoded."""

    def prepare(self, path: Path, keys: FileKeys | None = None) -> None:
        """Create the file or bring its schema up to date, and encrypt it. One process at a time.

        Raises:
            SettingsError: the file is something else, is newer than this code, or cannot be written.
            KeysUnavailableError: its key does not open.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _lock_file(path.with_name(f".{path.name}.lock")):
                key = keys.of(path) if keys is not None else None
                if key is not None and _is_clear(path):
                    self._check_clear(path)
                    _encrypt(path, key)
                with _closing(self._connect(path, key)) as connection:
                    self._check_identity(connection, path)
                    # Changing the journal mode needs the file alone; the lock above makes sure of it.
                    connection.execute("PRAGMA journal_mode = WAL")
                    self._migrate(connection, path)
        except (OSError, sqlite3.Error) as error:
            raise SettingsError(
                f"the {self.name} at {path} cannot be opened: {error}.",
                fix="Check that the directory can be written and has space, and that the file is the one meant.",
            ) from error

    def connect(self, path: Path, *, read_only: bool, keys: FileKeys | None = None) -> sqlite3.Connection:
        """A connection to a prepared file, for the thread that calls."""
        connection = self._connect(path, keys.of(path) if keys is not None else None)
        connection.execute(f"PRAGMA synchronous = {self.synchronous}")
        connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_BYTES_MAX}")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        # What is deleted is written over with zeros: an erased subject must not stand in a free page.
        connection.execute("PRAGMA secure_delete = ON")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
        return connection

    def queries(self) -> dict[str, str]:
        """The named queries: text by file name without its suffix. Read once, when an adapter is built."""
        return {path.stem: path.read_text(encoding="utf-8") for path in sorted(self.sql.glob("*.sql"))}

    def migrations(self) -> list[str]:
        """The migrations in order; the first brings an empty file to version 1.

        Raises:
            SettingsError: the numbers have a gap (a broken installation).
        """
        paths = sorted((self.sql / "migrations").glob("*.sql"))
        numbers = [int(match[1]) for path in paths if (match := _MIGRATION.fullmatch(path.name))]
        if not paths or numbers != list(range(1, len(paths) + 1)):
            raise SettingsError(
                f"the migrations of the {self.name} are not numbered from 0001 without a gap.",
                fix="Install the distribution anew.",
            )
        return [path.read_text(encoding="utf-8") for path in paths]

    def _connect(self, path: Path, key: bytes | None) -> sqlite3.Connection:
        # Transactions are begun and ended by hand; statements are kept prepared by the module.
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, cached_statements=64)
        if key is not None:
            connection.execute(f"PRAGMA key = {_raw(key)}")
        return connection

    def _check_clear(self, path: Path) -> None:
        """Whether a file that is not encrypted is one of these: nothing else is to be touched."""
        with _closing(self._connect(path, None)) as connection:
            self._check_identity(connection, path)

    def _check_identity(self, connection: sqlite3.Connection, path: Path) -> None:
        (identity,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if identity != self.application_id and (identity or tables):
            raise SettingsError(
                f"{path} is not a {self.name} of Atoll.", fix="Name another state directory, or move that file away."
            )

    def _migrate(self, connection: sqlite3.Connection, path: Path) -> None:
        for name, function in self.functions.items():
            connection.create_function(name, -1, function, deterministic=True)
        migrations = self.migrations()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(migrations):
            raise SettingsError(
                f"the {self.name} at {path} has schema {version}, this code knows {len(migrations)}.",
                fix="Run the newer version of Atoll that wrote it, or restore the file from before the upgrade.",
            )
        for number in range(version + 1, len(migrations) + 1):
            with transaction(connection):
                for statement in _statements(migrations[number - 1]):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {self.application_id}")
                connection.execute(f"PRAGMA user_version = {number}")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of the block or nothing of it; the write lock is taken at once, so reads inside are of one state."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A failed COMMIT (disk full) leaves the transaction open; some errors have rolled back already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def durable(connection: sqlite3.Connection, database: Database) -> Iterator[None]:
    """Commits of the block are synced, however the database does it else."""
    connection.execute("PRAGMA synchronous = FULL")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA synchronous = {database.synchronous}")


def scrub(connection: sqlite3.Connection) -> str:
    """Have the bytes of what was deleted leave the file and its write-ahead log; returns what cannot, "" if all did.

    `secure_delete` writes over what is deleted, but not over copies that stay in the gaps of pages when SQLite moves
    cells between them: the file is built anew. The write-ahead log still shows pages of before: it is cut. Waits for
    readers and writers for the busy timeout at most; a file above VACUUM_BYTES_MAX would hold them up for too long.

    Raises:
        sqlite3.OperationalError: a reader or writer did not make room; nothing is lost.
    """
    # SQLCipher says numbers as text.
    pages, page_bytes = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "page_size")
    )
    is_small = pages * page_bytes <= VACUUM_BYTES_MAX
    if is_small:
        connection.execute("VACUUM")
    _cut(connection)
    return "" if is_small else "written over; gaps of pages may hold copies until VACUUM, too long for a file so large"


def _cut(connection: sqlite3.Connection) -> None:
    """Cut the write-ahead log. SQLite waits for readers, but not for another connection's checkpoint: asked again."""
    for _ in range(_CUTS_MAX):
        (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy:
            return
        time.sleep(_CUT_PAUSE_S)
    raise sqlite3.OperationalError("the write-ahead log could not be cut: the file is in use")


def _is_clear(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_CLEAR)) == _CLEAR
    except FileNotFoundError:
        return False


def _encrypt(path: Path, key: bytes) -> None:
    """Put an encrypted copy in the place of a file in the clear, and write zeros over what was there.

    A kill leaves the one or the other whole. Fails when somebody else has the file open.

    Raises:
        sqlite3.OperationalError: another process has it open.
    """
    sealed = path.with_name(f".{path.name}.sealed")
    sealed.unlink(missing_ok=True)
    with _closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        (identity,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"ATTACH DATABASE ? AS sealed KEY {_raw(key)}", (str(sealed),))
        connection.execute("SELECT sqlcipher_export('sealed')")
        connection.execute(f"PRAGMA sealed.application_id = {identity}")
        connection.execute(f"PRAGMA sealed.user_version = {version}")
        connection.execute("DETACH DATABASE sealed")
    with path.open("r+b") as clear:
        os.replace(sealed, path)
        sync_directory(path.parent)
        left = os.fstat(clear.fileno()).st_size
        while left > 0:
            left -= clear.write(_ZEROS[:left])
        clear.flush()
        os.fsync(clear.fileno())


def _raw(key: bytes) -> str:
    """A key of 32 random bytes as SQLCipher takes it, without making one of a pass phrase."""
    return f"\"x'{key.hex()}'\""


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@contextmanager
def _lock_file(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _closing(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    try:
        yield connection
    finally:
        connection.close()
