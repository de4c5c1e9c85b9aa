"""What keys cost: intake, and reading rows and records, with everything under keys against the same files in the clear.

The embedded log takes batches of `batch` events (default 5) of `subjects` people (2000), IN_FLIGHT batches at any
time, first when nobody has a key yet (`first`), then when all have one. The rival is the same log and store without
keys. The store is read row by row: from the page cache, and by a connection that has cached nothing (`cold`). Options:
`subjects`, `batch`, `batches` (2000).
"""

import asyncio
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path

from infra.bench.catalogue import BenchRequest
from infra.bench.results import Measured, at_least, at_most, medians
from infra.contracts.events import Event, EventType, LoggedEvent
from infra.plumbing.clock import Clock
from infra.plumbing.keys import RegionKeys
from region.events.sqlite import SqliteLog
from region.keeping.files import FileKeys
from region.keeping.sealing import Seals
from region.keeping.subject_keys_sqlite import SqliteSubjectKeys
from region.keeping.wrapping import FileWrapping
from region.store.port import Interactions, UserRow
from region.store.sqlite import SqliteStore

IN_FLIGHT = 64
HISTORY = 100
READ_AT_ONCE = 500
NOW_MS = 1_700_000_000_000


def run(request: BenchRequest) -> Measured:
    """Both in turn, run by run."""
    runs = []
    for number in range(request.runs):
        place = request.work / f"run-{number}"
        for name in ("clear", "sealed"):
            (place / name).mkdir(parents=True)
        try:
            runs.append(asyncio.run(_one_run(request, place)))
        finally:
            shutil.rmtree(place)
        request.progress.advance(number + 1, request.runs, "runs")
    figures = medians(runs)
    return Measured(
        figures=figures,
        bars=(
            at_least("intake with keys against without", figures["intake_ratio_clear"], 0.8, unit="ratio"),
            at_most(
                "a row's read from the page cache, more than without keys", figures["read_more_us"], 50.0, unit="us"
            ),
        ),
        notes=("One process; intake, its disk and the reads share the machine's cores.",),
    )


async def _one_run(request: BenchRequest, place: Path) -> dict[str, float]:
    clear = await _measured(request, place / "clear", sealed=False)
    sealed = await _measured(request, place / "sealed", sealed=True)
    return {
        **{f"{name}_sealed": value for name, value in sealed.items()},
        **{f"{name}_clear": value for name, value in clear.items()},
        "intake_ratio_clear": sealed["intake_per_s"] / clear["intake_per_s"],
        "intake_first_ratio_clear": sealed["intake_first_per_s"] / clear["intake_first_per_s"],
        "log_read_ratio_clear": sealed["log_read_per_s"] / clear["log_read_per_s"],
        "read_more_us": sealed["read_us"] - clear["read_us"],
        "read_cold_more_us": sealed["read_cold_us"] - clear["read_cold_us"],
    }


async def _measured(request: BenchRequest, place: Path, *, sealed: bool) -> dict[str, float]:
    RegionKeys.generate("bench").save(place / "keys.json")
    wrapping = FileWrapping(place / "keys.json")
    keys = FileKeys(wrapping) if sealed else None
    seals = Seals(SqliteSubjectKeys(place, wrapping=wrapping), clock=request.clock) if sealed else None
    subjects = [f"{number:032x}" for number in range(int(request.number("subjects", 300 if request.quick else 2_000)))]
    log = SqliteLog(place / "log.sqlite", queue_max=100_000, seals=seals, keys=keys)
    try:
        figures = await _log_figures(request, log, subjects)
    finally:
        await log.close()
    return figures | await _store_figures(request.clock, place, keys, subjects)


async def _log_figures(request: BenchRequest, log: SqliteLog, subjects: Sequence[str]) -> dict[str, float]:
    size = int(request.number("batch", 5))
    batches = int(request.number("batches", 400 if request.quick else 2_000))
    first_s = await _append(request.clock, log, [_batch(one, 0, size) for one in subjects])
    more = [_batch(subjects[number % len(subjects)], number + 1, size) for number in range(batches)]
    again_s = await _append(request.clock, log, more)
    started_s, read, after = request.clock.monotonic_s(), 0, 0
    while page := await log.read(after={0: after}, limit=READ_AT_ONCE):
        read, after = read + len(page), page[-1].offset
    return {
        "intake_first_per_s": len(subjects) * size / first_s,
        "intake_per_s": batches * size / again_s,
        "log_read_per_s": read / (request.clock.monotonic_s() - started_s),
    }


async def _append(clock: Clock, log: SqliteLog, batches: Sequence[Sequence[LoggedEvent]]) -> float:
    """Append them, IN_FLIGHT at any time; returns the seconds."""
    waiting = iter(batches)

    async def work() -> None:
        for batch in waiting:
            await log.append(batch)

    started_s = clock.monotonic_s()
    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return clock.monotonic_s() - started_s


def _batch(subject: str, number: int, size: int) -> list[LoggedEvent]:
    return [
        LoggedEvent(
            subject=subject, received_ms=NOW_MS,
            event=Event(
                event_id=f"bench-{number:08}-{one:03}", type=EventType.CLICK, item=f"item-{number % 997}", at_ms=NOW_MS
            ),
        )
        for one in range(size)
    ]  # fmt: skip


async def _store_figures(
    clock: Clock, place: Path, keys: FileKeys | None, subjects: Sequence[str]
) -> dict[str, float]:  # fmt: skip
    places = range(HISTORY)
    history = Interactions(
        tuple(f"item-{one}" for one in places), (3,) * HISTORY, tuple(NOW_MS + one for one in places)
    )  # fmt: skip
    store = SqliteStore(place / "store.sqlite", clock=clock, read_timeout_s=5.0, keys=keys)
    try:
        await store.write_rows([UserRow(subject=one, version=1, history=history) for one in subjects])
        await store.scrub()  # out of the write-ahead log, as after a while
    finally:
        await store.close()
    store = SqliteStore(place / "store.sqlite", clock=clock, read_timeout_s=5.0, keys=keys)
    try:
        await store.holds(subjects[0])  # connected
        cold = [await _timed(clock, store, one) for one in subjects]
        warm = [await _timed(clock, store, one) for one in subjects]
    finally:
        await store.close()
    return {"read_cold_us": statistics.median(cold), "read_us": statistics.median(warm)}


async def _timed(clock: Clock, store: SqliteStore, subject: str) -> float:
    started_s = clock.monotonic_s()
    await store.read(subject)
    return (clock.monotonic_s() - started_s) * 1e6
