"""Parts of a region taken away under load: answers that failed or were empty, who said so, and how soon it heals.

A real region process answers a steady stream of personal requests over a synthetic release while, one after the other,
its store is locked, its retrieval process is stopped (frozen), then killed, and its grid's server is
frozen. Each part is gone for `gone_s`, then comes back; `recovery_s` is the longest time until answers are whole again.
`failed` counts anything but 200, `empty` answers without an item, `silent` faults of store and index that no answer
named in `degraded`. The ranker and the log have no process of their own that could go: the ranker's failure is shown
by `tests/unit/region/funnel`, the log's by `tests/integration/events`. Options: `items` (default 30000), `rate`
(requests/s, default 40), `gone_s` (default 4).

With `parts=real` a world of one region with two edges on Cassandra, Hazelcast and Kafka is called through an edge,
while each of the three is frozen, then killed: lists made anew (whose `degraded` must name the store), lists from
caches, and events, which are put off with Retry-After while the log is gone. Then `silent` counts losses that nothing
told of, and `recovery_s` is the longest time from a part's return (a killed one's: it takes calls again) until lists,
events and the grid are whole.
"""

import asyncio
import contextlib
import fcntl
import itertools
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from infra.bench.catalogue import BenchRequest
from infra.bench.miss.node import Node, decode, made_release, personal, running_node
from infra.bench.results import Bar, Measured, at_most
from infra.bench.serving.published import publish_ring
from infra.bench.serving.real_parts import PARTS, Callers, Loss, lose
from infra.bench.serving.real_world import HOME, headers_of, real_world
from infra.contracts.residency import encode_regional
from infra.local.tiers import source_root, tier_python
from infra.plumbing.clock import Clock
from infra.plumbing.errors import InvalidInputError, UnavailableError

RECOVERY_GOAL_S = 5.0
WATCH_S = 15.0
"""How long a part that came back is given to be seen; what takes longer counts as this long."""
WHOLE_ANSWERS = 5
"""So many answers in a row without a degraded part count as healed."""
TIMEOUT_S = 5.0
WAL_LOCKS_AT, WAL_LOCKS = 120, 8


@dataclass
class Seen:
    """What the stream saw: answers as (moment, degraded parts), and what must not happen."""

    answers: list[tuple[float, tuple[str, ...]]] = field(default_factory=list)
    failed: int = 0
    empty: int = 0

    def parts_since(self, moment_s: float) -> set[str]:
        """Every degraded part that an answer named since then."""
        return {part for at_s, parts in self.answers if at_s >= moment_s for part in parts}

    def healed_at(self, since_s: float) -> float | None:
        """When WHOLE_ANSWERS whole answers in a row began after `since_s`; None while they have not."""
        run: list[float] = []
        for at_s, parts in self.answers:
            if at_s >= since_s:
                run = [] if parts else [*run, at_s]
                if len(run) == WHOLE_ANSWERS:
                    return run[0]
        return None


@dataclass(frozen=True)
class Outcome:
    """One part taken away and given back."""

    part: str
    named: set[str]
    recovery_s: float


def run(request: BenchRequest) -> Measured:
    """Every round takes each part away once.

    Raises:
        InvalidInputError: there are no such parts.
    """
    parts = request.options.get("parts", "embedded")
    if parts not in ("embedded", "real"):
        raise InvalidInputError(f"there are no parts {parts!r}.", fix="Say parts=embedded or parts=real.")
    return _embedded(request) if parts == "embedded" else _real(request)


def _real(request: BenchRequest) -> Measured:
    with real_world(request, publish_ring(request), name="real") as world:
        callers = Callers(
            world=world, region=HOME, headers=headers_of(world, request.clock), clock=request.clock
        )  # fmt: skip
        losses = asyncio.run(_losses(callers, request))
    silent, recovery_s = sum(not loss.said for loss in losses), max(loss.recovery_s for loss in losses)
    failed, empty = callers.failed.total(), callers.empty
    return Measured(
        figures={
            "failed": float(failed), "empty": float(empty), "silent": float(silent), "recovery_s": recovery_s,
            "answers": float(callers.lists), "events": float(callers.events), "events_put_off": float(callers.put_off),
            **{
                f"recovery_{number}_{loss.name.replace(' ', '_')}_s": loss.recovery_s
                for number, loss in enumerate(losses)
            },
        },
        bars=_bars(failed, empty, silent, recovery_s),
        notes=(
            f"failed: {dict(callers.failed) or 'nothing'}; named: "
            + "; ".join(f"{loss.name}: {', '.join(sorted(loss.named)) or 'nothing'}" for loss in losses),
        ),
    )  # fmt: skip


async def _losses(callers: Callers, request: BenchRequest) -> list[Loss]:
    gone_s = request.number("gone_s", 2.0 if request.quick else 4.0)
    losses: list[Loss] = []
    async with callers.calling(request.number("rate", 40.0)):
        await callers.whole_since(request.clock.monotonic_s())
        for number in range(request.runs):
            for part, kill in itertools.product(PARTS, (False, True)):
                losses.append(await lose(callers, part, kill=kill, gone_s=gone_s))
            request.progress.advance(number + 1, request.runs, "rounds of losses")
    return losses


def _bars(failed: float, empty: float, silent: float, recovery_s: float) -> tuple[Bar, ...]:
    return (
        at_most("failed answers", float(failed), 0.0, unit="answers"),
        at_most("empty answers", float(empty), 0.0, unit="answers"),
        at_most("faults that no answer named", float(silent), 0.0, unit="faults"),
        at_most("recovery after a part's return", recovery_s, RECOVERY_GOAL_S, unit="s"),
    )


