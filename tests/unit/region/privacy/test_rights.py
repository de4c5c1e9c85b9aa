"""A subject's rights over the doors: exported complete against the log, erased everywhere, and not coming back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from infra.contracts.event_schema import ReadBatch
from infra.contracts.events import EventAck, EventBatch
from infra.contracts.messages import (
    INVALIDATION_TOPIC,
    Context,
    HomeAnswer,
    HomeRequest,
    Invalidation,
    ReasonCode,
    RecommendationType,
    SlateItem,
    Source,
)
from infra.contracts.reasons import reason
from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.grid.memory import MemoryGrid
from infra.plumbing.http.middleware import frame
from infra.plumbing.keys import RegionKeys, RestKey, TrustDirectory
from infra.plumbing.progress import SilentProgress
from infra.plumbing.telemetry import TelemetrySettings, start_telemetry
from region.api.announcing import Announcer
from region.events.opening import open_dead_letters, open_log, open_seals
from region.events.records import NOTHING, break_record
from region.events.replaying import Replayer
from region.events.streaming import Streaming
from region.exploration.exposures import Exposure, ExposureLog
from region.funnel.contexts import ContextTastes
from region.funnel.dry_run import RequestLog
from region.keeping.deposits import Deposit, Fate
from region.keeping.opening import open_file_keys
from region.precompute.making import Precomputer
from region.precompute.visitors import Visitors
from region.privacy.access_log import AccessLog
from region.privacy.accesses import hash_of, verify
from region.privacy.explaining import Explanation
from region.privacy.hearing import hear_erasures
from region.privacy.late import REASON, LateEvents
from region.privacy.messages import AccessPage, ErasureReceipt, SignedReceipt, SubjectExport
from region.privacy.opening import open_privacy
from region.privacy.places import Known, Place, Scrubber
from region.privacy.receipts import read_receipt, sign_receipt
from region.releases.exposures import Exposures
from region.releases.trial import Arm
from region.rules.history import Page, PageHistory
from region.sampling.served import ServedSample, ServedSamples
from region.settings import PrecomputeSettings, RegionSettings
from region.store.cassandra_deposits import ClusterFacts, key_deposits
from region.store.memory import MemoryStore
from region.store.opening import open_store
from region.store.port import ExportedRow, OffsetEvent, UserRow
from region.store.subjects import erasure_mark, user_subject
from tests.contract.building import BOB, NOW_MS, an_event, logged, placed, stands_in_files
from tests.support.keeping import NotedReads, key_file

KEYS = RegionKeys.generate("us-east")
ALICE = user_subject(KEYS, "42")
OPERATOR = {"Authorization": f"Operator {KEYS.operator_key}"}


def an_exposure(name: str, subject: str) -> Exposure:
    return Exposure(
        exposure=f"request-{name}", subject=subject, at_ms=NOW_MS, surface="home", release="r", rules="e",
        prior_rate=0.05, page=("i",), propensities=(1.0,), slots=(),
    )  # fmt: skip


async def never(_request: HomeRequest) -> HomeAnswer:
    raise AssertionError("nothing is made here")


class Region:
    """A node's rooms that know subjects, on real files, and the doors to their rights."""

    def __init__(self, state: Path, stack: AsyncExitStack) -> None:
        self.state = state
        self.clock = ManualClock(wall_ms=NOW_MS + 1_000_000)
        self.grid = MemoryGrid(clock=self.clock)
        self.settings = settings = RegionSettings(
            node="r1", region="us-east", port=1, worker_port=2, state_directory=str(state), repository_url="",
            trusted_root="", keys_file=str(key_file(state, KEYS)), trust_file="", grid="memory",
        )  # fmt: skip
        self.seals = open_seals(settings, clock=self.clock)
        self.log = open_log(settings, seals=self.seals)
        self.store = open_store(settings, clock=self.clock, read_timeout_s=5.0)
        self.samples = ServedSamples(state, keys=open_file_keys(settings))
        self.requests, self.pages = RequestLog(), PageHistory()
        self.exposures = Exposures(window_s=60.0)
        self.drawn = ExposureLog(state, keys=open_file_keys(settings))
        self.accesses = AccessLog(state, region="us-east", node="r1", keys=KEYS, clock=self.clock)
        self.tastes = ContextTastes(state, clock=self.clock)
        self.precomputer = Precomputer(
            settings=PrecomputeSettings(enabled=True), visitors=Visitors(), store=self.store, grid=self.grid,
            clock=self.clock, make=never, is_busy=lambda: False, registry=CollectorRegistry(),
            standing=NotedReads().standing(who="node", action="lists", why="test", clock=self.clock),
        )  # fmt: skip
        known = Known(
            store=self.store, log=self.log, samples=self.samples, exposures=self.drawn, requests=self.requests,
            pages=self.pages, tastes=self.tastes, precomputer=self.precomputer,
            trials=self.exposures,  # type: ignore[arg-type]  # the two calls that are made of it
            lists=self, title_of=lambda item: f"Title of {item}", seals=self.seals,
        )  # fmt: skip
        self.privacy = open_privacy(
            settings, stack, keys=KEYS, known=known, announcer=Announcer(grid=self.grid, registry=CollectorRegistry()),
            accesses=self.accesses, clock=self.clock, registry=CollectorRegistry(),
        )  # fmt: skip
        telemetry = start_telemetry(service="region", region="us-east", node="r1", settings=TelemetrySettings())
        stack.callback(telemetry.close)
        app = web.Application(middlewares=[frame(telemetry, self.clock)])
        app.add_routes(self.privacy.doors.routes())
        self.client: TestClient[web.Request, web.Application] = TestClient(TestServer(app))

    async def rehearse_for(self, request: HomeRequest, row: UserRow | None) -> tuple[SlateItem, ...]:
        """A list on which "shown" stands first for who did something with item-3, else last."""
        lifts = row is not None and any(one.item == "item-3" for one in row.history) and not row.opted_out
        items = ("shown", "other", "third") if lifts else ("other", "third", "shown")
        spoken = reason(ReasonCode.FOR_YOU, locale=request.context.locale)
        return tuple(SlateItem(item=one, score=1.0, source=Source.ANN, reason=spoken) for one in items)

    async def live(self) -> None:
        """Have two subjects leave traces at every place."""
        await self.log.append(
            [logged(1, subject=ALICE), logged(2, subject=BOB), logged(3, subject=ALICE), logged(4, subject=ALICE)]
        )
        await self.work()
        letters = open_dead_letters(self.settings, seals=self.seals)
        await letters.add([break_record(placed(3, subject=ALICE), "no good")], now_ms=NOW_MS)
        await letters.add([break_record(placed(2, subject=BOB), "no good")], now_ms=NOW_MS)
        await letters.close()
        for name, subject in (("a", ALICE), ("b", BOB)):
            self.samples.note(ServedSample(sample=name, subject=subject, offset=1, now_ms=NOW_MS, release="r"))
            self.tastes.note_call(subject, Context(device="phone"))
            self.precomputer.asked(HomeRequest(type=RecommendationType.PERSONAL, subject=subject))
            self.drawn.note(an_exposure(name, subject))
            self.requests.note(
                HomeRequest(type=RecommendationType.PERSONAL, subject=subject), now_s=float(ord(name))
            )  # fmt: skip
            self.pages.remember(subject, Page(1.0, "r", "home", np.zeros(1, dtype=np.int32)))
            self.exposures.shown(subject, Arm.CONTROL, now_s=0.0)
        self.samples.write(now_ms=NOW_MS)
        self.drawn.write(now_ms=NOW_MS)

    async def work(self) -> None:
        streaming = Streaming(
            log=self.log, store=self.store, grid=self.grid, clock=self.clock, registry=CollectorRegistry()
        )  # fmt: skip
        await streaming.start()
        await streaming.step()

    async def ask(self, verb: str, **whom: str) -> bytes:
        response = await self.client.post(f"/operator/v1/privacy/{verb}", json=whom, headers=OPERATOR)
        assert response.status == 200, await response.text()
        return await response.read()


