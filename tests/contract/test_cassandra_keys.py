"""Rows on Cassandra under their subjects' keys: what the tables hold, and what goes with a key."""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from infra.contracts.events import EventType
from infra.plumbing.clock import ManualClock
from region.store.applying import ApplyRules
from region.store.cassandra import CassandraStore
from region.store.keyspace import StoreSchemaError
from region.store.port import Erasure, Interactions, OffsetEvent, StoreUnavailableError, UserRow
from region.store.state import encode_erasure
from region.store.subjects import erasure_mark
from tests.contract.building import NOW_MS, placed
from tests.support.keeping import row_seals
from tests.support.keyspaces import Keyspace
from tests.support.servers import Servers

CLOCK = ManualClock(wall_ms=NOW_MS)
NUMBERS = itertools.count()


class Opened:
    """Stores over one keyspace and one region's key, closed together; the first two are `store` and `other`."""

    def __init__(self, keyspace: Keyspace, directory: Path) -> None:
        self.keyspace = keyspace
        self.registry = CollectorRegistry()
        self._directory = directory
        self._all: list[CassandraStore] = []
        self.store, self.other = self.another(registry=self.registry), self.another()

    def another(self, *, sealed: bool = True, registry: CollectorRegistry | None = None) -> CassandraStore:
        seals = row_seals(self._directory, clock=CLOCK) if sealed else None
        made = CassandraStore(
            self.keyspace.address, clock=CLOCK, rules=ApplyRules(history_max=5), registry=registry, read_timeout_s=10.0,
            scan_timeout_s=20.0, write_timeout_s=30.0, seals=seals,
        )  # fmt: skip
        self._all.append(made)
        return made

    def table(self, columns: str = "content, notes") -> list[Any]:
        """What lies in the table of rows."""
        return list(self.keyspace.session.execute(f"SELECT {columns} FROM {self.keyspace.name}.rows"))

    def do(self, statement: str, values: tuple[Any, ...] = ()) -> None:
        """Run a statement; `{}` stands for the keyspace."""
        self.keyspace.session.execute(statement.format(self.keyspace.name), values)

    async def erase_key(self, subject: str) -> None:
        """As another process does that erases somebody: the key first."""
        seals = self.other._rows._seals._seals
        assert seals is not None
        assert await seals.forget(subject) == 1

    async def close(self) -> None:
        for one in self._all:
            await one.close()


