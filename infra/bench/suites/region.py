"""The miss path of a real region process: p50 and p99 of whole answers and of every stage, and requests per CPU second.

A region is started over a release (towers, ranker and index of real shape) with 1,000 people in its store; every
request asks for another person's list, so nothing is cached anywhere. Times are what the caller sees over HTTP on
loopback; stage times are the region's own trace, and `budget_*` say where the mean of a list at concurrency 1 goes
(`infra/bench/miss/budget.py`). `requests_per_cpu_s` counts the CPU of the region and of its retrieval process at
concurrency 8; `c8_cpu_ms` is the same per list, `c1_cpu_ms` that of a list alone. It begins once the node has built its
suggestions, which it does once a release, beside the requests. `_rss_mb` counts mapped pages, `_anonymous_mb` does not;
both are of region and index together, the most of the round. Options: `items` (size of the synthetic catalogue, default
1000000; figures are called m1_ at 1 M and m10_ at 10 M, whose index is coarse so that it is built in minutes; both stay
in .atoll/bench for the next run), `release` (a directory, in place of a synthetic one; figures are called release_
unless it is one of these), `store` (`sqlite` or what the region's settings know), `requests` (a round, default 300),
`mapped_mb` (what mapped files may take of the region's memory; default: what the region makes of the release and the
machine), `overwrite` (0: freed memory is not written over, to see what that costs).
"""

import asyncio
from collections import defaultdict
from collections.abc import Coroutine
from typing import Any

import aiohttp
import msgspec

from infra.bench.catalogue import BenchRequest
from infra.bench.miss.budget import Counted, budget, counted
from infra.bench.miss.node import Node, decode, made_release, personal, running_node, shape_of
from infra.bench.results import Bar, Measured, at_most, medians, percentile
from infra.contracts.discovery import SuggestAnswer, SuggestCall
from infra.contracts.messages import HomeAnswer
from infra.contracts.residency import encode_regional
from infra.plumbing.clock import Clock
from infra.plumbing.errors import UnavailableError

GOALS_MS = {"m1": (5.0, 10.0), "m10": (7.0, 15.0)}
RSS_GOAL_MB = 1_536.0
CONCURRENT = 8
SYNTHETIC = "synthetic"
"""The data set that a release of `infra.bench.miss.synthetic` names."""
MEMORY_EVERY_S = 0.25
COARSE_NOTE = (
    "The index of the synthetic 10 M items is coarse, so that it is there in minutes: 3,000 leaves of which 75 are "
    "searched, trained on 100,000 vectors, int8; items have 20 neighbours, not 50. Histories are drawn evenly "
    "from all items: no page of the 11 GB of tables is read more often than another."
)
SETTLED_WITHIN_S = 1_800.0


def run(request: BenchRequest) -> Measured:
    """Start the region once, measure `request.runs` rounds."""
    wanted = int(request.number("items", 50_000 if request.quick else 1_000_000))
    release = made_release(request, wanted)
    manifest = shape_of(release)
    shape = manifest.shape
    name = _name(shape.num_items) if manifest.dataset == SYNTHETIC else "release"
    calls = int(request.number("requests", 100 if request.quick else 300))
    store = request.options.get("store", "sqlite")
    extra: dict[str, object] = {} if store == "sqlite" else {"store": store}
    if "mapped_mb" in request.options:
        extra["mapped_resident_mb_max"] = int(request.number("mapped_mb", 2048))
    if "overwrite" in request.options:
        extra["overwrite_freed_memory"] = request.number("overwrite", 1) != 0
    rounds = []
    with running_node(request, release, extra=extra) as node:
        asyncio.run(_settled(node, request.clock))
        asyncio.run(_round(node, 60, 1, request.clock))
        for number in range(request.runs):
            rounds.append(_measure(node, name, calls, request.clock))
            request.progress.advance(number + 1, request.runs, "rounds")
    figures = medians(rounds)
    return Measured(
        figures=figures,
        bars=_bars(name, figures),
        notes=(
            f"{shape.num_items:,} items, dim {shape.dim}, history of {shape.history_length}, "
            f"{shape.ranker_batch} candidates ranked; store {store}; {calls} requests a round at concurrency 1, "
            f"{2 * calls} at {CONCURRENT}.",
            *((COARSE_NOTE,) if name == "m10" else ()),
        ),
    )


def _name(items: int) -> str:
    return {1_000_000: "m1", 10_000_000: "m10"}.get(items, f"n{items}")


