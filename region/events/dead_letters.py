"""The dead-letter log: records that could not be applied, with the reason, until somebody replays or forgets them.

One SQLite file of the node whose worker met them, beside its state: what could not be applied is as resident as what
could. With `seals` a letter lies under its subject's key, as the record does in the log. It is bounded, and beyond the
bound the oldest go and are counted; it forgets with the log's own retention.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, Counter

from infra.contracts.events import LoggedEvent
from infra.contracts.residency import Global, Regional, RegionalMessage
from region.events.port import Log, LogUnavailableError
from region.events.records import decode_record
from region.keeping.deposits import Deposit, in_file
from region.keeping.files import FileKeys
from region.keeping.sealing import Seals
from region.privacy.bulk import Touch, untouched
from region.store.database import Database, scrub, transaction
from region.store.driver import sqlite3
from region.store.lane import Lane, LaneMetrics
from region.store.port import OffsetEvent
from region.store.subjects import erasure_mark

LETTERS_MAX = 10_000
DEAD_LETTERS = Database(
    name="dead-letter log", application_id=0x41544C44, sql=Path(__file__).parent / "dead_letters_sql",
    synchronous="FULL",
)  # fmt: skip
_TIMEOUT_S = 10.0
_PAGE = 200
_Row = tuple[int, int, int, str, bytes]
"""Partition, offset, when it was noted, why, and what it says as it is kept."""


class DeadLetter(RegionalMessage, frozen=True, kw_only=True):
    """A record that could not be applied, and why."""

    partition: Regional[int]
    offset: Regional[int]
    noted_ms: Regional[int]
    reason: Global[str]
    content: Regional[bytes]


class LettersReport(RegionalMessage, frozen=True, kw_only=True):
    """What came of replaying the dead letters."""

    replayed: Global[int]
    left: Global[int]
    reasons: Global[dict[str, int]]
    """Why those that are left still cannot be applied, with how many."""


class DeadLetters:
    """The file at `path`; made when it is not there.

    Raises:
        SettingsError: the file cannot be used; says what to do.
    """

    def __init__(
        self, path: Path, *, registry: CollectorRegistry | None = None, letters_max: int = LETTERS_MAX,
        keys: FileKeys | None = None, seals: Seals | None = None,
    ) -> None:  # fmt: skip
        self._seals = seals
        registry = registry if registry is not None else CollectorRegistry()
        DEAD_LETTERS.prepare(path, keys)
        self._remains = ""
        self._queries = DEAD_LETTERS.queries()
        self._letters_max = letters_max
        self._lane = Lane(
            name="dead-letters", connect=partial(DEAD_LETTERS.connect, path, read_only=False, keys=keys),
            queue_max=100, error_type=LogUnavailableError, metrics=LaneMetrics(registry, "atoll_dead_letters"),
        )  # fmt: skip
        self._noted = Counter("atoll_dead_letters_noted", "Records that could not be applied.", registry=registry)
        self._dropped = Counter(
            "atoll_dead_letters_dropped", "Dead letters that went because there were too many.", registry=registry
        )

    async def add(self, records: Sequence[OffsetEvent], *, now_ms: int) -> None:
        """Keep broken records; the same place is kept once. Returns when they are on the disk.

        Raises:
            LogUnavailableError: they are not.
        """
        rows = [
            (one.partition, one.offset, now_ms, one.broken, *await self._kept(one.content)) for one in records
        ]  # fmt: skip

        def work(connection: sqlite3.Connection) -> int:
            with transaction(connection):
                connection.executemany(self._queries["add_letter"], rows)
                return connection.execute(self._queries["drop_oldest"], (self._letters_max,)).rowcount

        self._dropped.inc(await self._lane.call(work, timeout_s=_TIMEOUT_S))
        self._noted.inc(len(rows))

    async def count(self) -> int:
        """How many there are."""

        def work(connection: sqlite3.Connection) -> int:
            return int(connection.execute(self._queries["count_letters"]).fetchone()[0])

        return await self._lane.call(work, timeout_s=_TIMEOUT_S)

    async def letters(self) -> AsyncIterator[DeadLetter]:
        """All of them by place, a page at a time."""
        after = (-1, -1)
        while page := await self._page(after):
            for letter in page:
                yield letter
            after = (page[-1].partition, page[-1].offset)

    async def remove(self, letter: DeadLetter) -> None:
        """Forget one."""
        await self._execute("remove_letter", letter.partition, letter.offset)

    async def count_of(self, subject: str) -> int:
        """How many say a subject's name, read or unreadable."""

        def work(connection: sqlite3.Connection) -> int:
            return int(connection.execute(self._queries["count_subject"], _names(subject)).fetchone()[0])

        return await self._lane.call(work, timeout_s=_TIMEOUT_S)

    async def of_subject(self, subject: str) -> list[DeadLetter]:
        """Those that say a subject's name, by place."""
        return await self._letters(
            lambda connection: connection.execute(self._queries["letters_of_subject"], _names(subject)).fetchall()
        )

    async def forget(self, subject: str) -> int:
        """Erase those that say a subject's name; returns how many."""
        return await self._execute("forget_subject", *_names(subject))

    async def scrub(self) -> str:
        """See `region.store.database.scrub`."""
        self._remains = await self._lane.call(scrub, timeout_s=_TIMEOUT_S)
        return self._remains

    async def deposits(self, *, erased_ms: int) -> tuple[Deposit, ...]:  # noqa: ARG002
        """The file, as the last scrub left it. Letters are in no topic: whatever the log is, they lie here only."""
        return in_file("the dead letters' file and its write-ahead log", remains=self._remains)

    async def expire(self, *, before_ms: int) -> int:
        """Forget those noted before a moment; returns how many."""
        return await self._execute("expire_letters", before_ms)

    async def renew(self) -> None:
        """Open connections anew: what they held in memory is freed."""
        await self._lane.renew()

    async def close(self) -> None:
        """Let go of the file."""
        await self._lane.close()

    async def _page(self, after: tuple[int, int]) -> list[DeadLetter]:
        def work(connection: sqlite3.Connection) -> list[_Row]:
            return connection.execute(self._queries["list_letters"], (*after, _PAGE)).fetchall()

        return await self._letters(work)

    async def _letters(self, find: Callable[[sqlite3.Connection], list[_Row]]) -> list[DeadLetter]:
        return [
            DeadLetter(
                partition=partition,
                offset=offset,
                noted_ms=noted_ms,
                reason=reason,
                content=await self._opened(content),
            )
            for partition, offset, noted_ms, reason, content in await self._lane.call(find, timeout_s=_TIMEOUT_S)
        ]

    async def _kept(self, content: bytes) -> tuple[bytes, str]:
        """A letter's content as it is kept, and its subject's mark; as it came when nobody can tell whose it is."""
        record = decode_record(0, content)
        if record.broken:
            return content, ""
        subject = record.logged.subject
        kept = content if self._seals is None else await self._seals.seal_content(subject, content)
        return kept, erasure_mark(subject)

    async def _opened(self, content: bytes) -> bytes:
        return content if self._seals is None else await self._seals.open_content(content)

    async def _execute(self, query: str, *wanted: int | str | bytes) -> int:
        def work(connection: sqlite3.Connection) -> int:
            return connection.execute(self._queries[query], wanted).rowcount

        return await self._lane.call(work, timeout_s=_TIMEOUT_S)


