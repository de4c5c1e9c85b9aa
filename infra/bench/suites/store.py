"""A user row read through our store on Cassandra, against the bare driver's prepared statement on the same rows.

Both read the same partitions in the same order from one node, started for this run. Ours ends with a `UserRow` that a
request can use, the driver's with the bytes as they lie, under their subject's key. Alone: one read after the other,
with the keys at hand that a region's process remembers (20,000); `cold`: each key is read too, as that of somebody who
was not seen for long. Throughput: IN_FLIGHT reads at any time, ours from asyncio, the driver's through its own
callbacks; both in turns of an eighth of the reads, in one process with a region's settings of the garbage collector,
over the same protocol version; the driver's on its own reactor, ours on the loop. A row holds `history` interactions
and AFFINITIES affinities of each kind. Options: `rows` (2000), `history` (100), `reads` (4000).
"""

import asyncio
import statistics
import threading
from typing import Any

import uvloop

from infra.bench.catalogue import BenchRequest
from infra.bench.results import Measured, at_least, at_most, medians, percentile
from infra.bench.servers import running_servers
from infra.local.servers.kinds import ServerKind
from infra.local.servers.plans import ServerPlan, store_address
from infra.plumbing.addresses import parse_address
from infra.plumbing.clock import Clock
from infra.plumbing.keys import RegionKeys

IN_FLIGHT = 64
WARM_UP = 1000
COLD_READS = 500
TURNS = 8
NOW_MS = 1_700_000_000_000
AFFINITIES = 8
"""Of each kind, in every row."""


def run(request: BenchRequest) -> Measured:
    """Start a node, fill it, measure in turn."""
    with running_servers(request, ServerKind.CASSANDRA) as servers:
        # The loop that a region runs on.
        runs = uvloop.run(_measure(request, servers[ServerKind.CASSANDRA]))
    figures = medians(runs)
    return Measured(
        figures=figures,
        bars=(
            at_most("read alone, p50 against the bare driver", figures["read_p50_ratio_driver"], 1.25, unit="ratio"),
            at_least("throughput against the bare driver", figures["throughput_ratio_driver"], 0.85, unit="ratio"),
        ),
        notes=(f"{IN_FLIGHT} reads in flight for throughput; client and node share the machine's cores",),
    )


async def _measure(request: BenchRequest, plan: ServerPlan) -> list[dict[str, float]]:
    # The region tier: loaded when it is measured.
    from region import collecting  # noqa: PLC0415
    from region.keeping.sealing import Seals  # noqa: PLC0415
    from region.keeping.subject_keys_cassandra import CassandraSubjectKeys  # noqa: PLC0415
    from region.keeping.wrapping import FileWrapping  # noqa: PLC0415
    from region.store.applying import ApplyRules  # noqa: PLC0415
    from region.store.cassandra import CassandraStore  # noqa: PLC0415
    from region.store.cassandra_link import CassandraLink  # noqa: PLC0415

    rows, reads = int(request.number("rows", 2000)), int(request.number("reads", 600 if request.quick else 4000))
    RegionKeys.generate(plan.region).save(request.work / "keys.json")
    wrapping = FileWrapping(request.work / "keys.json")
    address = parse_address(store_address(plan), scheme="cassandra", options=CassandraLink.OPTIONS)
    store = CassandraStore(
        address, clock=request.clock, rules=ApplyRules(history_max=1000), read_timeout_s=10.0, write_timeout_s=30.0,
        seals=lambda link: Seals(CassandraSubjectKeys(link, wrapping=wrapping, life_days=400), clock=request.clock),
    )  # fmt: skip
    subjects = [f"{number:032x}" for number in range(rows)]
    await store.write_rows([_row(subject, int(request.number("history", 100))) for subject in subjects])
    cluster = CassandraLink.make_cluster(address, plan.region)
    session = await asyncio.to_thread(cluster.connect, address.name)
    statement = session.prepare("SELECT content FROM rows WHERE subject = ?")
    runs: list[dict[str, float]] = []
    try:
        await _warm(store, session, statement, subjects)
        collecting.settle()
        for number in range(request.runs):
            runs.append(await _pair(store, session, statement, subjects, reads, request.clock))
            request.progress.advance(number + 1, request.runs, "paired runs")
    finally:
        await asyncio.to_thread(cluster.shutdown)
        await store.close()
    return runs