def _bars(name: str, figures: dict[str, float]) -> tuple[Bar, ...]:
    if name not in GOALS_MS:
        return ()
    p50, p99 = GOALS_MS[name]
    bars = [
        at_most("miss path, p50 at concurrency 1", figures[f"{name}_p50_ms"], p50, unit="ms"),
        at_most("miss path, p99 at concurrency 1", figures[f"{name}_p99_ms"], p99, unit="ms"),
    ]
    if name == "m10":
        bars.append(at_most("region and index resident", figures["m10_rss_mb"], RSS_GOAL_MB, unit="MB"))
    return tuple(bars)


def _measure(node: Node, name: str, calls: int, clock: Clock) -> dict[str, float]:
    """One round: alone, then CONCURRENT at once."""
    sizes: list[tuple[int, int]] = []
    looks, started_s = [asyncio.run(_look(node))], node.server.cpu_s()
    alone, answers = asyncio.run(_weighed(node, _round(node, calls, 1, clock), sizes))
    before_s = node.server.cpu_s()
    looks.append(asyncio.run(_look(node)))
    crowd, _ = asyncio.run(_weighed(node, _round(node, 2 * calls, CONCURRENT, clock), sizes))
    used_s = node.server.cpu_s() - before_s
    figures = {
        f"{name}_p50_ms": percentile(alone, 0.5),
        f"{name}_p99_ms": percentile(alone, 0.99),
        f"{name}_c8_p50_ms": percentile(crowd, 0.5),
        f"{name}_c8_p99_ms": percentile(crowd, 0.99),
        f"{name}_rss_mb": max(whole for whole, _ in sizes) / 2**20,
        f"{name}_anonymous_mb": max(own for _, own in sizes) / 2**20,
        "requests_per_cpu_s": len(crowd) / max(used_s, 1e-9),
        "c1_cpu_ms": (before_s - started_s) / len(alone) * 1000,
        "c8_cpu_ms": used_s / len(crowd) * 1000,
        **budget(*looks, total_ms=sum(alone) / len(alone)),
        "degraded_share": sum(bool(answer.degraded) for answer in answers) / len(answers),
    }
    stages: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        for stage in answer.trace:
            stages[stage.stage].append(stage.took_ms)
    for stage_name, took_ms in stages.items():
        key = f"stage_{stage_name.replace('-', '_')}"
        figures[f"{key}_p50_ms"], figures[f"{key}_p99_ms"] = percentile(took_ms, 0.5), percentile(took_ms, 0.99)
    return figures


async def _weighed(
    node: Node, work: Coroutine[Any, Any, tuple[list[float], list[HomeAnswer]]], sizes: list[tuple[int, int]]
) -> tuple[list[float], list[HomeAnswer]]:
    """What `work` gives; meanwhile the node's memory is looked at again and again."""
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.wait({task}, timeout=MEMORY_EVERY_S)
        sizes.append((node.server.rss_bytes(), node.server.anonymous_bytes()))
    return task.result()


async def _look(node: Node) -> Counted:
    async with aiohttp.ClientSession() as session:
        return await counted(session, node.server.base)


async def _settled(node: Node, clock: Clock) -> None:
    """Until there are suggestions: a process beside the region builds them once a release, on a core.

    Raises:
        UnavailableError: they are not built in time.
    """
    ends_s = clock.monotonic_s() + SETTLED_WITHIN_S
    body, headers = encode_regional(SuggestCall(q="ti")), {"Atoll-Service-Key": node.key}
    async with aiohttp.ClientSession() as session:
        while clock.monotonic_s() < ends_s:
            async with session.post(f"{node.server.base}/v1/suggest", data=body, headers=headers) as response:
                response.raise_for_status()
                if not msgspec.json.decode(await response.read(), type=SuggestAnswer).degraded:
                    return
            await asyncio.sleep(0.5)
    raise UnavailableError(f"the index of suggestions was not built in {SETTLED_WITHIN_S:.0f} s.")


async def _round(node: Node, calls: int, concurrent: int, clock: Clock) -> tuple[list[float], list[HomeAnswer]]:
    """`calls` requests by `concurrent` callers, each for another subject; times in ms, and the answers."""
    headers = {"Atoll-Service-Key": node.key}
    bodies = [encode_regional(personal(node.subjects[number % len(node.subjects)])) for number in range(calls)]
    took_ms: list[float] = []
    raw: list[bytes] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrent)) as session:

        async def caller(first: int) -> None:
            for body in bodies[first::concurrent]:
                started_s = clock.monotonic_s()
                async with session.post(f"{node.server.base}/v1/recommend", data=body, headers=headers) as response:
                    answer = await response.read()
                    response.raise_for_status()
                took_ms.append((clock.monotonic_s() - started_s) * 1000)
                raw.append(answer)

        await asyncio.gather(*(caller(first) for first in range(concurrent)))
    return took_ms, [decode(answer) for answer in raw]
