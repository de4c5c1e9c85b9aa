"""What only the store on Cassandra has to show: kills between its writes, lives, lost nodes, drifted schemas."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from infra.contracts.events import EventType
from infra.plumbing.addresses import PartAddress
from infra.plumbing.clock import ManualClock, SystemClock
from infra.plumbing.errors import SettingsError
from region.keeping.deposits import Fate
from region.store import cassandra as cassandra_store
from region.store.__main__ import main
from region.store.applying import ApplyRules
from region.store.cassandra import CassandraStore
from region.store.cassandra_loop import LoopConnection
from region.store.keyspace import StoreSchemaError, migrate, migrations
from region.store.memory import MemoryStore
from region.store.port import OffsetEvent, Store, StoreUnavailableError
from tests.contract.building import ALICE, BOB, NOW_MS, VISITOR, placed
from tests.support.keeping import key_file, row_seals
from tests.support.keyspaces import Keyspace

CLOCK = ManualClock(wall_ms=NOW_MS)
RULES = ApplyRules(history_max=5)


def opened(address: PartAddress, rules: ApplyRules = RULES, **limits: Any) -> CassandraStore:
    given = {"read_timeout_s": 10.0, "scan_timeout_s": 20.0, "write_timeout_s": 30.0} | limits
    return CassandraStore(address, clock=CLOCK, rules=rules, **given)


class KilledError(Exception):
    """Stands for a SIGKILL: nothing behind it happens."""


class Dying(CassandraStore):
    """Dies before or after its write number `die_at`."""

    def arm(self, die_at: int, *, after: bool) -> None:
        self.left, self.after, ask = die_at, after, self._link.ask

        async def dying(query: str, values: Sequence[Any], *, timeout_s: float) -> list[tuple[Any, ...]]:
            if not query.startswith("save_"):
                return await ask(query, values, timeout_s=timeout_s)
            self.left -= 1
            if self.left < 0 or (self.left == 0 and not self.after):
                raise KilledError
            found = await ask(query, values, timeout_s=timeout_s)
            if self.left == 0:
                raise KilledError
            return found

        self._link.ask = dying  # type: ignore[method-assign]


EVENTS = [
    placed(1, item="a", categories=("Drama",)), placed(2, item="b", subject=BOB), placed(3, kind=EventType.IMPRESSION),
    placed(4, item="a", kind=EventType.PURCHASE), placed(5, number=1, item="a"), placed(6, item="c", subject=VISITOR),
]  # fmt: skip


async def everything(store: Store) -> tuple[Any, ...]:
    return (
        [await store.read(subject) for subject in (ALICE, BOB, VISITOR)],
        await store.trending(since_ms=0, limit=9),
        await store.trending(since_ms=0, limit=9, category="Drama"),
        await store.item_counters(since_ms=0, limit=9),
        await store.applied_offsets(),
    )


async def expected(events: Sequence[OffsetEvent]) -> tuple[Any, ...]:
    memory = MemoryStore(clock=CLOCK, history_max=5)
    await memory.apply(events)
    return await everything(memory)


@pytest.mark.parametrize("after", [False, True])
async def test_killed_at_every_write_and_repeated_in_other_batches_it_counts_once(
    keyspace: Keyspace, tmp_path: Path, after: bool
) -> None:
    seals = row_seals(tmp_path) if after else None
    whole = await expected(EVENTS)
    died = True
    die_at = 0
    while died:
        die_at += 1
        keyspace.empty()
        dying = Dying(
            keyspace.address, clock=CLOCK, rules=RULES, read_timeout_s=10.0, scan_timeout_s=20.0, write_timeout_s=30.0,
            seals=seals,
        )  # fmt: skip
        await dying.applied_offsets()
        dying.arm(die_at, after=after)
        try:
            await dying.apply(EVENTS)
            died = False
        except KilledError:
            pass
        await dying.close()
        again = opened(keyspace.address, seals=seals)
        for cut in (2, 4, 6):  # the log hands them out in other batches than the first time
            await again.apply(EVENTS[:cut])
        assert await everything(again) == whole, f"write {die_at}"
        await again.close()
    assert die_at > 8


async def test_whose_row_was_written_before_a_kill_is_told_of_again(keyspace: Keyspace) -> None:
    keyspace.empty()
    store = opened(keyspace.address)
    await store.apply([placed(1, item="a")])
    keyspace.session.execute(f"TRUNCATE {keyspace.name}.progress")
    (change,) = await store.apply([placed(1, item="a")])
    assert (change.subject, change.version, change.consumed) == (ALICE, 1, ("a",))
    await store.close()


async def test_an_opt_out_in_the_middle_of_a_batch_is_not_undone(keyspace: Keyspace, tmp_path: Path) -> None:
    keyspace.empty()
    worker, api = (opened(keyspace.address, seals=row_seals(tmp_path)) for _ in range(2))
    await worker.apply([placed(1, item="before")])
    save = worker._rows.save
    raced = 0

    async def late(subject: str, state: Any, revision: int | None) -> bool:
        nonlocal raced
        if not raced:
            raced += 1
            await api.set_opt_out(ALICE, opted_out=True)
        return await save(subject, state, revision)

    worker._rows.save = late  # type: ignore[method-assign]
    assert await worker.apply([placed(2, item="while")]) == []
    row = await api.read(ALICE)
    assert row is not None
    assert (row.opted_out, row.version, [entry.item for entry in row.history]) == (True, 2, ["before"])
    await worker.close()
    await api.close()


async def test_a_value_that_comes_late_loses(keyspace: Keyspace) -> None:
    keyspace.empty()
    one = opened(keyspace.address)
    await one.apply([placed(1, item="a"), placed(2, item="a", subject=BOB)])
    whole = await everything(one)
    late = await expected([placed(1, item="a")])
    slow = MemoryStore(clock=CLOCK, history_max=5)
    await slow.apply([placed(1, item="a")])
    for key, content in slow._aggregates.items():
        await one._save_aggregate((key, content))
    await one._link.ask("save_offset", (0, 1, 1), timeout_s=10)
    assert late != whole
    assert await everything(one) == whole
    await one.close()


async def until_gone(store: Store, subject: str) -> None:
    async with asyncio.timeout(60):
        while await store.read(subject) is not None:  # noqa: ASYNC110 - the server's own clock tells nobody
            await asyncio.sleep(0.05)


async def test_rows_run_out_and_the_bare_choice_stays(keyspace: Keyspace) -> None:
    keyspace.empty()
    rules = replace(RULES, session_life_ms=1000, behaviour_life_ms=1000)
    store = opened(keyspace.address, rules)
    now_ms = SystemClock().now_ms()
    await store.apply(
        [placed(offset, subject=subject, received_ms=now_ms) for offset, subject in enumerate((ALICE, BOB, VISITOR), 1)]
    )
    chosen = await store.set_opt_out(BOB, opted_out=True)  # of a row that a slow machine may have lost by now
    for subject in (ALICE, VISITOR):
        await until_gone(store, subject)
    async with asyncio.timeout(60):
        while (bob := await store.read(BOB)) is not None and bob.history:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
    assert bob is not None
    assert (bob.opted_out, bob.version, len(bob.history)) == (True, chosen, 0)
    assert await store.apply([placed(9, subject=BOB)]) == [], "still opted out"
    assert await store.set_opt_out(BOB, opted_out=False) == chosen + 1, "the version goes on"
    assert await store.expire(sessions_before_ms=now_ms, counts_before_ms=now_ms) == 0
    await store.close()


async def test_without_a_node_calls_fail_at_once_and_say_so() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = PartAddress("cassandra", (("127.0.0.1", nobody.getsockname()[1]),), "none", {"data_center": "x"})
        registry = CollectorRegistry()
        store = CassandraStore(address, clock=CLOCK, rules=RULES, registry=registry, read_timeout_s=5.0)
        for _ in range(3):
            with pytest.raises(StoreUnavailableError, match="not connected"):
                await store.read(ALICE)
        with pytest.raises(StoreUnavailableError, match="not connected"):
            await store.applied_offsets()
        labels = {"lane": "cassandra", "cause": "unreachable"}
        assert registry.get_sample_value("atoll_store_unavailable_total", labels) == 4
        await store.close()


async def test_no_answer_in_time_is_unavailable_and_the_next_call_is_served(
    keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyspace.empty()
    store = opened(keyspace.address)
    await store.apply([placed(1)])
    store._read_timeout_s = 0.01
    with monkeypatch.context() as deaf:
        deaf.setattr(LoopConnection, "process_io_buffer", lambda _connection: None)
        with pytest.raises(StoreUnavailableError, match="did not answer within"):
            await store.read(ALICE)
    store._read_timeout_s = 10.0
    assert await store.read(ALICE) is not None
    await store.close()


async def test_the_driver_knows_whose_row_is_where(keyspace: Keyspace) -> None:
    store = opened(keyspace.address)
    await store.read(ALICE)
    cluster = store._link._cluster
    assert cluster is not None
    assert [host.datacenter for host in cluster.metadata.get_replicas(keyspace.name, ALICE.encode())]
    await store.close()


def test_a_store_goes_on_when_its_loop_has_ended(keyspace: Keyspace) -> None:
    store = opened(keyspace.address)  # no loop runs yet: it connects at the first call
    for _ in range(2):
        assert asyncio.run(store.applied_offsets()) is not None
    asyncio.run(store.close())


async def test_the_nodes_say_themselves_where_bytes_of_a_row_may_lie(keyspace: Keyspace, tmp_path: Path) -> None:
    store = opened(keyspace.address, seals=row_seals(tmp_path))
    await store.read(ALICE)
    found = {one.where: one for one in await store.deposits(erased_ms=NOW_MS)}
    assert Fate.UNKNOWN not in {one.fate for one in found.values()}, found
    assert "gc_grace_seconds=864000" in found["data files of rows: what they say"].until
    assert "commitlog_total_space=" in found["commit log"].proof
    assert "hinted_handoff_enabled=" in found["hints for nodes that were away"].proof
    assert found["snapshots"].fate is Fate.GONE
    await store.close()


async def test_too_many_calls_are_refused(keyspace: Keyspace) -> None:
    keyspace.empty()
    store = opened(keyspace.address)
    await store.read(ALICE)
    store._link._in_flight_max = 4
    outcomes = await asyncio.gather(*(store.read(ALICE) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(one, StoreUnavailableError) for one in outcomes) == 16
    assert await store.read(ALICE) is None
    await store.close()


async def test_a_drifted_schema_is_said_with_the_fix(keyspace: Keyspace) -> None:
    address = replace(keyspace.address, name=f"{keyspace.name}_drift")
    migrate(keyspace.session, address, holder="test")
    store = opened(address)
    await store.apply([placed(1)])
    keyspace.session.execute(f"ALTER TABLE {address.name}.rows DROP notes")
    with pytest.raises(StoreSchemaError) as caught:
        await store.apply([placed(2)])
    assert "region.store check" in caught.value.fix
    keyspace.session.execute(f"DROP KEYSPACE {address.name}")
    await store.close()


async def test_a_newer_or_missing_schema_is_refused_at_the_start(
    keyspace: Keyspace, caplog: pytest.LogCaptureFixture
) -> None:
    missing = replace(keyspace.address, name="never_made", options={**keyspace.address.options, "migrate": "manual"})
    store = opened(missing)
    with pytest.raises(StoreSchemaError, match="has schema 0") as caught:
        await store.read(ALICE)
    assert "region.store migrate" in caught.value.fix
    await store.close()
    told = [one.getMessage() for one in caplog.records if "cannot be used" in one.getMessage()]
    assert len(told) == 1, "once, however often it is tried"
    assert "has schema 0" in told[0]
    assert "./atoll store migrate" in told[0], "whoever starts the node reads the fix in its log"
    newer = replace(keyspace.address, name=f"{keyspace.name}_newer")
    migrate(keyspace.session, newer, holder="test")
    keyspace.session.execute(f"INSERT INTO {newer.name}.schema_version (one, version) VALUES (1, 99)")
    store = opened(newer)
    with pytest.raises(StoreSchemaError, match="has schema 99"):
        await store.read(ALICE)
    keyspace.session.execute(f"DROP KEYSPACE {newer.name}")
    await store.close()


async def test_sums_over_items_are_made_beside_the_loop(keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: dict[str, int] = {}

    def noted(name: str, whole: Callable[..., Any]) -> Callable[..., Any]:
        def made(*given: Any, **named: Any) -> Any:
            threads[name] = threading.get_ident()
            return whole(*given, **named)

        return made

    for name in ("merge_trends", "sum_counters"):
        monkeypatch.setattr(cassandra_store, name, noted(name, getattr(cassandra_store, name)))
    store = opened(keyspace.address)
    await everything(store)
    assert set(threads) == {"merge_trends", "sum_counters"}
    assert threading.get_ident() not in threads.values()
    await store.close()


def test_names_that_cannot_stand_in_a_statement_are_refused(keyspace: Keyspace) -> None:
    for name, center in (("a;drop", "x"), ("Upper", "x"), ("fine", "x'y")):
        address = PartAddress("cassandra", (("127.0.0.1", 1),), name, {"data_center": center})
        with pytest.raises(SettingsError, match="cannot be a keyspace"):
            migrate(keyspace.session, address, holder="test")


async def test_processes_that_start_together_migrate_once(keyspace: Keyspace) -> None:
    address = replace(keyspace.address, name=f"{keyspace.name}_race")
    stores = [opened(address, read_timeout_s=60.0) for _ in range(4)]
    assert await asyncio.gather(*(store.read(ALICE) for store in stores)) == [None] * 4
    for store in stores:
        await store.close()
    keyspace.session.execute(f"DROP KEYSPACE {address.name}")


def test_the_command_checks_and_migrates(
    keyspace: Keyspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{keyspace.name}_command"
    host, port = keyspace.address.hosts[0]
    settings = {
        "node": "n", "region": "r", "port": 0, "worker_port": 0, "state_directory": "", "repository_url": "",
        "trusted_root": "", "keys_file": "", "trust_file": "", "grid": "memory",
        "store": f"cassandra://{host}:{port}/{name}?data_center={keyspace.address.option('data_center')}",
    }  # fmt: skip
    path = tmp_path / "region.json"
    path.write_text(json.dumps(settings))
    assert main(["check", "--settings", str(path)]) == 2
    assert "region.store migrate" in capsys.readouterr().err
    assert main(["migrate", "--settings", str(path)]) == 0
    path.write_text(json.dumps({**settings, "keys_file": str(key_file(tmp_path))}))
    assert main(["seal", "--settings", str(path)]) == 0
    assert "0 rows put under" in capsys.readouterr().out
    assert main(["check", "--settings", str(path)]) == 0
    assert f"stands at schema {len(migrations())}," in capsys.readouterr().out
    keyspace.session.execute(f"ALTER TABLE {name}.rows DROP notes")
    assert main(["check", "--settings", str(path)]) == 2
    assert "is not what this code knows" in capsys.readouterr().err
    keyspace.session.execute(f"DROP KEYSPACE {name}")
    path.write_text(json.dumps({**settings, "store": "sqlite"}))
    assert main(["check", "--settings", str(path)]) == 2
