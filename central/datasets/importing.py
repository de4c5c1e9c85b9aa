"""From any known layout to the plain folder layout: all of it, or nothing."""

import csv
import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from central.datasets.extract import extract_files, extracts
from central.datasets.movielens import movielens_1m, movielens_100k, movielens_latest
from central.datasets.plain import INTERACTIONS, ITEMS, TEST, USERS, plain_folder
from central.datasets.rows import DEFAULT_REGION, ITEM_COLUMNS, InteractionRow, Source, UserRow, check_interaction
from central.datasets.streaming import StreamCard
from central.datasets.text import Archive, DatasetError
from central.datasets.xmarket import market_files, xmarket
from central.folders import staged_folder
from infra.contracts.events import EventType, enters_history
from infra.plumbing.files import write_atomically

CARD: Final = "dataset.json"
USERS_MIN: Final = 2
ITEMS_MIN: Final = 10
INTERACTIONS_MIN: Final = 50
SEQUENCE_MIN: Final = 3
"""A user needs this many interactions to be held out: one to test, one to validate, one to learn from."""
_REGION: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_CANONICAL: Final = (INTERACTIONS, ITEMS, USERS, TEST)

RowWriter = Callable[[tuple[str, ...]], object]


class DatasetCard(msgspec.Struct, frozen=True, kw_only=True):
    """What `dataset.json` says about a canonical folder. `sha256` covers all its files, in a fixed order."""

    name: str
    sha256: str
    users: int
    items: int
    """Of the catalogue, where there is one; else with an interaction."""
    interactions: int
    test_interactions: int = 0
    has_times: bool = True
    event_types: dict[str, int] = {}
    regions: dict[str, int] = {}
    catalogue: bool = False
    """Whether what `items.csv` names beyond the interactions is in the catalogue too (`Source.catalogue`)."""
    stream_interactions: int = 0
    """Of everybody, in `stream/`, where the folder itself holds a sample of the users; 0: it holds all."""
    unread_columns: tuple[str, ...] = ()
    """Columns of the interactions that mean nothing here: a rating under another name is not seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What has passed so far: per user the interactions that enter a history, the region, items, event types."""

    histories: Counter[str] = field(default_factory=Counter)
    regions: dict[str, str] = field(default_factory=dict)
    items: dict[str, None] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)


@contextmanager
def open_source(path: Path, *, name: str | None = None) -> Iterator[Source]:
    """The dataset at `path`, whatever known layout it has, called `name` or after its own layout or folder.

    Raises:
        DatasetError: nothing is there, or no layout fits.
    """
    with Archive(path=path) as archive:
        source = _detect(archive, path.resolve().name)
        yield dataclasses.replace(source, name=name) if name else source


def import_source(source: Source, out: Path) -> DatasetCard:
    """Writes `source` as a canonical folder to `out`; the folder appears whole or not at all.

    Raises:
        DatasetError: the source is not usable; nothing was written.
        ConflictError: `out` holds something that is not a dataset.
    """
    with staged_folder(out, marker=CARD) as staged:
        return _write(source, staged)


def import_into(source: Source, staged: Path, *, stream: StreamCard | None) -> DatasetCard:
    """Writes `source` into a folder that is being made and has its `stream/` already, if it is to have one.

    Raises:
        DatasetError: the source is not usable.
    """
    card = _write(source, staged)
    if stream is None:
        return card
    joint = hashlib.sha256(f"{card.sha256}{stream.sha256}".encode()).hexdigest()
    card = msgspec.structs.replace(card, sha256=joint, stream_interactions=stream.interactions)
    write_atomically(staged / CARD, msgspec.json.format(msgspec.json.encode(card)))
    return card


def check_source(source: Source) -> DatasetCard:
    """All that `import_source` checks, writing nothing; the card's `sha256` is of what would be written."""
    digests = {name: hashlib.sha256() for name in _CANONICAL}

    def writer(name: str) -> RowWriter:
        return csv.writer(_DigestFile(digests[name]), lineterminator="\n").writerow

    return _pass(source, writer, lambda: _joint_sha256({name: digest.digest() for name, digest in digests.items()}))


class _DigestFile:
    """A text file that keeps the hash of what was written to it, and nothing else."""

    def __init__(self, digest: "hashlib._Hash") -> None:
        self._digest = digest

    def write(self, text: str) -> int:
        self._digest.update(text.encode())
        return len(text)


def _detect(archive: Archive, folder: str) -> Source:
    if archive.find("interactions.csv"):
        return plain_folder(archive, name=folder)
    if extract_files(archive):
        return extracts(archive, name=folder)
    if archive.find("ml-100k.inter"):
        return movielens_100k(archive)
    if archive.find("ratings.dat"):
        return movielens_1m(archive)
    if archive.find("ratings.csv") and archive.find("movies.csv"):
        return movielens_latest(archive)
    if market_files(archive):
        return xmarket(archive)
    raise DatasetError(
        f"{archive.path} has no layout that is known here",
        fix="Give a plain folder (interactions.csv with user_id,item_id,timestamp), ML-1M (ratings.dat), "
        "MovieLens latest (ratings.csv, movies.csv), the recbole wheel (ml-100k.inter), XMarket (uk_5core.txt, ...) or "
        "extracts of regions (pseudonymous-REGION.ndjson).",
    )


