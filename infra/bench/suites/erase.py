"""Erasing people while events flow: seconds until the last receipt, and what a search of all files finds afterwards.

A real region process and its worker on embedded stores. In each run `subjects` people (default 1000) are heard of:
their events are logged and applied, some ask for lists, some have a dead letter, some are exported: an export is held
against the events that were acknowledged and against the log. Then they are erased, ERASERS at a time, each with one
more batch of events under way a moment before, while other people's events go on. When the worker has caught up, every
file of the node but its releases is searched byte by byte for their names, in every form (upper case, raw, base64,
UTF-16, hashed, ...), and for the ids of their events, as it lies and with its encryption taken off page by page:
SQLite's free pages and write-ahead logs, samples, audit, logs, spans, files that were removed and are held open. So is
the memory of all processes. The same search before has to find every one of them, in each file that knows them by name,
and plants of every form. A copy of the log from before is read with the region's keys as they are after. Each receipt's
signature is verified. A call that is refused for now (503) is made again, as an application would, and counted.
Options: `subjects`, `events` (per subject, default 10), `items` (of the release, default 2000).
"""

import asyncio
import contextlib
import hashlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import aiohttp
import msgspec

from infra.bench.catalogue import BenchRequest
from infra.bench.insisting import InsistentCaller
from infra.bench.miss.node import Node, made_release, personal, running_node
from infra.bench.results import Bar, Measured, at_least, at_most, medians
from infra.bench.searching import Wanted, found_in_files, found_in_memory, found_in_open_files, missed_plants
from infra.bench.serving.processes import family
from infra.contracts.events import Event, EventAck, EventBatch, EventType, LoggedEvent
from infra.contracts.residency import encode_regional
from infra.local.tiers import source_root, tier_python
from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.errors import UnavailableError
from infra.plumbing.keys import TrustDirectory
from infra.plumbing.settings import load_settings
from region.events.opening import open_dead_letters, open_log, open_seals
from region.events.port import Log
from region.events.records import break_record
from region.keeping.opening import open_file_keys
from region.privacy.messages import SubjectExport
from region.privacy.receipts import read_receipt
from region.settings import RegionSettings
from region.store.opening import open_store
from region.store.port import OffsetEvent

GOAL_S = 60.0
ERASERS = 32
OTHERS = 2
"""Connections over which other people's events go on."""
PAUSE_S = 0.01
"""Between two batches of such a connection: load, not a flood."""
LATE_MS = 600_000
LETTER_EVERY = 10
LIST_EVERY = 5
EXPORT_EVERY = 10
CAUGHT_UP_WITHIN_S = 120.0
BACKUP_PAGE = 1_000
WIPED_WITHIN_S = 60.0
"""Each process looks for erasures once a second, and wipes a second later (`region.keeping.wiping`): about 3 s on a
machine that has time."""
WIPE_LOOK_S = 1.0
NAMING = frozenset({"store.sqlite", "subject-keys.sqlite"})
"""Files that hold everybody's names, under their encryption: the search before has to see into each. (Of a second's
requests one is sampled, if its row is there: whose, and whether it is on the disk by then, is chance.)"""
WORST = (
    "found", "plants_missed", "memory_unread_bytes", "found_in_memory", "found_raw_before", "found_in_backup",
    "seconds", "memory_wiped_s", "erases_repeated", "other_calls_repeated",
)  # fmt: skip
"""Figures of which the worst run counts."""
LEAST = (
    "found_before", "files_seen_before", "found_in_memory_before", "late_refused", "receipts_complete",
    "exports_complete",
)  # fmt: skip
ERASE = "/operator/v1/privacy/erase"
EXPORT = "/operator/v1/privacy/export"


def run(request: BenchRequest) -> Measured:
    """One node, `request.runs` times other people."""
    subjects = int(request.number("subjects", 50 if request.quick else 1_000))
    events = int(request.number("events", 10))
    release = made_release(request, int(request.number("items", 2_000)))
    runs = []
    with running_node(request, release) as node, _working(request, node) as worker:
        for number in range(request.runs):
            people = [hashlib.sha256(f"{number}.{one}".encode()).hexdigest()[:32] for one in range(subjects)]
            runs.append(asyncio.run(_Round(node, request.clock, people, events, worker_pids=family(worker)).measure()))
            request.progress.advance(number + 1, request.runs, "rounds of erasures")
    figures = medians(runs)
    # One name that is found in one run is one too many, and so with the others: a median would hide it.
    figures |= {name: max(one[name] for one in runs) for name in WORST}
    figures |= {name: min(one[name] for one in runs) for name in LEAST}
    return Measured(figures=figures, bars=_bars(figures, subjects), notes=_notes(subjects, events))


