"""Durable acknowledged events a second and per core: a region's API under wrk, and the log's own client alone."""

import asyncio
import itertools
import json
import re
import resource
import subprocess
from dataclasses import dataclass
from pathlib import Path

import urllib3
from aiokafka import AIOKafkaProducer

from infra.bench.intake.region import KillableRegion
from infra.bench.intake.stream import event_of, subject_of
from infra.bench.serving.processes import Server
from infra.contracts.events import LoggedEvent
from infra.local.packages import ensure_debian_package
from infra.plumbing.addresses import parse_address
from infra.plumbing.clock import Clock
from infra.plumbing.errors import UnavailableError
from infra.plumbing.ids import new_request_id
from region.events.kafka import OPTIONS, PARTITIONS_DEFAULT, partition_of
from region.events.records import encode_record
from region.events.sqlite import LOG_DATABASE
from region.store.database import transaction

CONNECTIONS = {1: 32, 100: 8}
"""Callers at once, by the size of their batches; what waits stays under the region's bound."""
_ACCEPTED = re.compile(rb'^atoll_intake_events_total\{outcome="accepted"\} ([0-9.e+]+)', re.MULTILINE)
SUBJECTS, BODIES = 500, 20_000
_SCRIPT = """
local sent, run = 0, "%(run)s"
local kinds = {"view", "click", "impression", "like", "skip", "cart", "purchase"}
wrk.method = "POST"
wrk.headers["Atoll-Service-Key"] = "%(key)s"
wrk.headers["Content-Type"] = "application/json"
function request()
  local events = {}
  for place = 1, %(batch)d do
    sent = sent + 1
    events[place] = string.format(
      '{"event_id":"%%s-%%09d","type":"%%s","item":"item-%%d","at_ms":%%d}',
      run, sent, kinds[sent %% 7 + 1], sent %% 500, %(at_ms)d + sent)
  end
  local subject = string.format("%%032x", math.floor(sent / %(batch)d) %% %(subjects)d)
  local body = '{"subject":"' .. subject .. '","schema_version":"1.1","events":[' .. table.concat(events, ",") .. "]}"
  return wrk.format(nil, "/v1/events", nil, body)
end
function done(summary, latency, rates)
  local bad = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format(
    'RESULT {"requests":%%d,"duration_us":%%d,"bad":%%d,"p50_us":%%d,"p99_us":%%d}\\n',
    summary.requests, summary.duration, bad + summary.errors.status, latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Events that were durable and acknowledged."""

    events_per_s: float
    events_per_cpu_s: float
    """Per second of user and system time of the API's processes, or of the client alone; the broker's is not in it."""
    p50_ms: float = 0.0


def api_rate(region: KillableRegion, work: Path, *, batch: int, seconds: float) -> Rate:
    """Have wrk post batches for a while.

    Raises:
        UnavailableError: wrk failed, or an answer was no acknowledgement.
    """
    script = work / "events.lua"
    script.write_text(
        _SCRIPT
        % {
            "run": new_request_id()[:12], "key": region.service_key, "batch": batch, "subjects": SUBJECTS,
            "at_ms": region.clock.now_ms() - 3_600_000,
        }
    )  # fmt: skip
    program, server = ensure_debian_package("wrk"), region.server
    command = [
        program, "-t1", f"-c{CONNECTIONS[batch]}", f"-d{max(1, round(seconds))}s", "--timeout", "10s", "--latency",
        "-s", str(script), server.base,
    ]  # fmt: skip
    accepted, before_s = _accepted(server), server.cpu_s()
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)
    spent_s = server.cpu_s() - before_s
    found = re.search(r"RESULT (\{.*\})", ended.stdout)
    seen = json.loads(found.group(1)) if found else {}
    if not seen or seen["bad"] or not seen["requests"]:
        raise UnavailableError(f"batches of {batch} were not all acknowledged: {seen or ended.stderr[-400:]}")
    events = seen["requests"] * batch
    # wrk looks at the status only; an acknowledgement may turn events back.
    if (taken := _accepted(server) - accepted) < events:
        raise UnavailableError(f"{events} events were sent in batches of {batch}, {taken:.0f} were accepted.")
    return Rate(
        events_per_s=events / (seen["duration_us"] / 1e6), events_per_cpu_s=events / spent_s,
        p50_ms=seen["p50_us"] / 1000,
    )  # fmt: skip


