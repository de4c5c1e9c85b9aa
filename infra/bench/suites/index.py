"""The release's ScaNN index against FAISS at equal recall: recall@100, CPU per query, what a switch costs an answer.

Vectors are a Zipf mixture of 2,000 clusters (64 dimensions); queries lie near the catalogue and are not those that the
index was tuned on. Both are built and tuned in this run: ScaNN by central's own builder with what it writes into the
release, FAISS `IVF2000,PQ32x4fs,Refine(SQfp16)` by the cheapest nprobe and refinement that reach ScaNN's recall. CPU is
that of one thread, queries one by one. `switch_stall_ms`: searches go on against a retrieval process, one after the
other on the loop that a region has (uvloop), while that loop starts a second one, which loads the same index, is warmed
and takes over; the longest answer then, less the longest of as many answers of the same run without a switch, half of
them before and half after. `switch_p999_extra_ms` is the same of the 99.9th percentile.
Options: `items` (default 1000000; figures are called recall_10m at 10 M), `queries` (default 300).
"""

import asyncio
import hashlib
import itertools
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import uvloop

from central.release.index import build_index
from central.release.tuning import exact_neighbours, recall_of
from infra.bench.catalogue import BenchRequest
from infra.bench.miss.vectors import clustered, queries
from infra.bench.results import Measured, at_least, at_most, medians, percentile
from infra.contracts.features import FloatArray, IntArray
from infra.contracts.release import FORMAT_VERSION, FileEntry, IndexReport, Manifest, ModelShape
from infra.plumbing.clock import Clock
from infra.plumbing.errors import UnavailableError
from region.retrieval.index import load_index
from region.retrieval.process import RetrievalProcess

DIM, NEIGHBOURS = 64, 100
FACTORY = "IVF{leaves},PQ32x4fs,Refine(SQfp16)"
PROBES = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
REFINEMENTS = (2, 4, 6, 10)
SWITCH_SEARCHES = 400
SEARCH_TIMEOUT_S = 30.0
Search = Callable[[FloatArray], IntArray]


def run(request: BenchRequest) -> Measured:
    """Build both once, measure `request.runs` rounds."""
    count = int(request.number("items", 50_000 if request.quick else 1_000_000))
    vectors, _ = clustered(count, DIM, seed=1)
    asked = queries(vectors, int(request.number("queries", 300)), seed=2)
    exact = exact_neighbours(vectors, asked, NEIGHBOURS)
    request.progress.advance(0, 3, "building the release's index")
    release, report = _release(vectors, request.work)
    index, _ = load_index(release)

    def scann(query: FloatArray) -> IntArray:
        return index.search(query, NEIGHBOURS)[0]

    recall = _recall(scann, asked, exact)
    request.progress.advance(1, 3, "building the rival's index")
    faiss, said = _faiss(vectors, asked, exact, recall)
    request.progress.advance(2, 3, "measuring")
    rounds = []
    for number in range(request.runs):
        ours, theirs = _cpu_ms(scann, asked), _cpu_ms(faiss, asked)
        sockets = request.work / f"s{number}"
        sockets.mkdir()
        stall = uvloop.run(_switch_stall_ms(release, sockets, asked, request.clock))
        rounds.append({"cpu_ms": ours, "faiss_cpu_ms": theirs, "cpu_ratio_faiss": ours / theirs, **stall})
    request.progress.advance(3, 3, "measuring")
    return _measured(medians(rounds), recall, _recall(faiss, asked, exact), count, report, said)


def _measured(
    found: dict[str, float], recall: float, rival: float, count: int, report: IndexReport, said: str
) -> Measured:
    name = {1_000_000: "recall_1m", 10_000_000: "recall_10m"}.get(count, f"recall_n{count}")
    wanted = 0.98 if count <= 2_000_000 else 0.95
    faiss_ms = found.pop("faiss_cpu_ms")
    return Measured(
        figures={name: recall, **found},
        bars=(
            at_least("recall@100 against exact search", recall, wanted, unit="share"),
            at_most("CPU per query against FAISS at equal recall", found["cpu_ratio_faiss"], 0.5, unit="x"),
            at_most(
                "longest answer while an index is switched, less without", found["switch_stall_ms"], 5.0, unit="ms"
            ),
        ),
        peers={"faiss": {name: rival, "cpu_ms": faiss_ms}},
        notes=(
            f"{count:,} vectors of {DIM}; ScaNN {report.kind}: {report.leaves} leaves, {report.leaves_to_search} "
            f"searched, {report.reorder} reordered ({report.reason}); FAISS {said}.",
        ),
    )