@pytest.fixture
async def region(tmp_path: Path) -> AsyncIterator[Region]:
    async with AsyncExitStack() as stack:
        built = Region(tmp_path, stack)
        stack.push_async_callback(built.store.close)
        stack.push_async_callback(built.log.close)
        await built.live()
        await stack.enter_async_context(built.client)
        yield built


async def test_an_export_is_complete_against_the_log(region: Region) -> None:
    export = msgspec.json.decode(await region.ask("export", user="42"), type=SubjectExport)
    whole = await region.log.read(after={0: 0}, limit=100)
    assert [(one.offset, one.logged) for one in export.events] == [
        (one.offset, one.logged) for one in whole if one.logged.subject == ALICE
    ]
    assert (export.complete, export.node) == (True, "r1")
    row = await region.store.read(ALICE)
    assert row is not None
    assert export.row == ExportedRow.of(row)
    assert len(export.row.history) == 3
    assert (export.unreadable, [one.sample for one in export.samples], len(export.requests)) == (1, ["a"], 1)
    assert [one.exposure for one in export.exposures] == ["request-a"]
    assert export.memory == {
        "pages shown": 1,
        "exposures of a trial": 1,
        "circumstances of calls": 1,
        "lists made ahead": 1,
    }
    (letter,) = export.letters
    assert letter.logged is not None
    assert (letter.reason, letter.logged.subject) == ("no good", ALICE)
    await region.ask("export", user="no-one")
    again = msgspec.json.decode(await region.ask("export", user="42"), type=SubjectExport)
    asked = [(one.who, one.action, one.outcome) for one in again.accesses]
    assert asked == [("operator", "export", "asked"), ("operator", "export", "done"), ("operator", "export", "asked")]
    assert BOB.encode() not in msgspec.json.encode(export)