def _names(subject: str) -> tuple[str, bytes]:
    """By what a letter is found: its mark, or the name in one of before there were marks, or that nobody could read."""
    return erasure_mark(subject), subject.encode()


async def replay_letters(letters: DeadLetters, log: Log, *, touch: Touch = untouched) -> LettersReport:
    """Append what this code can read to the log again, and forget it here.

    The record gets an event id of its own, made from its content: the log has the old id already, while the store
    has never applied it. So a replay that is cut short may be repeated, and each record counts once. `touch` is told of
    every record that could be read.

    Raises:
        LogUnavailableError: the log takes nothing now; what was replayed stays replayed.
    """
    replayed = left = 0
    reasons: dict[str, int] = {}
    async for letter in letters.letters():
        record = decode_record(letter.offset, letter.content, partition=letter.partition)
        if record.broken:
            left += 1
            reasons[record.broken] = reasons.get(record.broken, 0) + 1
            continue
        touch("letters", record.logged.subject)
        await log.append([renamed(record.logged, letter.content)])
        await letters.remove(letter)
        replayed += 1
    return LettersReport(replayed=replayed, left=left, reasons=reasons)


def renamed(logged: LoggedEvent, content: bytes) -> LoggedEvent:
    """The record under an id made from its content."""
    digest = hashlib.blake2b(content, digest_size=20).hexdigest()
    return msgspec.structs.replace(logged, event=msgspec.structs.replace(logged.event, event_id=f"dead.{digest}"))
