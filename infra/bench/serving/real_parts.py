"""Cassandra, Hazelcast and Kafka taken from under a running world: frozen, then killed, while callers go on calling.

What is watched goes in through an edge, as a caller's would: lists that are made anew each time, lists that may come
from a cache, and events. A killed server is started again by the world; its return is the moment it takes calls again.
"""

import asyncio
import contextlib
import itertools
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import aiohttp
import msgspec

from infra.local.records import Part, ProcessState
from infra.local.world import World
from infra.plumbing.clock import Clock
from infra.plumbing.errors import UnavailableError

PARTS = {Part.STORE: "store", Part.GRID: "grid", Part.LOG: "log"}
WATCH_S = 30.0
"""How long a part that came back is given to be seen; what takes longer counts as this long."""
BACK_WITHIN_S = 90.0
WHOLE_ANSWERS = 5
TIMEOUT_S = 5.0
_SILENT = re.compile(rb"^atoll_edge_grid_silent ([0-9.]+)", re.MULTILINE)


class _Answer(msgspec.Struct):
    items: list[msgspec.Raw]
    degraded: list[str] = []


@dataclass(frozen=True, slots=True)
class Watched:
    """How a part looked at a moment: in what was seen, it is whole or not."""

    at_s: float
    what: str
    whole: bool
    degraded: tuple[str, ...] = ()


