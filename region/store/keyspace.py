"""A region's keyspace: making it, numbered migrations, and the check at the start that says the fix."""

import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from cassandra import AlreadyExists, DriverException, InvalidRequest
from cassandra.cluster import NoHostAvailable, Session

from infra.plumbing.addresses import PartAddress
from infra.plumbing.errors import SettingsError
from region.keeping.sealing import handle_of
from region.store.port import StoreUnavailableError
from region.store.subjects import erasure_mark

CQL = Path(__file__).parent / "cql"
LOCK_TTL_S = 120
"""A migrating process that is killed holds the others up for as long."""
_LOOKED_AT = 20
_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
_DATA_CENTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MIGRATION = re.compile(r"(\d{4})_[a-z_]+\.cql")
_BOOKS = (
    "CREATE TABLE IF NOT EXISTS schema_version (one int PRIMARY KEY, version int)",
    "CREATE TABLE IF NOT EXISTS schema_lock (one int PRIMARY KEY, holder text)",
)
Say = Callable[[str], None]


class StoreSchemaError(StoreUnavailableError):
    """The keyspace is not what this code knows; says what to run."""


def queries() -> dict[str, str]:
    """The named queries: text by file name without its suffix."""
    return {path.stem: path.read_text(encoding="utf-8").strip() for path in sorted(CQL.glob("*.cql"))}


def migrations() -> list[list[str]]:
    """The statements of every migration, in order.

    Raises:
        SettingsError: the numbers have a gap (a broken installation).
    """
    paths = sorted((CQL / "migrations").glob("*.cql"))
    numbers = [int(match[1]) for path in paths if (match := _MIGRATION.fullmatch(path.name))]
    if not paths or numbers != list(range(1, len(paths) + 1)):
        raise SettingsError(
            "the migrations of the Cassandra store are not numbered from 0001 without a gap.",
            fix="Install the distribution anew.",
        )
    return [_statements(path.read_text(encoding="utf-8")) for path in paths]


def _statements(script: str) -> list[str]:
    lines = [line for line in script.splitlines() if not line.startswith("--")]
    return [statement.strip() for statement in "\n".join(lines).split(";") if statement.strip()]


def schema_version(session: Session, keyspace: str) -> int:
    """The migration that the keyspace stands at; 0 where there is none yet."""
    found = session.execute("SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = %s", (keyspace,))
    if not found.one():
        return 0
    try:
        row = session.execute(f"SELECT version FROM {keyspace}.schema_version WHERE one = 1").one()  # noqa: S608 - checked name
    except InvalidRequest:
        return 0
    return int(row[0]) if row else 0


def check_schema(session: Session, keyspace: str) -> int:
    """Refuse a keyspace that is newer or older than this code; returns its version.

    Raises:
        StoreSchemaError: says which of the two, and the command to run.
    """
    version, known = schema_version(session, keyspace), len(migrations())
    if version > known:
        raise StoreSchemaError(
            f"the keyspace {keyspace} has schema {version}, this code knows {known}.",
            fix="Run the newer version of Atoll that migrated it.",
        )
    if version < known:
        raise StoreSchemaError(
            f"the keyspace {keyspace} has schema {version}, this code needs {known}.",
            fix="Run `./atoll store migrate --settings FILE` (or `python -m region.store migrate`) once, or leave out "
            "?migrate=manual.",
        )
    return version


