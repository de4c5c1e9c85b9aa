"""Events taken in: how many a core makes durable, against the log's client alone; and 20 SIGKILLs while 100,000 flow.

Rates: a region's API takes batches of 1 and of 100 by wrk over HTTP (checked, labelled, sealed, appended, acknowledged
when durable), on Kafka and on the embedded log; beside it, in the same run, the log's own client with the same records
and nothing else to do: it seals none. `events_per_cpu_s` and `events_ratio_log` are those of batches of 100 on Kafka:
acknowledged events per second of CPU time of the region's processes, and that against the client's; the broker's CPU is
not in either.

Survival: 200 subjects' events of every type flow into a region on Kafka, Cassandra and Hazelcast, one batch in ten sent
twice; at random moments its API or its worker dies by SIGKILL and is started again. Afterwards every history, counter,
version, item count and trending point is held against what was acknowledged. `lost` and `doubled` are the largest
differences of any of them. Options: `events` (default 100000), `kills` (20), `seconds` (of each rate, default 4),
`seed` (7), `acts` (`both`, `rates` or `survival`), `parts` (of the survival: `real` or `embedded`).
"""

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

from infra.bench.catalogue import BenchRequest
from infra.bench.intake.rates import api_rate, client_rate
from infra.bench.intake.region import KillableRegion, killable_region
from infra.bench.intake.stream import Stream, stream_to
from infra.bench.intake.survival import Survived, survive
from infra.bench.miss.node import made_release
from infra.bench.results import Bar, Measured, at_most, medians
from infra.bench.servers import running_servers
from infra.local.servers.kinds import ServerKind
from infra.local.servers.plans import ServerPlan, grid_address, log_address, store_address
from infra.local.tiers import tier_python
from infra.plumbing.errors import InvalidInputError

ITEMS = 5_000
PER_SUBJECT = 500
BATCHES = (1, 100)
ACTS = ("both", "rates", "survival")
PARTS = ("real", "embedded")
Servers = dict[ServerKind, ServerPlan]


def run(request: BenchRequest) -> Measured:
    """Measure what was asked for.

    Raises:
        InvalidInputError: there is no such act, or there are no such parts.
        UnavailableError: events were not acknowledged.
    """
    acts, parts = _chosen(request, "acts", ACTS), _chosen(request, "parts", PARTS)
    release = made_release(request, ITEMS)
    figures: dict[str, float] = {}
    peers: dict[str, dict[str, float]] = {}
    bars: list[Bar] = []
    notes = ["client, region and servers share the machine's cores; CPU time is not touched by that, rates are"]
    real = (ServerKind.CASSANDRA, ServerKind.HAZELCAST, ServerKind.KAFKA)
    with running_servers(request, *real) as servers:
        if acts != "survival":
            runs, alone = _rates(request, release, servers)
            figures, peers = medians(runs), {"log's client alone": medians(alone)}
        if acts != "rates":
            with _region(request, release, "survival", _real_parts(servers) if parts == "real" else {}) as region:
                survived = asyncio.run(_survived(request, region))
            figures |= _figures(survived)
            bars += _bars(figures)
            notes.append(f"survival on {parts} parts: {_words(survived)}")
    return Measured(figures=figures, bars=tuple(bars), peers=peers, notes=tuple(notes))


def _chosen(request: BenchRequest, option: str, known: tuple[str, ...]) -> str:
    word = request.options.get(option, known[0])
    if word not in known:
        raise InvalidInputError(f"the option {option} is {word!r}.", fix=f"Say one of {', '.join(known)}.")
    return word


def _real_parts(servers: Servers) -> dict[str, object]:
    return {
        "store": store_address(servers[ServerKind.CASSANDRA]),
        "grid": grid_address(servers[ServerKind.HAZELCAST]),
        "log": log_address(servers[ServerKind.KAFKA], "survival"),
    }


_numbers = itertools.count()


