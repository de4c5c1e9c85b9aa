"""Reads of many people's data: two lines of the account each, that say how many and whose."""

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from infra.contracts.resident import ResidentPage
from infra.plumbing.clock import ManualClock
from infra.plumbing.keys import RegionKeys, TrustDirectory
from region.api.doors import service_door
from region.api.resident_doors import WALKS_MAX, ResidentDoors
from region.events.__main__ import main as events_main
from region.exploration.__main__ import main as estimate_main
from region.privacy.access_log import AccessLog, AccessLogError
from region.privacy.accesses import Access, verify
from region.privacy.bulk import KINDS_MAX, BulkRead, BulkReads, digest_key, open_bulk_reads
from region.store.memory import MemoryStore
from region.store.port import Interactions, UserRow
from tests.support.keeping import NotedReads, key_file
from tests.unit.region_events.test_worker import settings_in

SUBJECTS = [f"{number:032x}" for number in range(1, 12)]


@given(st.permutations(SUBJECTS), st.permutations(SUBJECTS))
def test_a_digest_does_not_know_the_order_but_every_record(first: list[str], second: list[str]) -> None:
    one, two, other = BulkRead(b"key"), BulkRead(b"key"), BulkRead(b"another key")
    one.touch_each("rows", first)
    two.touch_each("rows", second)
    other.touch_each("rows", first)
    assert one.detail == two.detail != other.detail
    two.touch("rows", first[0])
    assert (one.total, two.total) == (11, 12)
    assert one.detail.split(";")[1] != two.detail.split(";")[1]


def test_a_kind_counts_for_itself_and_kinds_are_bounded() -> None:
    read = BulkRead(b"key")
    read.touch("rows", SUBJECTS[0])
    read.touch("events", SUBJECTS[0])
    assert read.detail.startswith("1 events, 1 rows; whose: hmac-sum ")
    for number in range(KINDS_MAX - 2):
        read.touch(f"kind {number}", SUBJECTS[0])
    with pytest.raises(ValueError, match="16 kinds at most"):
        read.touch("one more", SUBJECTS[0])


async def test_a_disk_that_takes_no_entry_lets_nobody_be_read(tmp_path: Path) -> None:
    keys = RegionKeys.generate("us-east")
    (tmp_path / "accesses.jsonl").mkdir()
    accesses = AccessLog(tmp_path, region="us-east", node="n", keys=keys, clock=ManualClock())
    begun = False
    with pytest.raises(AccessLogError, match="does not happen"):
        async with BulkReads(accesses, key=digest_key(keys)).reading(who="x", action="y", why="z"):
            begun = True
    assert not begun


class Silo:
    """The region's door to histories, as its silo calls it."""

    def __init__(self) -> None:
        self.reads = NotedReads()
        self.store = MemoryStore(clock=ManualClock())
        self.doors = ResidentDoors(self.store, service_door("key"), self.reads)
        app = web.Application()
        app.add_routes(self.doors.routes())
        self.client: TestClient[web.Request, web.Application] = TestClient(TestServer(app))

    async def page(self, after: str = "", count: int = 4) -> ResidentPage:
        body = json.dumps({"after": after, "page_count": count})
        async with self.client.post(
            "/v1/resident/histories", data=body, headers={"Atoll-Service-Key": "key"}
        ) as answer:  # fmt: skip
            assert answer.status == 200
            return msgspec.json.decode(await answer.read(), type=ResidentPage)

    @property
    def noted(self) -> list[tuple[str, str]]:
        return [(outcome, detail.split(";")[0]) for _, _, outcome, detail in self.reads.noted]


async def test_a_walk_is_one_read_whatever_its_pages_and_what_is_left_off_is_said() -> None:
    silo = Silo()
    history = Interactions(("i",), (3,), (1,))
    await silo.store.write_rows([UserRow(subject=subject, history=history) for subject in SUBJECTS])
    async with silo.client:
        after, pages = "", 0
        while pages == 0 or after:
            after, pages = (await silo.page(after)).after, pages + 1
        why = "a round of the region's silo"
        assert (pages, silo.noted) == (3, [("asked", why), ("done", "11 histories")])
        whole = BulkRead(b"key")
        whole.touch_each("histories", SUBJECTS)
        assert silo.reads.noted[1][3] == whole.detail
        # More walks begun than are remembered, one begun in the middle, and none of them ended.
        silo.reads.noted.clear()
        for count in range(1, WALKS_MAX + 2):
            await silo.page(count=count)
        await silo.page(SUBJECTS[6], count=2)
        assert silo.noted.count(("asked", why)) == WALKS_MAX + 2
        assert [one for one in silo.noted if one[0] == "left off"] == [
            ("left off", "1 histories"), ("left off", "2 histories")
        ]  # fmt: skip
        await silo.doors.close()
    assert sum(one[0] == "left off" for one in silo.noted) == WALKS_MAX + 2


def test_the_command_lines_reads_are_in_the_account_and_it_verifies(tmp_path: Path) -> None:
    settings = replace(settings_in(tmp_path / "state"), region="us-east")
    file = tmp_path / "region.json"
    file.write_bytes(msgspec.json.encode(settings))
    for words in (["replay"], ["export", "--out", str(tmp_path / "out")], ["replay-letters"]):
        assert events_main([*words, "--settings", str(file)]) == 0
    assert estimate_main(["--settings", str(file)]) == 2  # there is no draw yet: it was looked for all the same
    keys = RegionKeys.load(key_file(tmp_path / "state"))
    accesses = AccessLog(tmp_path / "state", region="us-east", node="n", keys=keys, clock=ManualClock())
    entries = accesses.entries()
    assert verify(entries, accesses.head(), TrustDirectory.of([keys])) == []
    assert [(one.action, one.outcome) for one in entries] == [
        (action, outcome)
        for action in ("replay of the log", "export of the log", "replay of dead letters", "estimate")
        for outcome in ("asked", "done")
    ]  # fmt: skip
    # A line changed behind it is found, bulk reads no less than others.
    path = tmp_path / "state" / "accesses.jsonl"
    first, second, *others = path.read_bytes().splitlines()
    changed = replace(msgspec.json.decode(second, type=Access), detail="nothing; whose: nobody's")
    path.write_bytes(b"\n".join([first, msgspec.json.encode(changed), *others, b""]))
    assert verify(accesses.entries(), accesses.head(), TrustDirectory.of([keys])) != []


def test_bulk_reads_of_a_node_are_in_its_own_account(tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "state")

    async def read() -> None:
        async with open_bulk_reads(settings, ManualClock()).reading(who="job", action="walk", why="a test") as found:
            found.touch("rows", SUBJECTS[0])

    asyncio.run(read())
    assert b'"action":"walk"' in (tmp_path / "state" / "accesses.jsonl").read_bytes()