async def test_erasing_leaves_nothing_of_the_subject_and_all_of_the_others(region: Region) -> None:
    assert not stands_in_files(region.state, ALICE), "nothing lies in the clear"
    signed = msgspec.json.decode(await region.ask("erase", user="42"), type=SignedReceipt)
    receipt = signed.receipt
    found = {one.place: (one.before, one.removed, one.after) for one in receipt.places}
    assert found == {
        "event log": (3, 3, 0), "key of the event log": (1, 1, 0),
        "store": (1, 1, 0), "dead letters": (1, 1, 0), "sampled requests": (1, 1, 0),
        "exposures of exploration slots": (1, 1, 0),
        "requests for dry runs": (1, 1, 0), "pages shown": (1, 1, 0), "exposures of a trial": (1, 1, 0),
        "circumstances of calls": (1, 1, 0),
        "lists made ahead": (1, 1, 0),
    }  # fmt: skip
    assert receipt.complete
    deposits = {one.place: one.deposits or () for one in receipt.places}
    assert all(deposits.values()), "of every place it is said what became of its bytes"
    assert {one.fate for place in deposits.values() for one in place} == {Fate.GONE, Fate.SHREDDED}
    assert [one.where for one in deposits["event log"] if one.fate is Fate.SHREDDED] == ["copies of the log"]
    assert not stands_in_files(region.state, ALICE)
    assert await region.log.count_of(BOB) == 1
    assert await region.store.holds(BOB) == 1
    assert len(region.samples.of_subject(BOB)) == region.pages.count_of(BOB) == region.exposures.count_of(BOB) == 1
    noted = region.accesses.entries()
    assert [(one.who, one.action, one.outcome, one.mark) for one in noted] == [
        ("operator", "erase", "asked", erasure_mark(ALICE)), ("operator", "erase", "done", erasure_mark(ALICE))
    ]  # fmt: skip
    assert ALICE not in str(noted)
    assert receipt.accesses is not None
    assert (receipt.accesses.last, receipt.accesses.hash) == (1, hash_of(noted[0]))