def _row(subject: str, history: int) -> Any:
    from infra.contracts.features import AFFINITY_KINDS, DecayedValue  # noqa: PLC0415
    from region.store.port import Interactions, UserRow, pack_affinities  # noqa: PLC0415

    entries = Interactions(
        tuple(f"item-{number * 7919 % 100_000}" for number in range(history)), (4,) * history,
        tuple(NOW_MS + number for number in range(history)),
    )  # fmt: skip
    packed = pack_affinities(
        {
            kind: {f"{kind} {number}": DecayedValue(1.0 + number, NOW_MS) for number in range(AFFINITIES)}
            for kind in AFFINITY_KINDS
        }
    )
    return UserRow(
        subject=subject, version=1, history=entries, affinities_packed=packed, last_event_ms=NOW_MS + history
    )


async def _warm(store: Any, session: Any, statement: Any, subjects: list[str]) -> None:
    """The node compiles what it runs often; neither side shall pay for it."""
    for number in range(WARM_UP):
        await store.read(subjects[number % len(subjects)])
    await asyncio.to_thread(lambda: [session.execute(statement, (subject,)) for subject in subjects[:WARM_UP]])


async def _pair(
    store: Any, session: Any, statement: Any, subjects: list[str], reads: int, clock: Clock
) -> dict[str, float]:
    """One run, in turns: whatever else the machine does meanwhile hits both sides alike."""
    order = [subjects[number * 31 % len(subjects)] for number in range(reads)]
    # The cold reads of the run before have let go of every key.
    await _ours_together(store, subjects, clock)
    ours_s, bare_s = list[float](), list[float]()
    ours_took_s = bare_took_s = 0.0
    for turn in range(TURNS):
        part = order[turn::TURNS]
        alone = part[: max(50, len(part) // 4)]
        ours_s += await _ours_alone(store, alone, clock)
        bare_s += await asyncio.to_thread(_bare_alone, session, statement, alone, clock)
        ours_took_s += await _ours_together(store, part, clock)
        bare_took_s += await asyncio.to_thread(_bare_together, session, statement, part, clock)
    ours_rate, bare_rate = reads / ours_took_s, reads / bare_took_s
    cold_s = await _ours_cold(store, order[:COLD_READS], clock)
    return {
        "read_p50_ratio_driver": statistics.median(ours_s) / statistics.median(bare_s),
        "cold_read_p50_ratio_driver": statistics.median(cold_s) / statistics.median(bare_s),
        "throughput_ratio_driver": ours_rate / bare_rate,
        "read_p50_ms": statistics.median(ours_s) * 1000,
        "read_p99_ms": percentile(ours_s, 0.99) * 1000,
        "driver_read_p50_ms": statistics.median(bare_s) * 1000,
        "reads_per_s": ours_rate,
        "driver_reads_per_s": bare_rate,
    }


async def _ours_alone(store: Any, order: list[str], clock: Clock) -> list[float]:
    seconds = []
    for subject in order:
        began_s = clock.monotonic_s()
        await store.read(subject)
        seconds.append(clock.monotonic_s() - began_s)
    return seconds


async def _ours_cold(store: Any, order: list[str], clock: Clock) -> list[float]:
    seconds = []
    for subject in order:
        await store.renew()
        began_s = clock.monotonic_s()
        await store.read(subject)
        seconds.append(clock.monotonic_s() - began_s)
    return seconds


def _bare_alone(session: Any, statement: Any, order: list[str], clock: Clock) -> list[float]:
    seconds = []
    for subject in order:
        began_s = clock.monotonic_s()
        session.execute(statement, (subject,)).one()
        seconds.append(clock.monotonic_s() - began_s)
    return seconds


async def _ours_together(store: Any, order: list[str], clock: Clock) -> float:
    waiting = iter(order)

    async def caller() -> None:
        for subject in waiting:
            await store.read(subject)

    began_s = clock.monotonic_s()
    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
    return clock.monotonic_s() - began_s


def _bare_together(session: Any, statement: Any, order: list[str], clock: Clock) -> float:
    room, failed = threading.Semaphore(IN_FLIGHT), list[Exception]()

    def ended(_rows: Any) -> None:
        room.release()

    def broke(error: Exception) -> None:
        failed.append(error)
        room.release()

    began_s = clock.monotonic_s()
    for subject in order:
        room.acquire()
        session.execute_async(statement, (subject,)).add_callbacks(ended, broke)
    for _ in range(IN_FLIGHT):
        room.acquire()
    took_s = clock.monotonic_s() - began_s
    if failed:
        raise failed[0]
    return took_s
