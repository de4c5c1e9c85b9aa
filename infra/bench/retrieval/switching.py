"""What a switch costs an answer: the longest answer while another index is loaded and taken over to, less without.

Answers are asked for one after the other on one loop. Calm ones are as many as those during the switch, half of them
before and half after: of more answers the longest is longer on any machine.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from infra.bench.results import percentile
from infra.contracts.features import FloatArray
from infra.plumbing.clock import Clock
from region.retrieval.process import RetrievalProcess

CALM_ANSWERS = 400
AFTER_ANSWERS = 400
"""So many answers from the new release still count as during its switch."""
SEARCH_TIMEOUT_S = 30.0
START_TIMEOUT_S = 900.0
"""Loading gives way to whatever else runs on the machine."""


def cost_of(loading: list[float], after: list[float], calm: list[float]) -> dict[str, float]:
    """The figures of one switch: answers while it loads and those after it, in ms; of calm ones as many as of both."""
    during = loading + after
    return {
        "switch_stall_ms": max(0.0, max(during) - max(calm)),
        "switch_p999_extra_ms": max(0.0, percentile(during, 0.999) - percentile(calm, 0.999)),
        "switch_loading_max_ms": max(loading, default=0.0),
        "switch_after_max_ms": max(after, default=0.0),
        "calm_max_ms": max(calm),
        "answers_during_switch": float(len(during)),
    }


async def switched_processes(
    release: Path, sockets: Path, asked: FloatArray, neighbours: int, clock: Clock, *, rounds: int
) -> list[dict[str, float]]:
    """`rounds` times another retrieval process loads the same index, is warmed and takes over from the one before."""
    turn = itertools.cycle(asked)

    async def ask(process: RetrievalProcess) -> None:
        await process.search(next(turn), neighbours, SEARCH_TIMEOUT_S)

    costs = []
    active = RetrievalProcess(release=release, socket=sockets / "0", clock=clock, start_timeout_s=START_TIMEOUT_S)
    await active.start()
    for number in range(1, rounds + 1):
        calm = await answers(partial(ask, active), CALM_ANSWERS, clock)
        coming = RetrievalProcess(
            release=release, socket=sockets / str(number), clock=clock, start_timeout_s=START_TIMEOUT_S, gives_way=True
        )
        starting = asyncio.create_task(coming.start())
        loading = await until(starting, partial(ask, active), clock)
        closing = asyncio.create_task(active.close())
        after = await answers(partial(ask, coming), AFTER_ANSWERS, clock)
        await closing
        active = coming
        calm += await answers(partial(ask, active), max(0, len(loading) + len(after) - CALM_ANSWERS), clock)
        costs.append(cost_of(loading, after, calm))
    await active.close()
    return costs


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