def migrate(session: Session, address: PartAddress, *, holder: str, pause_s: float = 0.2) -> int:
    """Make the keyspace and bring its schema up to date; returns the version. One process at a time does it.

    The interleaving: processes that start together race for a conditional insert into `schema_lock`. The winner looks
    at the version again (the one before it may have finished), migrates, then lets go; the others wait and look.
    Every statement may be run twice, so a winner that was killed is no harm: the lock has a time to live.

    Raises:
        StoreSchemaError: the keyspace is newer, or somebody holds the lock for too long.
        SettingsError: a name in the address cannot be used.
    """
    keyspace, center = checked_names(address)
    known = len(migrations())
    if schema_version(session, keyspace) >= known:
        return check_schema(session, keyspace)
    copies = address.number("copies", 1)
    _tolerant(
        session,
        f"CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication ="
        f" {{'class': 'NetworkTopologyStrategy', '{center}': {copies}}} AND durable_writes = true",
    )
    for statement in _BOOKS:
        _tolerant(session, statement.replace("EXISTS ", f"EXISTS {keyspace}.", 1))
    waiting = threading.Event()
    for _ in range(round(2 * LOCK_TTL_S / pause_s)):
        if schema_version(session, keyspace) >= known:
            return check_schema(session, keyspace)
        if _take_lock(session, keyspace, holder):
            try:
                return _run_migrations(session, keyspace)
            finally:
                session.execute(f"DELETE FROM {keyspace}.schema_lock WHERE one = 1 IF holder = %s", (holder,))  # noqa: S608
        waiting.wait(pause_s)
    raise StoreSchemaError(f"another process has been migrating {keyspace} for minutes.", fix="See whether it lives.")


def check_keys(session: Session, keyspace: str) -> None:
    """Refuse rows under keys of which none is there: taken for rows of erased people, they would be written over.

    Raises:
        StoreSchemaError: says what to restore.
    """
    found = session.execute(f"SELECT subject, content FROM {keyspace}.rows LIMIT {_LOOKED_AT}")  # noqa: S608 - checked name
    sealed = [subject for subject, content in found if content is not None and handle_of(content) is not None]
    if not sealed or session.execute(f"SELECT handle FROM {keyspace}.keys_by_handle LIMIT 1").one():  # noqa: S608
        return
    marked = f"SELECT mark FROM {keyspace}.erasures WHERE mark = %s"  # noqa: S608
    if all(session.execute(marked, (erasure_mark(subject),)).one() for subject in sealed):
        return  # a worker wrote them a moment behind the erasure: they are nobody's
    raise StoreSchemaError(
        f"the rows of {keyspace} lie under their subjects' keys, and there are no keys.",
        fix="Restore the tables subject_keys and keys_by_handle, which are backed up apart.",
    )


def checked_names(address: PartAddress) -> tuple[str, str]:
    """Keyspace and data centre, safe to stand in a statement.

    Raises:
        SettingsError: one of them cannot be a name.
    """
    center = address.option("data_center")
    if not _NAME.fullmatch(address.name) or not _DATA_CENTER.fullmatch(center):
        raise SettingsError(
            f"{address.name!r} in {center!r} cannot be a keyspace in a data centre.",
            fix="Use lower-case letters, digits and underscores for the keyspace.",
        )
    return address.name, center


def _take_lock(session: Session, keyspace: str, holder: str) -> bool:
    taken = session.execute(
        f"INSERT INTO {keyspace}.schema_lock (one, holder) VALUES (1, %s) IF NOT EXISTS USING TTL {LOCK_TTL_S}",  # noqa: S608
        (holder,),
    )
    return bool(taken.one()[0])


def _run_migrations(session: Session, keyspace: str) -> int:
    version = schema_version(session, keyspace)
    session.set_keyspace(keyspace)
    for number, statements in enumerate(migrations()[version:], start=version + 1):
        for statement in statements:
            session.execute(statement)
        session.execute("INSERT INTO schema_version (one, version) VALUES (1, %s)", (number,))
    return schema_version(session, keyspace)


def _tolerant(session: Session, statement: str) -> None:
    """Run a statement that may lose a race against its twin."""
    try:
        session.execute(statement)
    except AlreadyExists:
        return


def is_drift(error: Exception) -> bool:
    """Whether an error says that a table or column is not what it was."""
    return isinstance(error, InvalidRequest)


def explain(error: Exception, keyspace: str) -> str:
    """An error of the driver in words that may be logged: it never repeats a value."""
    if is_drift(error):
        return f"the keyspace {keyspace} is not what this code knows ({type(error).__name__})"
    name = type(error).__name__
    if isinstance(error, NoHostAvailable):
        # What a handshake fails by stands inside of it, by node; where no node took a session there are names only.
        inside = error.errors.values() if isinstance(error.errors, Mapping) else ()
        name += f" ({', '.join(sorted({type(one).__name__ for one in inside})) or 'no node takes a session'})"
    return f"Cassandra failed: {name}" if isinstance(error, DriverException) else f"failed: {name}"