def _embedded(request: BenchRequest) -> Measured:
    release = made_release(request, int(request.number("items", 30_000)))
    gone_s, rate = request.number("gone_s", 2.0 if request.quick else 4.0), request.number("rate", 40.0)
    with _grid(request) as (grid_pid, socket), running_node(request, release, extra={"grid": str(socket)}) as node:
        seen, outcomes = asyncio.run(_rounds(node, grid_pid, request, rate, gone_s))
    silent = sum(bool(outcome.part in ("store", "ann") and outcome.part not in outcome.named) for outcome in outcomes)
    recovery_s = max(outcome.recovery_s for outcome in outcomes)
    return Measured(
        figures={
            "failed": float(seen.failed), "empty": float(seen.empty), "silent": float(silent),
            "recovery_s": recovery_s, "answers": float(len(seen.answers)),
            **{
                f"recovery_{number}_{outcome.part}_s": outcome.recovery_s for number, outcome in enumerate(outcomes)
            },
        },
        bars=_bars(seen.failed, seen.empty, silent, recovery_s),
        notes=(f"{rate:g} requests/s, each part gone for {gone_s:g} s: store locked, index frozen, index killed, "
               "grid frozen; a grid that is gone is not a part of a region's answer and is not named in it.",),
    )  # fmt: skip


@contextlib.contextmanager
def _grid(request: BenchRequest) -> Iterator[tuple[int, Path]]:
    """The embedded grid's server in a process of its own."""
    socket = request.work / "g.sock"
    process = subprocess.Popen(
        [tier_python("region", request.environments), "-m", "infra.plumbing.grid", "--socket", str(socket)],
        cwd=source_root(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process.pid, socket
    finally:
        process.kill()
        process.wait()


async def _rounds(
    node: Node, grid_pid: int, request: BenchRequest, rate: float, gone_s: float
) -> tuple[Seen, list[Outcome]]:
    seen, outcomes = Seen(), []
    async with _stream(node, seen, rate, request.clock):
        await _whole(seen, request.clock, since_s=request.clock.monotonic_s(), within_s=60.0)
        for number in range(request.runs):
            for part, fault in (
                ("store", _locked(node.state / "store.sqlite-shm")),
                ("ann", _frozen(_index_pid(node))),
                ("grid", _frozen(grid_pid)),
            ):
                outcomes.append(await _fault(part, fault, seen, request.clock, gone_s))
            outcomes.append(await _kill_index(node, seen, request.clock))
            request.progress.advance(number + 1, request.runs, "rounds of faults")
    return seen, outcomes


async def _fault(
    part: str, fault: "contextlib.AbstractContextManager[None]", seen: Seen, clock: Clock, gone_s: float
) -> Outcome:
    began_s = clock.monotonic_s()
    with fault:
        await asyncio.sleep(gone_s)
    back_s = clock.monotonic_s()
    healed_s = await _whole(seen, clock, since_s=back_s, within_s=WATCH_S)
    return Outcome(part, seen.parts_since(began_s), healed_s - back_s)


async def _kill_index(node: Node, seen: Seen, clock: Clock) -> Outcome:
    """SIGKILL of the retrieval process: the region starts another; recovery counts from the kill."""
    began_s = clock.monotonic_s()
    os.kill(_index_pid(node), signal.SIGKILL)
    await asyncio.sleep(0.2)
    healed_s = await _whole(seen, clock, since_s=clock.monotonic_s(), within_s=WATCH_S)
    return Outcome("index_killed", seen.parts_since(began_s), healed_s - began_s)


async def _whole(seen: Seen, clock: Clock, *, since_s: float, within_s: float) -> float:
    """When answers were whole again; `since_s + within_s` if they were not."""
    while clock.monotonic_s() < since_s + within_s:
        healed_s = seen.healed_at(since_s)
        if healed_s is not None:
            return healed_s
        await asyncio.sleep(0.05)
    return since_s + within_s


@contextlib.asynccontextmanager
async def _stream(node: Node, seen: Seen, rate: float, clock: Clock) -> AsyncIterator[None]:
    """Requests at a steady rate, whatever becomes of the ones before, until the block ends."""
    headers = {"Atoll-Service-Key": node.key}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:

        async def ask(number: int) -> None:
            body = encode_regional(personal(node.subjects[number % len(node.subjects)]))
            try:
                async with session.post(f"{node.server.base}/v1/recommend", data=body, headers=headers) as response:
                    raw = await response.read()
                    if response.status != 200:
                        seen.failed += 1
                        return
            except (aiohttp.ClientError, TimeoutError):
                seen.failed += 1
                return
            answer = decode(raw)
            seen.empty += not answer.items
            seen.answers.append((clock.monotonic_s(), answer.degraded))

        async def forever() -> None:
            async with asyncio.TaskGroup() as group:
                number = 0
                while True:
                    group.create_task(ask(number))
                    number += 1
                    await asyncio.sleep(1.0 / rate)

        streaming = asyncio.create_task(forever())
        try:
            yield
        finally:
            streaming.cancel()
            await asyncio.gather(streaming, return_exceptions=True)


@contextlib.contextmanager
def _locked(shared_memory: Path) -> Iterator[None]:
    """The store's readers find every lock of the write-ahead log taken (SQLite, "WAL-mode file format")."""
    with shared_memory.open("r+b") as file:
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, WAL_LOCKS, WAL_LOCKS_AT)
                break
            except BlockingIOError:
                continue  # A reader holds one of them for a moment.
        yield


@contextlib.contextmanager
def _frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _index_pid(node: Node) -> int:
    """The retrieval process among the region's children."""
    for pid in node.pids[1:]:
        with contextlib.suppress(OSError):
            if b"region.retrieval" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    raise UnavailableError("the region has no retrieval process.")
