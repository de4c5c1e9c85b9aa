"""What a switch costs an answer: the longest answer while another index is loaded and taken over to, less without.

Answers are asked for one after the other on one loop. Calm ones are as many as those during the switch, half of them
before and half after: of more answers the longest is longer on any machine.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path

from infra.bench.results import percentile
from infra.contracts.features import FloatArray
from infra.plumbing.clock import Clock
from region.retrieval.process import RetrievalProcess

CALM_ANSWERS = 400
AFTER_ANSWERS = 400
"""So many answers from the new release still count as during its switch."""
SEARCH_TIMEOUT_S = 30.0


def cost_of(during: list[float], calm: list[float]) -> dict[str, float]:
    """The figures of one switch; both in ms, and of calm answers as many as of the others."""
    return {
        "switch_stall_ms": max(0.0, max(during) - max(calm)),
        "switch_p999_extra_ms": max(0.0, percentile(during, 0.999) - percentile(calm, 0.999)),
        "switch_max_ms": max(during),
        "calm_max_ms": max(calm),
        "answers_during_switch": float(len(during)),
    }


async def switched_processes(
    release: Path, sockets: Path, asked: FloatArray, neighbours: int, clock: Clock
) -> dict[str, float]:
    """A second retrieval process loads the same index, is warmed and takes over while the first is searched."""
    turn = itertools.cycle(asked)

    async def ask(process: RetrievalProcess) -> None:
        await process.search(next(turn), neighbours, SEARCH_TIMEOUT_S)

    active = RetrievalProcess(release=release, socket=sockets / "a", clock=clock)
    await active.start()
    calm = await answers(lambda: ask(active), CALM_ANSWERS, clock)
    coming = RetrievalProcess(release=release, socket=sockets / "b", clock=clock, gives_way=True)
    starting = asyncio.create_task(coming.start())
    during = await until(starting, lambda: ask(active), clock)
    closing = asyncio.create_task(active.close())
    during += await answers(lambda: ask(coming), AFTER_ANSWERS, clock)
    await closing
    calm += await answers(lambda: ask(coming), max(0, len(during) - CALM_ANSWERS), clock)
    await coming.close()
    return cost_of(during, calm)


async def answers(ask: Callable[[], Awaitable[None]], count: int, clock: Clock) -> list[float]:
    """How long each of `count` answers took, in ms."""
    return [await _answer_ms(ask, clock) for _ in range(count)]


async def until(task: "asyncio.Task[object]", ask: Callable[[], Awaitable[None]], clock: Clock) -> list[float]:
    """The same until `task` is done; raises what it raised."""
    took_ms = []
    try:
        while not task.done():
            took_ms.append(await _answer_ms(ask, clock))
    finally:
        await task
    return took_ms


async def _answer_ms(ask: Callable[[], Awaitable[None]], clock: Clock) -> float:
    started_s = clock.monotonic_s()
    await ask()
    return (clock.monotonic_s() - started_s) * 1000