@pytest.fixture(scope="module")
def opened(keyspace: Keyspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """For all tests of this file: emptying the tables takes longer than they do. Each has people of its own."""
    keyspace.empty()
    made = Opened(keyspace, tmp_path_factory.mktemp("keys"))
    yield made
    asyncio.run(made.close())


@dataclass(frozen=True)
class People:
    """Somebody and somebody else, whose events are in a partition of their own."""

    number: int

    @property
    def alice(self) -> str:
        return f"{2 * self.number:032x}"

    @property
    def bob(self) -> str:
        return f"{2 * self.number + 1:032x}"

    def event(self, offset: int, *, of_bob: bool = False, **given: Any) -> OffsetEvent:
        return placed(offset, subject=self.bob if of_bob else self.alice, partition=self.number, **given)

    def erasure(self, *, through: int = 99, erased_ms: int = NOW_MS) -> Erasure:
        return Erasure(erased_ms=erased_ms, through={self.number: through})


@pytest.fixture
def people(request: pytest.FixtureRequest) -> People:
    return People(1 + next(NUMBERS))


async def items_of(store: CassandraStore, subject: str) -> list[str]:
    row = await store.read(subject)
    return [entry.item for entry in row.history] if row is not None else []


async def test_the_table_says_nothing_of_what_a_row_holds_and_every_process_reads_it(
    opened: Opened, people: People
) -> None:
    event = people.event(1, item="lamp-of-alice", categories=("Secret drama",))
    await opened.store.apply([event, people.event(2, of_bob=True)])
    lying = b"".join(content + notes for content, notes in opened.table())
    assert lying
    assert not any(word in lying for word in (b"lamp-of-alice", b"Secret drama", people.alice.encode()))
    assert await items_of(opened.other, people.alice) == ["lamp-of-alice"]
    walked = await opened.other.walk(after="", limit=10)
    assert {people.alice, people.bob} <= {row.subject for row in walked.rows}


async def test_a_copy_of_a_row_from_before_its_key_was_erased_opens_for_nobody(opened: Opened, people: People) -> None:
    await opened.store.apply([people.event(1, item="a"), people.event(2, item="b", of_bob=True)])
    columns = "subject, revision, version, content, notes"
    (copy,) = [row for row in opened.table(columns) if row[0] == people.alice]
    await opened.erase_key(people.alice)
    forgotten = await opened.other.forget(people.alice, people.erasure())
    assert (forgotten.rows, forgotten.erasure.version) == (1, 2), "above every version that an edge has seen"
    opened.do(f"INSERT INTO {{}}.rows ({columns}) VALUES (%s, %s, %s, %s, %s)", copy)
    await opened.store.renew()  # as each process does behind an erasure
    row = await opened.store.read(people.alice)
    assert row is not None
    assert (row.version, len(row.history)) == (2, 0), "the mark, and nothing of before"
    assert await items_of(opened.store, people.bob) == ["b"]
    assert opened.registry.get_sample_value("atoll_store_unopened_total", {"cause": "key erased"}) == 1
    assert await opened.other.holds(people.alice) == 1, "an erasure that is repeated finds the copy"
    assert (await opened.other.forget(people.alice, people.erasure())).rows == 1


async def test_who_comes_back_has_a_new_key_with_a_worker_that_remembers_the_old_one(
    opened: Opened, people: People
) -> None:
    await opened.store.apply([people.event(1, item="before")])
    await opened.erase_key(people.alice)
    await opened.other.forget(people.alice, people.erasure(through=1, erased_ms=NOW_MS + 1))
    await opened.store.apply([people.event(2, item="after", at_ms=NOW_MS + 9)])
    assert await items_of(opened.store, people.alice) == await items_of(opened.other, people.alice) == ["after"]


def before_the_first_write(
    opened: Opened, happens: Callable[[str], Awaitable[object]], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Have something happen to a subject after its row was read and before it is written, once; to whom it did."""
    save = opened.store._rows.save
    happened: list[str] = []

    async def late(subject: str, state: Any, revision: int | None) -> bool:
        if not happened:
            happened.append(subject)
            await happens(subject)
        return await save(subject, state, revision)

    monkeypatch.setattr(opened.store._rows, "save", late)
    return happened


@pytest.mark.parametrize("opted_out", [True, False])
async def test_a_choice_made_while_somebody_is_erased_holds(
    opened: Opened, people: People, opted_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opened.store.apply([people.event(1, item="before")])
    # The key goes between the look and the write; the row stands as it stood.
    before_the_first_write(opened, opened.erase_key, monkeypatch)
    version = await opened.store.set_opt_out(people.alice, opted_out=opted_out)
    row = await opened.other.read(people.alice)
    assert row is not None
    assert (row.opted_out, row.version, len(row.history)) == (opted_out, version, 0)
    changes = await opened.other.apply([people.event(5, kind=EventType.LIKE)])
    assert bool(changes) is not opted_out, "nothing of who opted out has an effect"


@pytest.mark.parametrize("kind", ["event", "import", "choice"])
async def test_a_first_row_that_is_written_while_its_subject_is_erased_holds_nothing_of_before(
    opened: Opened, people: People, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no row before and none behind the erasure, so no update finds that somebody else wrote it."""
    erased = before_the_first_write(
        opened, lambda subject: opened.other.forget(subject, people.erasure(erased_ms=NOW_MS + 9)), monkeypatch
    )
    if kind == "choice":
        assert await opened.store.set_opt_out(people.alice, opted_out=True) == 2, "above what edges were told"
        assert await opened.other.holds(people.alice) == 1
        return
    if kind == "event":
        assert await opened.store.apply([people.event(1, item="before")]) == []
    else:
        history = Interactions(("before",), (5,), (NOW_MS,))
        await opened.store.write_rows([UserRow(subject=people.alice, history=history)])
    assert (len(erased), await opened.other.holds(people.alice)) == (1, 0)
    assert await items_of(opened.other, people.alice) == []


async def test_what_an_erased_key_was_leaves_the_tables_files(opened: Opened, people: People, servers: Servers) -> None:
    """In an hour of a test's: what is written becomes a file after a tenth of a second instead of a minute."""
    for table in ("subject_keys", "keys_by_handle"):
        opened.do(f"ALTER TABLE {{}}.{table} WITH memtable_flush_period_in_ms = 100")
    await opened.store.apply([people.event(1)])
    (wrapped,) = [
        row[1]
        for row in opened.keyspace.session.execute(
            f"SELECT subject, wrapped FROM {opened.keyspace.name}.keys_by_handle"
        )
        if row[0] == people.alice
    ]
    folder = servers.cassandra.data / "data" / opened.keyspace.name
    await until_in_files(folder, wrapped[-16:], there=True)
    await opened.erase_key(people.alice)
    await until_in_files(folder, wrapped[-16:], there=False)


async def until_in_files(folder: Path, piece: bytes, *, there: bool) -> None:
    """Wait until a piece of a random key stands in a table's data file, or in none."""
    async with asyncio.timeout(60):
        while stands_in_tables(folder, piece) is not there:  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.1)


def stands_in_tables(folder: Path, piece: bytes) -> bool:
    for path in folder.rglob("*-Data.db"):
        with contextlib.suppress(FileNotFoundError):  # compacted away meanwhile
            if piece in path.read_bytes():
                return True
    return False


async def test_a_value_in_another_place_does_not_open(opened: Opened, people: People) -> None:
    await opened.store.apply([people.event(1, item="a")])
    (notes,) = [row[1] for row in opened.table("subject, notes") if row[0] == people.alice]
    opened.do("UPDATE {}.rows SET content = %s WHERE subject = %s", (notes, people.alice))
    assert await opened.store.read(people.alice) is None
    assert opened.registry.get_sample_value("atoll_store_unopened_total", {"cause": "changed"}) == 1


async def test_rows_of_before_there_were_keys_are_read_and_put_under_them(opened: Opened, people: People) -> None:
    plain = opened.another(sealed=False)
    await plain.apply([people.event(1, item="a"), people.event(2, item="b", of_bob=True)])
    assert await items_of(opened.store, people.alice) == ["a"]
    assert await opened.store.seal_rows() == 2
    assert await opened.store.seal_rows() == 0
    assert all(content[0] == 1 for content, _ in opened.table() if content is not None)
    (left_s,) = [row[1] for row in opened.table("subject, TTL(content)") if row[0] == people.alice]
    assert 0 < left_s <= ApplyRules().behaviour_life_ms // 1000
    assert [await items_of(opened.other, one) for one in (people.alice, people.bob)] == [["a"], ["b"]]
    await opened.store.apply([people.event(3, number=1, item="a")])
    assert await items_of(opened.other, people.alice) == ["a"], "ids of events are remembered"
    with pytest.raises(StoreUnavailableError, match="opened without keys"):
        await plain.read(people.alice)


async def test_rows_without_any_keys_are_not_taken_for_those_of_erased_people(opened: Opened, people: People) -> None:
    await opened.store.apply([people.event(1, item="a")])
    for table in ("subject_keys", "keys_by_handle"):
        opened.do(f"TRUNCATE {{}}.{table}")
    with pytest.raises(StoreSchemaError, match="there are no keys") as caught:
        await opened.another().set_opt_out(people.alice, opted_out=True)
    assert "backed up apart" in caught.value.fix
    # Of somebody who was erased a row without a key is no wonder.
    for (subject,) in opened.table("subject"):
        mark = (erasure_mark(subject), encode_erasure(people.erasure()))
        opened.do("INSERT INTO {}.erasures (mark, content) VALUES (%s, %s)", mark)
    assert await opened.another().erasure(people.alice) == people.erasure()