async def test_a_later_receipt_says_what_has_gone_since(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Cassandra a key's wrapped copies stay for a while: once the region's rest key is another they open no more."""
    keys = KEYS

    async def deposits(*, erased_ms: int) -> tuple[Deposit, ...]:
        facts = ClusterFacts({}, {"a": {"max_hint_window": "3h"}}, [("a", "nightly", "subject_keys")], 0, {})
        return key_deposits(facts, erased_ms=erased_ms, roots_since_ms=keys.rest_since_ms)

    monkeypatch.setattr(region.log, "key_deposits", deposits)
    never_erased = await region.client.post("/operator/v1/privacy/receipt", json={"user": "42"}, headers=OPERATOR)
    assert never_erased.status == 404
    first = msgspec.json.decode(await region.ask("erase", user="42"), type=SignedReceipt).receipt
    assert not first.complete
    region.clock.advance(60.0)
    early = read_receipt(await region.ask("receipt", user="42"), TrustDirectory.of([KEYS]))
    assert not early.complete
    (key,) = (one for one in early.places if one.place == "key of the event log")
    assert "snapshots nightly: wrapped" in key.remains
    keys = keys.with_new_rest_key(now_ms=region.clock.now_ms())
    assert not read_receipt(await region.ask("receipt", user="42"), TrustDirectory.of([KEYS])).complete, "old one opens"
    keys = keys.with_latest_rest_key_only()
    final = read_receipt(await region.ask("receipt", user="42"), TrustDirectory.of([KEYS]))
    assert final.complete
    assert (final.mark, final.erased_ms, final.looked_ms) == (first.mark, first.erased_ms, region.clock.now_ms())
    assert {one.after for one in final.places} == {0}
    await region.log.append([logged(9, subject=ALICE)])
    back = await region.client.post("/operator/v1/privacy/receipt", json={"user": "42"}, headers=OPERATOR)
    assert back.status == 409


def test_rest_keys_say_since_when_nothing_older_opens() -> None:
    assert KEYS.rest_since_ms == 0
    two = KEYS.with_new_rest_key(now_ms=5)
    assert two.rest_since_ms == 0, "the first one, made from the others, still opens"
    assert two.with_latest_rest_key_only().rest_since_ms == 5
    three = two.with_latest_rest_key_only().with_new_rest_key(now_ms=9)
    assert three.rest_since_ms == 5
    assert three.with_latest_rest_key_only().rest_since_ms == 9
    assert msgspec.convert({"kid": "2", "key": b"x"}, RestKey).made_ms == 0, "a file of before says nothing"


async def test_a_receipt_holds_as_it_was_signed_only(region: Region) -> None:
    content = await region.ask("erase", user="42")
    trust = TrustDirectory.of([KEYS])
    assert read_receipt(content, trust).mark == erasure_mark(ALICE)
    for forged in (content.replace(b'"removed":3', b'"removed":4'), content.replace(b"complete", b"completed"), b"{}"):
        with pytest.raises(InvalidInputError):
            read_receipt(forged, trust)
    stranger = msgspec.structs.replace(RegionKeys.generate("us-east"), region="us-east")
    with pytest.raises(InvalidInputError, match="signature"):
        read_receipt(content, TrustDirectory.of([stranger]))
    with pytest.raises(InvalidInputError, match="no receipt key"):
        read_receipt(content, TrustDirectory(regions={}))


async def test_a_log_from_a_copy_and_a_phone_that_is_late_bring_nobody_back(region: Region) -> None:
    await region.ask("erase", user="42")
    # As if the log had been restored, and a phone told late: the worker and a replay both meet such records.
    await region.log.append([logged(10, subject=ALICE, at_ms=NOW_MS), logged(11, subject=BOB)])
    await region.work()
    assert await region.store.holds(ALICE) == 0
    fresh = MemoryStore(clock=region.clock)
    replayer = Replayer(
        log=region.log, live=region.store, fresh=fresh, clock=region.clock, progress=SilentProgress()
    )  # fmt: skip
    report = await replayer.run()
    assert {name for name in report.differences if name not in ("trending", "item_counters")} == set()
    assert await fresh.holds(ALICE) == 0
    assert await fresh.holds(BOB) == 1


async def test_whoever_comes_back_is_somebody_new_and_a_replay_says_the_same(region: Region) -> None:
    await region.ask("erase", user="42")
    later_ms = region.clock.now_ms() + 5
    await region.log.append([logged(20, subject=ALICE, at_ms=later_ms, item="new")])
    await region.work()
    row = await region.store.read(ALICE)
    assert row is not None
    assert ([one.item for one in row.history], row.version) == (["new"], 5)
    fresh = MemoryStore(clock=region.clock)
    await Replayer(
        log=region.log, live=region.store, fresh=fresh, clock=region.clock, progress=SilentProgress()
    ).run()  # fmt: skip
    assert (await fresh.read(ALICE)) == row


async def test_a_letter_in_the_clear_goes_when_another_node_erases(region: Region) -> None:
    letters = open_dead_letters(region.settings)
    unreadable = OffsetEvent(offset=9, logged=NOTHING, broken="no record", content=b"\xc1 " + ALICE.encode())
    await letters.add([unreadable], now_ms=NOW_MS)
    assert await letters.count_of(ALICE) == 2
    for place in region.privacy.heard_by:
        await place.forget(ALICE)
    assert await letters.count_of(ALICE) == 0
    assert await letters.count_of(BOB) == 1
    await letters.close()


async def test_edges_and_other_nodes_are_told(region: Region) -> None:
    heard: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def listen() -> None:
        async for message in region.grid.subscribe(INVALIDATION_TOPIC):
            heard.put_nowait(message)

    other = PageHistory()
    other.remember(ALICE, Page(1.0, "r", "home", np.zeros(1, dtype=np.int32)))
    gone = asyncio.Event()

    async def forget(subject: str) -> int:
        other.forget(subject)
        gone.set()
        return 1

    place = Place(name="another node", what="pages", count=forget, forget=forget)
    tasks = [asyncio.create_task(listen()), asyncio.create_task(hear_erasures(region.grid, [place]))]
    await asyncio.sleep(0)
    await region.ask("erase", subject=ALICE)
    while not (message := msgspec.json.decode(await heard.get() or b"{}", type=Invalidation)).erased:
        pass
    assert (message.subject, message.subject_version) == (ALICE, 4)
    await gone.wait()
    assert other.count_of(ALICE) == 0
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@pytest.mark.parametrize("whom", [{}, {"user": "1", "subject": ALICE}, {"subject": "raw-id"}, {"who": "1"}])
async def test_a_call_names_one_subject(region: Region, whom: dict[str, str]) -> None:
    response = await region.client.post("/operator/v1/privacy/erase", json=whom, headers=OPERATOR)
    assert response.status == 400


async def test_only_operators_and_own_edges_come_in(region: Region) -> None:
    for path in ("/operator/v1/privacy/export", "/v1/privacy/erase"):
        response = await region.client.post(path, json={"subject": ALICE})
        assert response.status == 401
    assert await region.store.holds(ALICE) == 1


async def test_a_scrub_begins_after_whatever_was_deleted_before_it_was_asked_for() -> None:
    begun, going = 0, asyncio.Event()

    async def scrub() -> str:
        nonlocal begun
        begun += 1
        await going.wait()
        return ""

    scrubber = Scrubber(scrub)
    first = asyncio.create_task(scrubber.run())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    others = [asyncio.create_task(scrubber.run()) for _ in range(5)]
    await asyncio.sleep(0)
    assert begun == 1
    going.set()
    await asyncio.gather(first, *others)
    assert begun == 2


def test_the_signature_is_over_every_field() -> None:
    receipt = ErasureReceipt(
        region="us-east", node="r1", mark="m", erased_ms=1, finished_ms=2, places=(), edges_told=True, complete=True,
        not_reached=(),
    )  # fmt: skip
    signed = sign_receipt(receipt, KEYS)
    trust = TrustDirectory.of([KEYS])
    for name, value in {"node": "r2", "mark": "n", "erased_ms": 0, "complete": False, "edges_told": False}.items():
        changed = msgspec.structs.replace(signed, receipt=msgspec.structs.replace(receipt, **{name: value}))
        with pytest.raises(InvalidInputError):
            read_receipt(msgspec.json.encode(changed), trust)


class Taken:
    """Takes whatever it is given."""

    def __init__(self) -> None:
        self.read: list[ReadBatch] = []

    async def take_read(self, read: ReadBatch) -> EventAck:
        self.read.append(read)
        return EventAck(accepted=len(read.batch.events), duplicates=0, rejected=read.rejected)


def batch_of(*moments_ms: int) -> ReadBatch:
    events = tuple(an_event(number, at_ms=at_ms) for number, at_ms in enumerate(moments_ms))
    return ReadBatch(batch=EventBatch(subject=ALICE, events=events))


async def test_what_is_told_late_of_before_an_erasure_is_refused_by_its_place(region: Region) -> None:
    taken = Taken()
    door = LateEvents(intake=taken, store=region.store, clock=region.clock)
    erased_ms = region.clock.now_ms()
    await region.ask("erase", user="42")
    region.clock.advance(120.0)
    ack = await door.take_read(batch_of(erased_ms - 5, erased_ms + 5, erased_ms - 70_000))
    assert [(one.index, one.reason) for one in ack.rejected] == [(0, REASON), (2, REASON)]
    assert [event.at_ms for event in taken.read[-1].batch.events] == [erased_ms + 5]
    assert taken.read[-1].places == (1,)
    # Somebody else's late events, and events in time, pass as they are.
    for read in (replace(batch_of(1), batch=replace(batch_of(1).batch, subject=BOB)), batch_of(region.clock.now_ms())):
        assert not (await door.take_read(read)).rejected
        assert taken.read[-1] is read


async def test_nobody_is_read_when_it_cannot_be_written_down(region: Region) -> None:
    (region.state / "accesses.jsonl").mkdir()
    response = await region.client.post("/operator/v1/privacy/export", json={"user": "42"}, headers=OPERATOR)
    assert response.status == 503
    assert ALICE not in await response.text()


async def test_the_account_is_handed_out_and_verifies(region: Region) -> None:
    await region.ask("export", user="42")
    response = await region.client.get("/operator/v1/privacy/accesses?after=0&limit=10", headers=OPERATOR)
    page = msgspec.json.decode(await response.read(), type=AccessPage)
    assert [(one.action, one.outcome) for one in page.entries] == [
        ("export", "asked"), ("export", "done"), ("audit", "done")
    ]  # fmt: skip
    assert verify(page.entries, page.head, TrustDirectory.of([KEYS])) == []
    response = await region.client.get("/operator/v1/privacy/accesses?after=x", headers=OPERATOR)
    assert response.status == 400
    assert (await region.client.get("/operator/v1/privacy/accesses")).status == 401


async def test_why_names_the_signals_without_which_the_item_would_fall(region: Region) -> None:
    found = msgspec.json.decode(await region.ask("why", user="42", item="shown", locale="de-AT"), type=Explanation)
    assert (found.position, found.personal, [one.item for one in found.signals]) == (1, True, ["item-3"])
    assert (found.signals[0].position_without, found.signals[0].title) == (3, "Title of item-3")
    assert found.text.startswith("Sie sehen Title of shown")
    assert [way.id for way in found.ways] == ["dislike", "opt-out", "export", "erase"]
    assert msgspec.json.decode(found.ways[0].body) == {"events": [{"type": "dislike", "item": "item-3"}]}
    assert [(one.action, one.outcome) for one in region.accesses.entries()] == [("why", "asked"), ("why", "done")]


async def test_why_says_so_when_nothing_of_the_subject_takes_part(region: Region) -> None:
    absent = msgspec.json.decode(await region.ask("why", user="42", item="nowhere"), type=Explanation)
    assert (absent.position, absent.signals, absent.reason) == (None, (), None)
    assert "not on your list" in absent.text
    await region.store.set_opt_out(ALICE, opted_out=True)
    found = msgspec.json.decode(await region.ask("why", user="42", item="shown", locale="xx"), type=Explanation)
    assert (found.signals, found.personal, [way.id for way in found.ways]) == ((), False, ["opt-in", "export", "erase"])
    assert "not personal" in found.text
    stranger = msgspec.json.decode(await region.ask("why", user="nobody", item="shown"), type=Explanation)
    assert "not because of anything you did" in stranger.text
    response = await region.client.post("/operator/v1/privacy/why", json={"user": "42"}, headers=OPERATOR)
    assert response.status == 400
