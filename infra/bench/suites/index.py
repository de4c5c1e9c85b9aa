"""The release's ScaNN index against FAISS at equal recall: recall@100, CPU per query, what a switch costs an answer.

Vectors are a Zipf mixture of 2,000 clusters (64 dimensions); queries lie near the catalogue and are not those that the
index was tuned on; what they should find comes from all dot products. ScaNN is built and tuned by central's own builder
and searched as a retrieval process does, with what the release says. FAISS `IVF,PQ32x4fs,Refine(SQfp16)` has codes and
a training sample of the same size and is brought to ScaNN's recall on these very queries by the cheapest of its numbers
of lists, kinds of codes, nprobe and refinements. CPU is that of one thread, queries one by one, both in turn.

`switch_stall_ms`: a region answers one list after the other while a release of this size is loaded and promoted; the
longest answer then, less the longest of as many answers of the same round without, half of them before and half after.
`switch_p999_extra_ms` is the same of the 99.9th percentile. Above 2 M items the answers are those of the retrieval
process alone, for which no whole release has to be made.

Options: `items` (default 1000000; figures are called recall_10m at 10000000; several with commas: ratio and stall are
then the worst), `queries` (default 300), `switch` (`region`, `process` or `none`; default by size, as above),
`rival_lists` (numbers of FAISS lists with commas; default once and twice the root of the items), `rival_kinds`
(default fs,fsr: codes of vectors and of residuals).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import uvloop

from central.release.index import build_index
from central.release.tuning import exact_neighbours
from infra.bench.catalogue import BenchRequest
from infra.bench.miss.vectors import clustered, queries
from infra.bench.results import Measured, at_least, at_most, medians
from infra.bench.retrieval.rival import KINDS, Rival, rival_at
from infra.bench.retrieval.searching import NEIGHBOURS, Search, cpu_ms_of, recall_with
from infra.bench.retrieval.switching import switched_processes
from infra.contracts.features import FloatArray, IntArray
from infra.contracts.release import (
    FORMAT_VERSION,
    INDEX_REPORT,
    ITEM_VECTORS,
    SCANN_PREFIX,
    FileEntry,
    IndexReport,
    Manifest,
    ModelShape,
)
from infra.plumbing.errors import InvalidInputError
from region.retrieval.index import load_index

DIM = 64
LARGE_ITEMS = 2_000_000
STEPS = 5
SWITCHES = ("region", "process", "none")
NAMES = {1_000_000: "1m", 10_000_000: "10m"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """What was found at one size."""

    name: str
    count: int
    recall: float
    rival: Rival
    report: IndexReport
    switch: str
    rounds: dict[str, float]


def run(request: BenchRequest) -> Measured:
    """Every size in turn: both indexes are built once, and measured in `request.runs` rounds.

    Raises:
        InvalidInputError: an option says nothing that there is.
    """
    sizes = _numbers(request, "items", [50_000 if request.quick else 1_000_000])
    found = [_sized(request, count) for count in sizes]
    figures = _figures(found)
    bars = [
        at_least(f"recall@100 of {one.count:,} items against exact search", one.recall, _wanted(one), unit="share")
        for one in found
    ]
    bars.append(at_most("CPU per query against FAISS at equal recall", figures["cpu_ratio_faiss"], 0.5, unit="x"))
    stall = figures.get("switch_stall_ms")
    bars.append(at_most("longest answer while an index is switched, less without", stall, 5.0, unit="ms"))
    peer = {f"recall_{one.name}": one.rival.recall for one in found}
    peer |= {f"cpu_ms_{one.name}": one.rounds["faiss_cpu_ms"] for one in found}
    return Measured(figures=figures, bars=tuple(bars), peers={"faiss": peer}, notes=tuple(map(_note, found)))


def _figures(found: Sequence[Sized]) -> dict[str, float]:
    """Those of one size as they are; of several with the size behind them, and the worst of what a bar asks for."""
    figures: dict[str, float] = {f"recall_{one.name}": one.recall for one in found}
    for one in found:
        own = {key: value for key, value in one.rounds.items() if key != "faiss_cpu_ms"}
        figures |= own if len(found) == 1 else {f"{key}_{one.name}": value for key, value in own.items()}
    for key in ("cpu_ratio_faiss", "switch_stall_ms"):
        if seen := [one.rounds[key] for one in found if key in one.rounds]:
            figures[key] = max(seen)
    return figures


def _wanted(one: Sized) -> float:
    return 0.98 if one.count <= LARGE_ITEMS else 0.95


def _note(one: Sized) -> str:
    report = one.report
    return (
        f"{one.count:,} vectors of {DIM}; ScaNN {report.kind}: {report.leaves} leaves, {report.leaves_to_search} "
        f"searched, {report.reorder} reordered ({report.reason}); FAISS {one.rival.setting}, the cheapest of "
        f"{one.rival.tried} settings with this recall; switched: {one.switch}."
    )


def _sized(request: BenchRequest, count: int) -> Sized:
    work = request.work / f"items-{count}"
    work.mkdir()
    switch = request.options.get("switch") or ("region" if count <= LARGE_ITEMS else "process")
    if switch not in SWITCHES:
        raise InvalidInputError(f"there is no switch {switch!r}.", fix=f"Say one of {', '.join(SWITCHES)}.")
    say = _saying(request, count)
    say("building the release's index")
    release = _whole_release(request, count) if switch == "region" else _bare_release(count, work)
    vectors: FloatArray = np.load(release / ITEM_VECTORS, mmap_mode="r")
    say("searching for what should be found")
    asked = queries(vectors, int(request.number("queries", 300)), seed=2)
    exact = exact_neighbours(vectors, asked, NEIGHBOURS)
    index, _ = load_index(release)

    def scann(query: FloatArray) -> IntArray:
        return index.search(query, NEIGHBOURS)[0]

    recall, _ = recall_with(scann, asked, exact)
    rival = rival_at(
        recall, vectors=vectors, asked=asked, exact=exact, say=say,
        leaves=_numbers(request, "rival_lists", [round(times * count**0.5) for times in (1, 2)]),
        kinds=request.options.get("rival_kinds", ",".join(KINDS)).split(","),
    )  # fmt: skip
    say(f"measuring CPU at a recall of {recall:.4f} against {rival.recall:.4f} of {rival.setting}")
    cpu = [_cpu(scann, rival.search, asked, exact) for _ in range(request.runs)]
    say(f"switching ({cpu[-1]['cpu_ms']:.3f} ms of CPU a query against {cpu[-1]['faiss_cpu_ms']:.3f})")
    switched = _switches(request, switch, release, work, asked)
    report = msgspec.json.decode((release / INDEX_REPORT).read_bytes(), type=IndexReport)
    return Sized(
        name=NAMES.get(count, f"n{count}"), count=count, recall=recall, rival=rival, report=report, switch=switch,
        rounds=medians(cpu) | medians(switched),
    )  # fmt: skip


def _saying(request: BenchRequest, count: int) -> Callable[[str], None]:
    said: list[str] = []

    def say(what: str) -> None:
        request.progress.advance(min(len(said), STEPS + 5), STEPS + 6, f"{count:,} items: {what}")
        said.append(what)

    return say


def _cpu(ours: Search, theirs: Search, asked: FloatArray, exact: IntArray) -> dict[str, float]:
    own_ms, their_ms = cpu_ms_of(ours, asked, exact), cpu_ms_of(theirs, asked, exact)
    return {"cpu_ms": own_ms, "faiss_cpu_ms": their_ms, "cpu_ratio_faiss": own_ms / their_ms}


def _switches(
    request: BenchRequest, switch: str, release: Path, work: Path, asked: FloatArray
) -> list[dict[str, float]]:  # fmt: skip
    """What each of `request.runs` switches cost."""
    if switch == "region":
        # A region's rooms are needed for a region only.
        from infra.bench.retrieval.region_switching import switched_regions  # noqa: PLC0415

        return switched_regions(request, release)
    rounds = []
    for number in range(request.runs if switch == "process" else 0):
        sockets = work / f"s{number}"
        sockets.mkdir()
        rounds.append(uvloop.run(switched_processes(release, sockets, asked, NEIGHBOURS, request.clock)))
    return rounds


def _numbers(request: BenchRequest, name: str, default: list[int]) -> list[int]:
    words = request.options.get(name, "")
    try:
        return [int(float(word)) for word in words.split(",")] if words else default
    except ValueError:
        raise InvalidInputError(f"the option {name} is {words!r}, not numbers with commas.") from None


def _whole_release(request: BenchRequest, count: int) -> Path:
    from infra.bench.miss.node import made_release  # noqa: PLC0415

    return made_release(request, count)


def _bare_release(count: int, work: Path) -> Path:
    """What a retrieval process loads: the index, its report and a manifest; and the vectors that are in it."""
    folder = work / "release"
    folder.mkdir(parents=True)
    vectors, _ = clustered(count, DIM, seed=0)
    np.save(folder / ITEM_VECTORS, vectors)
    build_index(vectors, folder / SCANN_PREFIX)
    none = FileEntry(sha256=hashlib.sha256(b"").hexdigest(), length=0)
    manifest = Manifest(
        format_version=FORMAT_VERSION, created_at_ms=0, dataset="", dataset_sha256="", parent=None, origin="central",
        shape=ModelShape(
            dim=DIM, history_length=1, num_items=count, num_categories=0, ranker_batch=1, num_ranking_inputs=1,
            heads=("click",), categories=(),
        ),
        metrics={}, gates={}, files={"none": none},
    )  # fmt: skip
    (folder / "manifest.json").write_bytes(manifest.canonical_bytes())
    return folder