def _bars(figures: dict[str, float], subjects: int) -> tuple[Bar, ...]:
    return (
        at_most("erased subjects that a search of all files finds", figures["found"], 0.0, unit="subjects"),
        at_most(f"{subjects} subjects erased under load", figures["seconds"], GOAL_S, unit="s"),
        at_least("share of subjects that the search finds before", figures["found_before"], 1.0, unit=""),
        at_least("files that name people, seen into before", figures["files_seen_before"], len(NAMING), unit="files"),
        at_most("plants that the search misses", figures["plants_missed"], 0.0, unit="plants"),
        at_most("memory that could not be searched", figures["memory_unread_bytes"], 0.0, unit="bytes"),
        at_most(
            "names that can be read in files as they lie, before", figures["found_raw_before"], 0.0, unit="subjects"
        ),
        at_most(
            "erased records that a copy of the log from before gives", figures["found_in_backup"], 0.0, unit="records"
        ),
        at_most(
            "erased subjects that a dump of the processes' memory shows",
            figures["found_in_memory"],
            0.0,
            unit="subjects",
        ),
        at_least("subjects that the same dump shows before", figures["found_in_memory_before"], 1.0, unit="subjects"),
        at_least("share of late events that are refused", figures["late_refused"], 1.0, unit=""),
        at_least("share of receipts that verify and are complete", figures["receipts_complete"], 1.0, unit=""),
        at_least(
            "share of exports that hold every acknowledged event, as the log does", figures["exports_complete"], 1.0,
            unit="",
        ),
    )  # fmt: skip


def _notes(subjects: int, events: int) -> tuple[str, ...]:
    return (
        f"{subjects} subjects a run, {events} events each and one more a moment before; SQLite log and store.",
        "Searched: the node's state directory, its logs and spans, as raw bytes, for pseudonyms in every form and for "
        "ids of events. Not searched: blocks that the file system has freed. `found` is of files and tables; "
        "`found_in_memory` is of the processes' whole writable memory, freed or not, seconds behind the last erasure.",
        "`erases_repeated`, `other_calls_repeated`: answers 503 with Retry-After, after which the call was made again; "
        "the time that this took is in `seconds`.",
        "No edge takes part; that edges drop an erased subject's lists is shown by tests.",
    )