@dataclass
class Callers:
    """Users of one region who call its first edge at a steady rate, and what they saw."""

    world: World
    region: str
    headers: Sequence[dict[str, str]]
    clock: Clock
    seen: list[Watched] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    empty: int = 0
    lists: int = 0
    events: int = 0
    put_off: int = 0
    """Events that were answered 429 or 503 with Retry-After: nothing is lost, the caller has them."""

    @contextlib.asynccontextmanager
    async def calling(self, rate_per_s: float) -> AsyncIterator[None]:
        """Call until the block ends: each kind of call in turn, each at its own time."""
        edge = self.world.edge_urls(self.region)[0]
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session:
            kinds: list[Callable[[int], Awaitable[None]]] = [
                lambda number: self._list(session, edge, number, anew=True),
                lambda number: self._list(session, edge, number, anew=False),
                lambda number: self._event(session, edge, number),
                lambda _number: self._silence(session, edge),
            ]

            async def for_ever() -> None:
                async with asyncio.TaskGroup() as calls:
                    for number in itertools.count():
                        calls.create_task(_run(kinds[number % len(kinds)], number // len(kinds)))
                        await asyncio.sleep(1.0 / rate_per_s)

            calling = asyncio.create_task(for_ever())
            try:
                yield
            finally:
                calling.cancel()
                await asyncio.gather(calling, return_exceptions=True)

    async def whole_since(self, moment_s: float) -> float:
        """When lists made anew, events and the grid were all whole again; `moment_s + WATCH_S` if they were not."""
        while self.clock.monotonic_s() < moment_s + WATCH_S:
            whole = [self._whole_at(what, moment_s) for what in ("list", "event", "grid")]
            if None not in whole:
                return max(at_s for at_s in whole if at_s is not None)
            await asyncio.sleep(0.05)
        return moment_s + WATCH_S

    def named_since(self, moment_s: float) -> set[str]:
        """Every degraded part that an answer named since then, and what else was not whole."""
        late = [one for one in self.seen if one.at_s >= moment_s]
        return {part for one in late for part in one.degraded} | {one.what for one in late if not one.whole}

    def _whole_at(self, what: str, moment_s: float) -> float | None:
        run: list[float] = []
        for one in self.seen:
            if one.at_s >= moment_s and one.what == what:
                run = [*run, one.at_s] if one.whole else []
                if len(run) == WHOLE_ANSWERS:
                    return run[0]
        return None

    def _note(self, what: str, *, whole: bool, degraded: Sequence[str] = ()) -> None:
        self.seen.append(Watched(self.clock.monotonic_s(), what, whole, tuple(degraded)))

    async def _list(self, session: aiohttp.ClientSession, edge: str, number: int, *, anew: bool) -> None:
        url = f"{edge}/v1/recommendations/personal?n=10{'&explain=1' if anew else ''}"
        self.lists += 1
        try:
            async with session.get(url, headers=self.headers[number % len(self.headers)]) as answer:
                raw, status = await answer.read(), answer.status
        except (aiohttp.ClientError, TimeoutError) as error:
            self.failed[type(error).__name__] += 1
            return
        if status != 200:
            self.failed[str(status)] += 1
            return
        found = msgspec.json.decode(raw, type=_Answer)
        self.empty += not found.items
        if anew:
            self._note("list", whole=not found.degraded, degraded=found.degraded)

    async def _event(self, session: aiohttp.ClientSession, edge: str, number: int) -> None:
        event = {
            "event_id": f"parts-{os.getpid()}-{number:07d}", "type": "impression", "item": f"i{number % 90}",
            "at_ms": self.clock.now_ms(),
        }  # fmt: skip
        headers = self.headers[number % len(self.headers)]
        self.events += 1
        try:
            async with session.post(f"{edge}/v1/events", json={"events": [event]}, headers=headers) as answer:
                await answer.read()
                asked_to_wait = answer.status in (429, 503) and "Retry-After" in answer.headers
                self.put_off += asked_to_wait
                if answer.status != 200 and not asked_to_wait:
                    self.failed[f"event {answer.status}"] += 1
                self._note("event", whole=answer.status == 200)
        except (aiohttp.ClientError, TimeoutError) as error:
            self.failed[f"event {type(error).__name__}"] += 1

    async def _silence(self, session: aiohttp.ClientSession, edge: str) -> None:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with session.get(f"{edge}/metrics") as answer:
                found = _SILENT.search(await answer.read())
                self._note("grid", whole=found is not None and float(found[1]) == 0.0)


async def _run(kind: Callable[[int], Awaitable[None]], number: int) -> None:
    await kind(number)


@dataclass(frozen=True, slots=True)
class Loss:
    """One part lost and returned."""

    name: str
    named: frozenset[str]
    recovery_s: float

    @property
    def said(self) -> bool:
        """Whether callers were told: by `degraded`, by an event put off, or by the edge's own count of silence."""
        wanted = {"store": "store", "grid": "grid", "log": "event"}[self.name.partition(" ")[0]]
        return wanted in self.named


async def lose(callers: Callers, part: Part, *, kill: bool, gone_s: float) -> Loss:
    """Freeze a part for `gone_s`, or kill it and wait for its return; then until everything is whole."""
    began_s = callers.clock.monotonic_s()
    pid = pid_of(callers.world, part, callers.region)
    os.kill(pid, signal.SIGKILL if kill else signal.SIGSTOP)
    if kill:
        await _returned(callers, part, pid)
    else:
        await asyncio.sleep(gone_s)
        os.kill(pid, signal.SIGCONT)
    back_s = callers.clock.monotonic_s()
    healed_s = await callers.whole_since(back_s)
    return Loss(
        f"{PARTS[part]} {'killed' if kill else 'frozen'}", frozenset(callers.named_since(began_s)), healed_s - back_s
    )


async def _returned(callers: Callers, part: Part, before: int) -> None:
    ends_s = callers.clock.monotonic_s() + BACK_WITHIN_S
    while callers.clock.monotonic_s() < ends_s:
        status = await asyncio.to_thread(callers.world.status)
        for process in status.processes:
            is_it = process.part is part and process.region in ("", callers.region)
            if is_it and process.pid not in (None, before) and process.state in (ProcessState.READY, ProcessState.LIVE):
                return
        await asyncio.sleep(0.1)
    raise UnavailableError(f"the {part} did not come back in {BACK_WITHIN_S:.0f} s.")


def pid_of(world: World, part: Part, region: str) -> int:
    """The process of a part of a region, or of the part that all regions share.

    Raises:
        UnavailableError: it does not run.
    """
    for process in world.status().processes:
        if process.part is part and process.region in ("", region) and process.pid is not None:
            return process.pid
    raise UnavailableError(f"there is no {part} to lose.")
