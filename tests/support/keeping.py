"""Keys for tests: a region's key file, and what is opened with it."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from infra.plumbing.clock import Clock, ManualClock
from infra.plumbing.keys import RegionKeys
from region.keeping.files import FileKeys
from region.keeping.sealing import Seals
from region.keeping.subject_keys_cassandra import CassandraSubjectKeys
from region.keeping.subject_keys_sqlite import SqliteSubjectKeys
from region.keeping.wrapping import FileWrapping
from region.privacy.bulk import BulkReads
from region.store.cassandra_link import CassandraLink


def key_file(directory: Path, keys: RegionKeys | None = None) -> Path:
    """The region's key file beside `directory`, made when it is not there."""
    path = directory.with_name(f"{directory.name}.keys.json")
    if not path.exists():
        (keys if keys is not None else RegionKeys.generate("us-east")).save(path)
    return path


def file_keys(directory: Path) -> FileKeys:
    """The keys of the files in a directory."""
    return FileKeys(FileWrapping(key_file(directory)))


def subject_keys(directory: Path) -> SqliteSubjectKeys:
    """Subjects' keys in a directory."""
    return SqliteSubjectKeys(directory, wrapping=FileWrapping(key_file(directory)))


def seals(directory: Path, *, clock: Clock | None = None) -> Seals:
    """Seals over `subject_keys`."""
    return Seals(subject_keys(directory), clock=clock if clock is not None else ManualClock())


def row_seals(directory: Path, *, clock: Clock | None = None) -> Callable[[CassandraLink], Seals]:
    """What makes the seals of a store on Cassandra."""
    wrapping = FileWrapping(key_file(directory))

    def made(link: CassandraLink) -> Seals:
        keys = CassandraSubjectKeys(link, wrapping=wrapping, life_days=400)
        return Seals(keys, clock=clock if clock is not None else ManualClock())

    return made


class NotedReads(BulkReads):
    """Bulk reads whose account is a list in memory: (who, action, outcome, detail)."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, str, str, str]] = []

        def append(*, who: str, action: str, outcome: str, detail: str) -> None:
            self.noted.append((who, action, outcome, detail))

        super().__init__(SimpleNamespace(append=append), key=b"key")  # type: ignore[arg-type]  # the one call made of it
