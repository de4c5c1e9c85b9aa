"""The release's ScaNN index against FAISS at equal recall: recall@100, CPU per query, what a switch costs an answer.

Vectors are a Zipf mixture of 2,000 clusters (64 dimensions); queries lie near the catalogue and are not those that the
index was tuned on; what they should find comes from all dot products. ScaNN is built and tuned by central's own builder
and searched as a retrieval process does, with what the release says. FAISS `IVF,PQ32x4fs,Refine(SQfp16)` has codes and
a training sample of the same size and is brought to ScaNN's recall on these very queries by the cheapest of its numbers
of lists, nprobe and refinements. CPU is that of one thread, queries one by one, all in turn. Both lie in large pages,
as in a retrieval process.

`cpu_ratio_faiss` is against codes of the vectors, `PQ4fs`; `cpu_ratio_faiss_residual` against codes of their residuals,
`PQ4fsr`, which FAISS has too and with which it reaches the same recall for less.

`switch_stall_ms`: a region answers one list after the other while a release of this size is loaded and promoted; the
longest answer then, less the longest of as many answers of the same round without, half of them before and half after.
`switch_p999_extra_ms` is the same of the 99.9th percentile; `switch_loading_max_ms`, `switch_after_max_ms` and
`calm_max_ms` are the longest answers themselves. Above 2 M items the answers are those of the retrieval
process alone, for which no whole release has to be made.

Options: `items` (default 1000000; figures are called recall_10m at 10000000; several with commas: ratio and stall are
then the worst), `queries` (default 1000, above 2 M items 300), `switch` (`region`, `process` or `none`; default by
size, as above), `rival_lists` (numbers of FAISS lists with commas; default once and twice the root of the items, above
2 M once), `rival_kinds` (default fs,fsr: as above; above 2 M items fs).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
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
from infra.bench.retrieval.rival import KINDS, Rival, rivals_at
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
QUERIES, QUERIES_LARGE = 1_000, 300
RATIOS = {"fs": "cpu_ratio_faiss", "fsr": "cpu_ratio_faiss_residual"}
"""The figure for each kind of codes."""
NAMES = {1_000_000: "1m", 10_000_000: "10m"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """What was found at one size."""

    name: str
    count: int
    recall: float
    rivals: Mapping[str, Rival]
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
    ratio = figures.get(RATIOS["fs"])
    bars.append(at_most("CPU per query against FAISS IVF,PQ4fs,Refine at equal recall", ratio, 0.5, unit="x"))
    stall = figures.get("switch_stall_ms")
    bars.append(at_most("longest answer while an index is switched, less without", stall, 5.0, unit="ms"))
    peer: dict[str, float] = {}
    for one in found:
        for kind, rival in one.rivals.items():
            peer |= {
                f"recall_{kind}_{one.name}": rival.recall,
                f"cpu_ms_{kind}_{one.name}": one.rounds[_faiss_cpu(kind)],
            }
    return Measured(figures=figures, bars=tuple(bars), peers={"faiss": peer}, notes=tuple(map(_note, found)))


def _figures(found: Sequence[Sized]) -> dict[str, float]:
    """Those of one size as they are; of several with the size behind them, and the worst of what a bar asks for."""
    figures: dict[str, float] = {f"recall_{one.name}": one.recall for one in found}
    for one in found:
        theirs = {_faiss_cpu(kind) for kind in one.rivals}
        own = {key: value for key, value in one.rounds.items() if key not in theirs}
        figures |= own if len(found) == 1 else {f"{key}_{one.name}": value for key, value in own.items()}
    for key in (*RATIOS.values(), "switch_stall_ms"):
        if seen := [one.rounds[key] for one in found if key in one.rounds]:
            figures[key] = max(seen)
    return figures


def _wanted(one: Sized) -> float:
    return 0.98 if one.count <= LARGE_ITEMS else 0.95


def _faiss_cpu(kind: str) -> str:
    return f"faiss_{kind}_cpu_ms"


def _note(one: Sized) -> str:
    report = one.report
    theirs = "; ".join(
        f"FAISS {rival.setting}, the cheapest of {rival.tried} settings with this recall"
        for rival in one.rivals.values()
    )
    return (
        f"{one.count:,} vectors of {DIM}; ScaNN {report.kind}: {report.leaves} leaves, {report.leaves_to_search} "
        f"searched, {report.reorder} reordered ({report.reason}); {theirs}; switched: {one.switch}."
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
    large = count > LARGE_ITEMS
    asked = queries(vectors, int(request.number("queries", QUERIES_LARGE if large else QUERIES)), seed=2)
    exact = exact_neighbours(vectors, asked, NEIGHBOURS)
    index, _ = load_index(release)

    def scann(query: FloatArray) -> IntArray:
        return index.search(query, NEIGHBOURS)[0]

    recall, _ = recall_with(scann, asked, exact)
    rivals = rivals_at(
        recall, vectors=vectors, asked=asked, exact=exact, say=say,
        leaves=_numbers(request, "rival_lists", [round(times * count**0.5) for times in ((1,) if large else (1, 2))]),
        kinds=_kinds(request, large=large),
    )  # fmt: skip
    say(f"measuring CPU at a recall of {recall:.4f} against {', '.join(map(_told, rivals.values()))}")
    cpu = [_cpu(scann, rivals, asked, exact) for _ in range(request.runs)]
    say(f"switching ({', '.join(f'{key} {value:.3f}' for key, value in cpu[-1].items())})")
    switched = _switches(request, switch, release, work, asked)
    report = msgspec.json.decode((release / INDEX_REPORT).read_bytes(), type=IndexReport)
    return Sized(
        name=NAMES.get(count, f"n{count}"), count=count, recall=recall, rivals=rivals, report=report,
        switch=switch, rounds=medians(cpu) | medians(switched),
    )  # fmt: skip


def _saying(request: BenchRequest, count: int) -> Callable[[str], None]:
    said: list[str] = []

    def say(what: str) -> None:
        request.progress.advance(min(len(said), STEPS + 5), STEPS + 6, f"{count:,} items: {what}")
        said.append(what)

    return say


def _told(rival: Rival) -> str:
    return f"{rival.recall:.4f} of {rival.setting}"


def _cpu(ours: Search, rivals: Mapping[str, Rival], asked: FloatArray, exact: IntArray) -> dict[str, float]:
    own_ms = cpu_ms_of(ours, asked, exact)
    found = {"cpu_ms": own_ms}
    for kind, rival in rivals.items():
        found[_faiss_cpu(kind)] = cpu_ms_of(rival.search, asked, exact)
        found[RATIOS[kind]] = own_ms / found[_faiss_cpu(kind)]
    return found


def _switches(
    request: BenchRequest, switch: str, release: Path, work: Path, asked: FloatArray
) -> list[dict[str, float]]:  # fmt: skip
    """What each of `request.runs` switches cost."""
    if switch == "region":
        # A region's rooms are needed for a region only.
        from infra.bench.retrieval.region_switching import switched_regions  # noqa: PLC0415

        return switched_regions(request, release)
    if switch == "none":
        return []
    # Short: the path of a socket is bounded.
    sockets = work / "s"
    sockets.mkdir()
    costs: list[dict[str, float]] = uvloop.run(
        switched_processes(release, sockets, asked, NEIGHBOURS, request.clock, rounds=request.runs)
    )
    return costs


def _kinds(request: BenchRequest, *, large: bool) -> list[str]:
    given = request.options.get("rival_kinds", "fs" if large else ",".join(KINDS)).split(",")
    if unknown := [kind for kind in given if kind not in KINDS]:
        raise InvalidInputError(f"FAISS has no codes {unknown[0]!r}.", fix=f"Say one or both of {', '.join(KINDS)}.")
    return given


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