def _release(vectors: FloatArray, work: Path) -> tuple[Path, IndexReport]:
    """What a retrieval process loads: the index, its report and a manifest."""
    folder = work / "release"
    folder.mkdir(parents=True)
    report = build_index(vectors, folder / "scann")
    none = FileEntry(sha256=hashlib.sha256(b"").hexdigest(), length=0)
    manifest = Manifest(
        format_version=FORMAT_VERSION, created_at_ms=0, dataset="", dataset_sha256="", parent=None, origin="central",
        shape=ModelShape(
            dim=DIM, history_length=1, num_items=len(vectors), num_categories=0, ranker_batch=1, num_ranking_inputs=1,
            heads=("click",), categories=(),
        ),
        metrics={}, gates={}, files={"none": none},
    )  # fmt: skip
    (folder / "manifest.json").write_bytes(manifest.canonical_bytes())
    msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
    return folder, report


def _faiss(vectors: FloatArray, asked: FloatArray, exact: IntArray, recall: float) -> tuple[Search, str]:
    """The rival, by the cheapest of its settings that reaches `recall`."""
    import faiss  # noqa: PLC0415 - only this suite needs it

    faiss.omp_set_num_threads(1)
    leaves = 2000 if len(vectors) >= 500_000 else max(100, round(2 * len(vectors) ** 0.5))
    library: Any = faiss
    index = library.index_factory(DIM, FACTORY.format(leaves=leaves), library.METRIC_INNER_PRODUCT)
    rng = np.random.default_rng(0)
    sample = rng.choice(len(vectors), size=min(len(vectors), 128 * leaves), replace=False)
    index.train(vectors[sample])
    index.add(vectors)
    inner = library.downcast_index(index.base_index)

    def search_with(probes: int, refinement: int) -> Search:
        def search(query: FloatArray) -> IntArray:
            inner.nprobe, index.k_factor = probes, float(refinement)
            rows: IntArray = index.search(query, NEIGHBOURS)[1].astype(np.int32)
            return rows

        return search

    costs = {}
    for refinement in REFINEMENTS:
        for probes in PROBES:
            search = search_with(probes, refinement)
            if _recall(search, asked, exact) >= recall:
                costs[probes, refinement] = _cpu_ms(search, asked)
                break
    if not costs:
        raise UnavailableError(f"FAISS does not reach a recall of {recall:.3f} with {max(PROBES)} lists.")
    best = min(costs, key=lambda setting: costs[setting])
    return search_with(*best), f"{FACTORY.format(leaves=leaves)}, nprobe {best[0]}, k_factor {best[1]}"


def _recall(search: Search, asked: FloatArray, exact: IntArray) -> float:
    return recall_of(np.concatenate([search(query[None]) for query in asked]), exact)


def _cpu_ms(search: Search, asked: FloatArray) -> float:
    """CPU of this thread for one query, the median of three passes over all of them."""
    passes = []
    for _ in range(3):
        before = _thread_s()
        for query in asked:
            search(query[None])
        passes.append((_thread_s() - before) * 1000 / len(asked))
    return float(np.median(passes))


def _thread_s() -> float:
    used = resource.getrusage(resource.RUSAGE_THREAD)
    return used.ru_utime + used.ru_stime


async def _switch_stall_ms(release: Path, sockets: Path, asked: FloatArray, clock: Clock) -> dict[str, float]:
    """Searches go on while a second process loads, is warmed and takes over; the longest answer with and without."""
    turn = itertools.cycle(asked)

    async def searched(process: RetrievalProcess, count: int) -> list[float]:
        return [await _search_ms(process, next(turn), clock) for _ in range(count)]

    active = RetrievalProcess(release=release, socket=sockets / "a", clock=clock)
    await active.start()
    calm = await searched(active, SWITCH_SEARCHES)
    coming = RetrievalProcess(release=release, socket=sockets / "b", clock=clock, gives_way=True)
    starting = asyncio.create_task(coming.start())
    during: list[float] = []
    while not starting.done():
        during += await searched(active, 1)
    await starting
    retired, active = active, coming
    closing = asyncio.create_task(retired.close())
    during += await searched(active, SWITCH_SEARCHES)
    await closing
    calm += await searched(active, max(0, len(during) - SWITCH_SEARCHES))
    await active.close()
    return {
        "switch_stall_ms": max(0.0, max(during) - max(calm)),
        "switch_p999_extra_ms": max(0.0, percentile(during, 0.999) - percentile(calm, 0.999)),
        "calm_max_ms": max(calm),
        "searches_during_switch": float(len(during)),
    }


async def _search_ms(process: RetrievalProcess, query: FloatArray, clock: Clock) -> float:
    started_s = clock.monotonic_s()
    await process.search(query, NEIGHBOURS, SEARCH_TIMEOUT_S)
    return (clock.monotonic_s() - started_s) * 1000