@contextlib.contextmanager
def _working(request: BenchRequest, node: Node) -> Iterator[int]:
    """The node's worker, until the block ends; its process id."""
    place = node.state.parent
    with (place / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [tier_python("region", request.environments), "-m", "region.worker", "--settings",
             str(place / "region.json")],
            cwd=source_root(), stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class _Round:
    """One run: these people are heard of, erased, and looked for."""

    def __init__(
        self, node: Node, clock: Clock, people: Sequence[str], events: int, *, worker_pids: Sequence[int]
    ) -> None:  # fmt: skip
        self._worker_pids = worker_pids
        self._node = node
        self._clock = clock
        self._people = people
        self._events = events
        self._sent = 0
        self._wanted = Wanted(dict.fromkeys(people, ()))
        self._ids: dict[str, list[str]] = {one: [] for one in people}
        """Ids of all events by subject."""
        self._told: dict[str, list[str]] = {}
        """Ids of acknowledged events by subject, of those that are going to be exported."""
        self._trust = TrustDirectory.load(node.state.parent / "trust.json")
        self._settings = load_settings(node.state.parent / "region.json", RegionSettings)

    async def measure(self) -> dict[str, float]:
        connector = aiohttp.TCPConnector(limit=ERASERS + OTHERS + 1)
        async with aiohttp.ClientSession(connector=connector) as session:
            caller = self._caller(session)
            before = await self._before(caller)
            backup = await asyncio.to_thread(self._back_up)
            async with self._others_going_on(caller) as others:
                started_s = self._clock.monotonic_s()
                complete = await _at_once(self._people, lambda one: self._erase(caller, one))
                seconds = self._clock.monotonic_s() - started_s
                refused = await _at_once(self._people[::LETTER_EVERY], lambda one: self._tell_late(caller, one))
            await self._caught_up()
        self._wanted = Wanted(self._ids)
        dumped, unread, wiped_s = await self._wiped()
        after = set().union(*(await asyncio.to_thread(self._found)).values())
        after |= await asyncio.to_thread(found_in_open_files, self._pids(), self._wanted)
        return before | {
            "found": float(len(after)), "found_in_backup": float(await self._of_backup(backup)), "seconds": seconds,
            "receipts_complete": sum(complete) / len(complete),
            "other_events_per_s": sum(one.result() for one in others) / seconds,
            "late_refused": sum(refused) / len(refused), "found_in_memory": float(len(dumped)),
            "memory_wiped_s": wiped_s, "memory_unread_bytes": float(unread),
            "plants_missed": float(len(missed_plants(self._people[0]))),
            "erases_repeated": float(caller.refused[ERASE]),
            "other_calls_repeated": float(caller.refused.total() - caller.refused[ERASE]),
        }  # fmt: skip

    async def _before(self, caller: InsistentCaller) -> dict[str, float]:
        """Let them live, and find all of them."""
        self._told = {one: [] for one in self._people[::EXPORT_EVERY]}
        await _at_once(self._people, lambda one: self._live(caller, one))
        await self._letters()
        await self._caught_up()
        log = open_log(self._settings)
        try:
            exports = await _at_once(list(self._told), lambda one: self._is_exported(caller, log, one))
        finally:
            await log.close()
        found = await asyncio.to_thread(self._found)
        raw = await asyncio.to_thread(found_in_files, self._node.state.parent, self._wanted, None)
        in_memory, _ = await asyncio.to_thread(found_in_memory, self._pids(), self._wanted, forms=False)
        return {
            "found_before": len(set().union(*found.values())) / len(self._people),
            "files_seen_before": float(len(NAMING & {name.removesuffix("-wal") for name in found})),
            "found_raw_before": float(len(set().union(*raw.values()))),
            "found_in_memory_before": float(len(in_memory)), "exports_complete": sum(exports) / len(exports),
        }  # fmt: skip

    async def _is_exported(self, caller: InsistentCaller, log: Log, subject: str) -> bool:
        """Whether an export has the row and every event: those that were acknowledged, and the log's records."""
        body = msgspec.json.encode({"subject": subject})
        export = msgspec.json.decode(await caller.post(EXPORT, body), type=SubjectExport)
        exported = [one.logged for one in export.events]
        kept = [one.logged for one in await log.of_subject(subject, after={}, limit=BACKUP_PAGE)]
        ids = sorted(one.event.event_id for one in exported)
        return export.complete and export.row is not None and exported == kept and ids == sorted(self._told[subject])

    @contextlib.asynccontextmanager
    async def _others_going_on(self, caller: InsistentCaller) -> AsyncIterator[list[asyncio.Task[int]]]:
        """Other people's events, until the block ends, however it does; then the tasks are done."""
        stop = asyncio.Event()
        others = [asyncio.create_task(self._others(caller, number, stop)) for number in range(OTHERS)]
        try:
            yield others
        finally:
            stop.set()
            await asyncio.gather(*others, return_exceptions=True)

    async def _wiped(self) -> tuple[set[str], int, float]:
        """Who stands in memory still, when nobody does or WIPED_WITHIN_S have gone, searched in every form by then.

        Also how many bytes could not be read, and how many seconds went.
        """
        began_s = self._clock.monotonic_s()
        while True:
            dumped, _ = await asyncio.to_thread(found_in_memory, self._pids(), self._wanted, forms=False)
            went_s = self._clock.monotonic_s() - began_s
            if not dumped or went_s >= WIPED_WITHIN_S:
                also, unread = await asyncio.to_thread(found_in_memory, self._pids(), self._wanted, forms=True)
                return dumped | also, unread, went_s
            await asyncio.sleep(WIPE_LOOK_S)

    async def _live(self, caller: InsistentCaller, subject: str) -> bool:
        await self._log(caller, subject, self._events)
        if int(subject[:8], 16) % LIST_EVERY == 0:
            await caller.post("/v1/recommend", encode_regional(personal(subject)))
        return True

    async def _erase(self, caller: InsistentCaller, subject: str) -> bool:
        await self._log(caller, subject, 1)
        body = msgspec.json.encode({"subject": subject})
        return read_receipt(await caller.post(ERASE, body), self._trust).complete

    async def _tell_late(self, caller: InsistentCaller, subject: str) -> bool:
        """Tell of a moment before the erasure, as a phone does that was off; whether it was refused."""
        event = self._event(self._clock.now_ms() - LATE_MS)
        self._ids[subject].append(event.event_id)
        batch = EventBatch(subject=subject, events=(event,))
        ack = msgspec.json.decode(await caller.post("/v1/events", encode_regional(batch)), type=EventAck)
        return len(ack.rejected) == 1

    def _found(self) -> dict[str, set[str]]:
        return found_in_files(self._node.state.parent, self._wanted, open_file_keys(self._settings))

    def _back_up(self) -> Path:
        """A copy of the log, as a nightly job takes it."""
        place = self._node.state.parent.parent / f"backup-{self._people[0][:8]}"
        place.mkdir()
        for path in self._node.state.glob("log.sqlite*"):
            shutil.copy(path, place / path.name)
        return place

    async def _of_backup(self, place: Path) -> int:
        """How many of the erased people's records a copy from before gives to who has all of the region's keys."""
        for path in self._node.state.glob("subject-keys.*"):
            shutil.copy(path, place / path.name)
        log = open_log(msgspec.structs.replace(self._settings, state_directory=str(place)))
        try:
            found, after, people = 0, 0, frozenset(self._people)
            while page := await log.read(after={0: after}, limit=BACKUP_PAGE):
                found += sum(one.logged.subject in people for one in page)
                after = page[-1].offset
            return found
        finally:
            await log.close()

    def _pids(self) -> list[int]:
        return [*self._node.pids, *self._worker_pids]

    async def _others(self, caller: InsistentCaller, number: int, stop: asyncio.Event) -> int:
        """Events of people who stay; returns how many were acknowledged."""
        sent = 0
        while not stop.is_set():
            subject = self._node.subjects[(sent + number) % len(self._node.subjects)]
            await self._log(caller, subject, 5)
            sent += 5
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PAUSE_S):
                    await stop.wait()
        return sent

    async def _log(self, caller: InsistentCaller, subject: str, count: int) -> None:
        now_ms = self._clock.now_ms()
        events = tuple(self._event(now_ms - 1_000) for _ in range(count))
        await caller.post("/v1/events", encode_regional(EventBatch(subject=subject, events=events)))
        for known in (self._told, self._ids):
            if subject in known:
                known[subject] += [event.event_id for event in events]

    def _event(self, at_ms: int) -> Event:
        self._sent += 1
        name = hashlib.sha256(f"{self._people[0]}.{self._sent}".encode()).hexdigest()[:32]
        return Event(event_id=name, type=EventType.CLICK, item=f"item-{self._sent % 500}", at_ms=at_ms)

    def _caller(self, session: aiohttp.ClientSession) -> InsistentCaller:
        headers = {
            "Atoll-Service-Key": self._node.key, "Authorization": f"Operator {self._node.operator_key}",
            "Content-Type": "application/json",
        }  # fmt: skip
        url = f"http://127.0.0.1:{self._node.server.port}"
        return InsistentCaller(session, url, headers=headers, clock=self._clock)

    async def _letters(self) -> None:
        """Dead letters of some, as a worker would have left them."""
        now_ms = self._clock.now_ms()
        seals = open_seals(self._settings)
        letters = open_dead_letters(self._settings, seals=seals)
        try:
            records = [
                OffsetEvent(
                    offset=number + 1, partition=1_000 + int(self._people[0][:6], 16),
                    logged=LoggedEvent(subject=subject, event=self._event(now_ms), received_ms=now_ms),
                )
                for number, subject in enumerate(self._people[::LETTER_EVERY])
            ]  # fmt: skip
            await letters.add([break_record(one, "it could not be applied") for one in records], now_ms=now_ms)
        finally:
            await letters.close()
            await seals.keys.close()

    async def _caught_up(self) -> None:
        """Wait until the worker has applied what the log holds.

        Raises:
            UnavailableError: it has not within CAUGHT_UP_WITHIN_S.
        """
        settings = self._settings
        store, log = open_store(settings, clock=SystemClock(), read_timeout_s=5.0), open_log(settings)
        try:
            ends_s = self._clock.monotonic_s() + CAUGHT_UP_WITHIN_S
            while self._clock.monotonic_s() < ends_s:
                records = await log.read(after={0: 0} | await store.applied_offsets(), limit=1)
                if not records:
                    return
                await asyncio.sleep(0.2)
        finally:
            await store.close()
            await log.close()
        raise UnavailableError("the worker did not catch up.")


async def _at_once(people: Sequence[str], act: Callable[[str], Awaitable[bool]]) -> list[bool]:
    """`act` for each of `people`, ERASERS at a time; the first failure ends the others."""
    room = asyncio.Semaphore(ERASERS)

    async def one(subject: str) -> bool:
        async with room:
            return await act(subject)

    tasks = [asyncio.create_task(one(subject)) for subject in people]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