@contextlib.contextmanager
def _region(request: BenchRequest, release: Path, name: str, parts: dict[str, object]) -> Iterator[KillableRegion]:
    place = request.work / f"region-{name}-{next(_numbers)}"
    # Whole histories are held against what was sent.
    told = {"history_max": 10 * PER_SUBJECT, "intake_queue_max": 4000, **parts}
    python = tier_python("region", request.environments)
    with killable_region(place, python=python, clock=request.clock, parts=told, release=release) as region:
        region.start("api")
        region.await_live("api")
        yield region


def _rates(
    request: BenchRequest, release: Path, servers: Servers
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:  # fmt: skip
    seconds = request.number("seconds", 1.0 if request.quick else 4.0)
    logs = {"kafka": log_address(servers[ServerKind.KAFKA], "rates"), "embedded": "sqlite"}
    ours = [dict[str, float]() for _ in range(request.runs)]
    alone = [dict[str, float]() for _ in range(request.runs)]
    for name, log in logs.items():
        with _region(request, release, name, {"log": log}) as region:
            api_rate(region, request.work, batch=1, seconds=1.0)
            for number, batch in itertools.product(range(request.runs), BATCHES):
                mine = api_rate(region, request.work, batch=batch, seconds=seconds)
                client = client_rate(log, request.work, request.clock, batch=batch, seconds=seconds)
                key = f"{name}_{batch}"
                ours[number] |= {
                    f"{key}_per_cpu_s": mine.events_per_cpu_s, f"{key}_per_s": mine.events_per_s,
                    f"{key}_batch_p50_ms": mine.p50_ms,
                    f"{key}_ratio_log": mine.events_per_cpu_s / client.events_per_cpu_s,
                }  # fmt: skip
                alone[number] |= {
                    f"{key}_per_cpu_s": client.events_per_cpu_s, f"{key}_per_s": client.events_per_s
                }  # fmt: skip
            request.progress.advance(1, 1, f"rates on {name}")
    for run in ours:
        run |= {"events_per_cpu_s": run["kafka_100_per_cpu_s"], "events_ratio_log": run["kafka_100_ratio_log"]}
    return ours, alone


async def _survived(request: BenchRequest, region: KillableRegion) -> Survived:
    region.start("worker")
    region.await_live("worker")
    kills = int(request.number("kills", 4 if request.quick else 20))
    stream = _stream(request, region)
    return await survive(
        region, stream, kills=kills, seed=int(request.number("seed", 7)), progress=request.progress
    )  # fmt: skip


def _stream(request: BenchRequest, region: KillableRegion) -> Stream:
    events = int(request.number("events", 10_000 if request.quick else 100_000))
    return stream_to(
        region.settings.port, region.service_key, request.clock, subjects=max(1, events // PER_SUBJECT),
        per_subject=PER_SUBJECT, first_ms=request.clock.now_ms() - PER_SUBJECT,
    )  # fmt: skip


def _figures(survived: Survived) -> dict[str, float]:
    lost, doubled = survived.account.worst
    return {
        "lost": float(lost), "doubled": float(doubled), "kills": float(survived.kills),
        "acknowledged": float(survived.acknowledged), "log_records": float(survived.records),
        "sent_again": float(survived.sent_again), "dead_letters": float(survived.dead_letters),
        "survival_s": survived.seconds,
    }  # fmt: skip


def _bars(figures: dict[str, float]) -> list[Bar]:
    return [
        at_most("acknowledged and lost", figures["lost"], 0, unit="events"),
        at_most("counted twice", figures["doubled"], 0, unit="events"),
    ]


def _words(survived: Survived) -> str:
    wrong = {f"lost {name}": count for name, count in survived.account.lost.items() if count} | {
        f"doubled {name}": count for name, count in survived.account.doubled.items() if count
    }
    return (
        f"{survived.kills} kills, {survived.sent_again} batches sent again, "
        f"{'everything was applied in time' if survived.caught_up else 'the log was NOT applied in time'}; "
        f"differences: {wrong or 'none'}"
    )