def _accepted(server: Server) -> float:
    """Events that the region says it took."""
    text = urllib3.request("GET", f"{server.base}/metrics", timeout=10.0, retries=False).data
    found = _ACCEPTED.search(text)
    return float(found[1]) if found else 0.0


def client_rate(log: str, work: Path, clock: Clock, *, batch: int, seconds: float) -> Rate:
    """The log's own client with the same records, as many callers and nothing else to do.

    Kafka: aiokafka's producer with the settings that the region gives it. Embedded: sqlite3, with the batches of all
    callers in one transaction, which is the most that a group commit could ever put together. What is sent is encoded
    before the time begins.
    """
    if log == "sqlite":
        return _sqlite_rate(work / f"alone-{new_request_id()}.sqlite", clock, batch=batch, seconds=seconds)
    return asyncio.run(_kafka_rate(log, clock, batch=batch, seconds=seconds))


@dataclass(frozen=True, slots=True)
class _Body:
    subject: str
    content: bytes


def _bodies(now_ms: int) -> list[_Body]:
    """Encoded records, in turns of SUBJECTS subjects."""
    return [
        _Body(
            subject_of(number % SUBJECTS),
            encode_record(
                LoggedEvent(
                    subject=subject_of(number % SUBJECTS), event=event_of(number % SUBJECTS, number, now_ms),
                    received_ms=now_ms,
                )
            ),
        )
        for number in range(BODIES)
    ]  # fmt: skip


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _kafka_rate(log: str, clock: Clock, *, batch: int, seconds: float) -> Rate:
    address = parse_address(log, scheme="kafka", options=OPTIONS)
    partitions = address.number("partitions", PARTITIONS_DEFAULT)
    producer = AIOKafkaProducer(
        bootstrap_servers=address.host_ports, acks="all", enable_idempotence=True, linger_ms=0, max_batch_size=131_072
    )
    await producer.start()
    bodies, sent = itertools.cycle(_bodies(clock.now_ms())), 0
    ends_s = clock.monotonic_s() + seconds

    async def caller() -> None:
        nonlocal sent
        while clock.monotonic_s() < ends_s:
            chosen = list(itertools.islice(bodies, batch))
            # One subject's, as in a batch.
            partition = partition_of(chosen[0].subject, partitions)
            waiting = [
                await producer.send(address.name, value=one.content, key=one.subject.encode(), partition=partition)
                for one in chosen
            ]
            await asyncio.gather(*waiting)
            sent += batch

    try:
        began_s, before_s = clock.monotonic_s(), _cpu_s()
        await asyncio.gather(*(caller() for _ in range(CONNECTIONS[batch])))
        return Rate(events_per_s=sent / (clock.monotonic_s() - began_s), events_per_cpu_s=sent / (_cpu_s() - before_s))
    finally:
        await producer.stop()


def _sqlite_rate(path: Path, clock: Clock, *, batch: int, seconds: float) -> Rate:
    LOG_DATABASE.prepare(path)
    insert, together = LOG_DATABASE.queries()["append_record"], batch * CONNECTIONS[batch]
    bodies, numbers = itertools.cycle(_bodies(clock.now_ms())), itertools.count()
    connection = LOG_DATABASE.connect(path, read_only=False)
    sent = 0
    try:
        began_s, before_s = clock.monotonic_s(), _cpu_s()
        while clock.monotonic_s() < began_s + seconds:
            rows = [
                (1, one.subject, f"alone-{next(numbers)}", one.content) for one in itertools.islice(bodies, together)
            ]
            with transaction(connection):
                connection.executemany(insert, rows)
            sent += together
        return Rate(events_per_s=sent / (clock.monotonic_s() - began_s), events_per_cpu_s=sent / (_cpu_s() - before_s))
    finally:
        connection.close()