def _write(source: Source, staged: Path) -> DatasetCard:
    files = {name: (staged / name).open("w", encoding="utf-8", newline="") for name in _CANONICAL}
    try:

        def joint() -> str:
            for file in files.values():
                file.flush()
            return _joint_sha256({name: _file_digest(staged / name) for name in _CANONICAL})

        card = _pass(source, lambda name: csv.writer(files[name], lineterminator="\n").writerow, joint)
    finally:
        for file in files.values():
            file.close()
    if source.test is None:
        (staged / TEST).unlink()
    write_atomically(staged / CARD, msgspec.json.format(msgspec.json.encode(card)))
    return card


def _pass(source: Source, writer: Callable[[str], RowWriter], sha256: Callable[[], str]) -> DatasetCard:
    """One pass over everything: check, write, count."""
    seen = _Seen()
    count = _pass_interactions(source, source.interactions(), source.interactions_file, writer(INTERACTIONS), seen)
    if not count:
        raise DatasetError(f"{source.interactions_file} holds no interaction", fix=f"At least {INTERACTIONS_MIN}.")
    tests = 0
    if source.test is not None:
        tests = _pass_interactions(source, source.test(), TEST, writer(TEST), seen)
    named = _pass_items(source, writer(ITEMS), seen)
    _pass_users(source, writer(USERS), seen)
    _check_enough(seen, count)
    return DatasetCard(
        name=source.name, sha256=sha256(), users=len(seen.histories), interactions=count,
        items=named if source.catalogue else len(seen.items), catalogue=source.catalogue,
        test_interactions=tests, has_times=source.has_times, event_types=dict(sorted(seen.kinds.items())),
        regions=dict(sorted(Counter(seen.regions[user] for user in seen.histories).items())),
        unread_columns=source.unread,
    )  # fmt: skip


def _pass_interactions(
    source: Source, rows: Iterator[tuple[int, InteractionRow, str]], name: str, write: RowWriter, seen: _Seen
) -> int:
    write(InteractionRow._fields if source.has_times else _without_time(InteractionRow._fields))
    count = 0
    for number, raw, region in rows:
        where = f"{name}, line {number}"
        row = check_interaction(raw, where=where, has_times=source.has_times)
        write(row if source.has_times else _without_time(row))
        count += 1
        seen.kinds[row.event_type] += 1
        seen.histories[row.user_id] += enters_history(EventType(row.event_type))
        seen.items.setdefault(row.item_id)
        if region:
            seen.regions.setdefault(row.user_id, _check_region(region, where))
    return count


def _without_time(row: tuple[str, ...]) -> tuple[str, ...]:
    return (*row[:2], *row[3:])


def _pass_items(source: Source, write: RowWriter, seen: _Seen) -> int:
    """Returns how many items were written: those that are named, and those with an interaction beyond."""
    known: set[str] = set()
    columns: tuple[str, ...] | None = None
    for number, row in source.items():
        _check_once(row.item_id, known, "item_id", f"{source.items_file}, line {number}")
        if columns is None:
            columns = tuple(name for name, _ in row.extra)
            write((*ITEM_COLUMNS, *columns))
        write((row.item_id, row.title, row.category, row.year, *(value for _, value in row.extra)))
    if columns is None:
        columns = ()
        write(ITEM_COLUMNS)
    unnamed = [item for item in seen.items if item not in known]
    for item in unnamed:
        write((item, "", "", "", *("" for _ in columns)))
    return len(known) + len(unnamed)


def _pass_users(source: Source, write: RowWriter, seen: _Seen) -> None:
    known: set[str] = set()
    columns: tuple[str, ...] | None = None
    for number, row in source.users():
        where = f"{source.users_file}, line {number}"
        _check_once(row.user_id, known, "user_id", where)
        if row.region:
            seen.regions[row.user_id] = _check_region(row.region, where)
        if columns is None:
            columns = tuple(name for name, _ in row.extra)
            write(("user_id", "region", *columns))
        write((row.user_id, seen.regions.setdefault(row.user_id, DEFAULT_REGION), *(value for _, value in row.extra)))
    if columns is None:
        columns = ()
        write(UserRow._fields[:2])
    for user in seen.histories:
        if user not in known:
            write((user, seen.regions.setdefault(user, DEFAULT_REGION), *("" for _ in columns)))


def _check_once(identifier: str, known: set[str], what: str, where: str) -> None:
    if not identifier:
        raise DatasetError(f"{where}: empty {what}", fix="Remove the row.")
    if identifier in known:
        raise DatasetError(f"{where}: {what} {identifier!r} is there twice", fix="Keep one row for each id.")
    known.add(identifier)


def _check_region(region: str, where: str) -> str:
    if not _REGION.fullmatch(region):
        raise DatasetError(
            f"{where}: region {region!r} is not a name", fix="Use lower-case letters, digits and -, 32 at most."
        )
    return region


def _check_enough(seen: _Seen, count: int) -> None:
    users = len(seen.histories)
    sequences = sum(length >= SEQUENCE_MIN for length in seen.histories.values())
    for what, found, least in (
        ("users", users, USERS_MIN),
        ("items", len(seen.items), ITEMS_MIN),
        ("interactions", count, INTERACTIONS_MIN),
        (f"users with {SEQUENCE_MIN} or more interactions", sequences, USERS_MIN),
    ):
        if found < least:
            raise DatasetError(
                f"{found} {what} are too few to train on", fix=f"At least {least} {what} are needed: bring more data."
            )


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _joint_sha256(digests: dict[str, bytes]) -> str:
    joint = hashlib.sha256()
    for name in _CANONICAL:
        joint.update(name.encode() + b"\0" + digests[name])
    return joint.hexdigest()
