"""How many edge processes 180,000 requests/s take at 60, 70 and 80 % hits, computed from what one was measured to do.

Measured on one real edge, one core: CPU a cached answer (personal lists of 2 KB, everything on), and CPU a miss (lists
that nobody asked for before: grid, one call to the region, decoding, caching, the page). Then::

    nodes(h) = ceil( peak * ( h * hit_cpu_s + (1 - h) * miss_cpu_s ) / utilisation )

Each run measures hits, misses, misses, hits (so that a machine that gets busier or quieter falls on both alike), and
what the edge itself counts says whether they were: hits that were `fresh`, misses that the region made. A run of which
less than 99 % were is measured again, at most twice, then the suite gives up: a miss that the ladder answered from
memory because the machine was busy is cheap, and would make the fleet too small.

Options: peak=180000 (requests/s), utilisation=0.6 (of a core, so that the loss of a region's neighbours is absorbed),
seconds=4 (of each kind in each run).
"""

import contextlib
import http.client
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.bench.catalogue import BenchRequest
from infra.bench.results import Measured, medians
from infra.bench.serving.edges import Bed, make_bed, running_edge, running_region
from infra.bench.serving.load import Caller, Loaded, load, write_requests
from infra.bench.serving.processes import HOST, Server
from infra.bench.serving.warming import warm
from infra.plumbing.errors import UnavailableError

HIT_TARGET = "/v1/recommendations/personal?n=11"
MISSES_MAX = 60_000
SHARES = (60, 70, 80)
TRIES, TRUE_SHARE_MIN = 3, 0.99
ORDER = ("hit", "miss", "miss", "hit")
CONNECTIONS = {"hit": 32, "miss": 4}
"""Few misses at once: what a miss costs, not what the edge does when its region cannot keep up."""
STEP_OF = {"hit": "fresh", "miss": "home"}
_ANSWERS = re.compile(r'atoll_edge_answers_total\{step="([a-z-]+)",type="[a-z-]+"\} ([0-9.e+]+)')


@dataclass(frozen=True, slots=True)
class Piece:
    """One kind of load on the edge, once: what it cost, and how it was answered."""

    kind: str
    seen: Loaded
    steps: Mapping[str, float]


def run(request: BenchRequest) -> Measured:
    """See the module.

    Raises:
        UnavailableError: wrk or the edge failed, or the edge did not do what was to be measured.
    """
    peak, utilisation = request.number("peak", 180_000), request.number("utilisation", 0.6)
    seconds = request.number("seconds", 2 if request.quick else 4)
    bed = make_bed(request.work, request.environments, request.clock)
    runs: list[dict[str, float]] = []
    with contextlib.ExitStack() as stack:
        edge = stack.enter_context(running_edge(bed, stack.enter_context(running_region(bed))))
        callers = [Caller(token) for token in bed.tokens(500)]
        warm(edge, callers, HIT_TARGET)
        hits = request.work / "hits.txt"
        write_requests(hits, callers, target=lambda _number: HIT_TARGET, count=20_000, seed=1)
        for run_number in range(request.runs):
            request.progress.advance(run_number, request.runs, "runs")
            node = _true_node(edge, callers, hits, bed, run_number, seconds=seconds)
            runs.append(
                node | nodes(node["hit_cpu_us"], node["miss_cpu_us"], peak=peak, utilisation=utilisation)
            )  # fmt: skip
    figures = medians(runs)
    between = ", ".join(
        f"{min(run[key] for run in runs):.0f} to {max(run[key] for run in runs):.0f} ({key})"
        for key in nodes(0, 0, peak=0, utilisation=1)
    )
    return Measured(
        figures={name: figures[name] for name in figures if name.startswith("nodes_at")},
        peers={"node": {name: value for name, value in figures.items() if not name.startswith("nodes_at")}},
        notes=(
            "nodes(h) = ceil(peak * (h * hit_cpu + (1 - h) * miss_cpu) / utilisation); a node is a process on one core",
            f"measured in this run: {figures['hit_cpu_us']:.1f} us CPU a hit, {figures['miss_cpu_us']:.0f} us a miss; "
            f"the runs gave {between} nodes",
            f"assumed: {peak:,.0f} requests/s in all, {utilisation:.0%} of each core used at the peak, load spread "
            "evenly (bounded-load hashing), no TLS on the edge (the balancer ends it), regions that keep up",
            "events and other writes are not counted; the load generator and the made-up region ran beside the edge",
        ),
    )


def _true_node(
    edge: Server, callers: Sequence[Caller], hits: Path, bed: Bed, run_number: int, *, seconds: float
) -> dict[str, float]:
    """What the node did in one run; measured again when it did something else.

    Raises:
        UnavailableError: it did something else every time.
    """
    node: dict[str, float] = {}
    for attempt in range(TRIES):
        pieces = []
        for place, kind in enumerate(ORDER):
            path = hits if kind == "hit" else bed.work / "misses.txt"
            if kind == "miss":
                fresh = _new_lists((run_number * TRIES + attempt) * len(ORDER) + place)
                write_requests(path, callers, target=fresh, count=MISSES_MAX, seed=2)
            pieces.append(_piece(edge, kind, path, bed, seconds=seconds / 2))
        node = of_pieces(pieces)
        if min(node["hit_fresh_share"], node["miss_home_share"]) >= TRUE_SHARE_MIN:
            return node
    raise UnavailableError(
        f"the edge answered {node['hit_fresh_share']:.1%} of the hits from its cache and had "
        f"{node['miss_home_share']:.1%} of the misses made by its region: too few to say what they cost.",
        fix="Measure on a machine that does nothing else.",
    )


def _piece(edge: Server, kind: str, path: Path, bed: Bed, *, seconds: float) -> Piece:
    before = _steps(edge)
    seen = load(edge, path, connections=CONNECTIONS[kind], duration_s=seconds, cores=bed.cores, work=bed.work)
    after = _steps(edge)
    return Piece(kind, seen, {step: count - before.get(step, 0.0) for step, count in after.items()})


def _steps(edge: Server) -> dict[str, float]:
    """How many answers the edge has given from each rung so far."""
    connection = http.client.HTTPConnection(HOST, edge.port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    counts: dict[str, float] = {}
    for step, count in _ANSWERS.findall(text):
        counts[step] = counts.get(step, 0.0) + float(count)
    return counts


def of_pieces(pieces: Sequence[Piece]) -> dict[str, float]:
    """CPU a request, requests a second and the share of true ones, of each kind over all its pieces."""
    node: dict[str, float] = {}
    for kind, step in STEP_OF.items():
        own = [piece for piece in pieces if piece.kind == kind]
        requests = sum(piece.seen.requests for piece in own)
        answered = sum(sum(piece.steps.values()) for piece in own)
        node[f"{kind}_cpu_us"] = sum(piece.seen.cpu_us * piece.seen.requests for piece in own) / requests
        node[f"{kind}_rps"] = sum(piece.seen.rps for piece in own) / len(own)
        node[f"{kind}_{step}_share"] = sum(piece.steps.get(step, 0.0) for piece in own) / max(1.0, answered)
    return node


def _new_lists(run_number: int) -> Callable[[int], str]:
    """A category per request, other ones in every piece: no list is asked for twice."""
    return lambda number: f"/v1/recommendations/popular?n=11&category=c{run_number}x{number}"


def nodes(hit_cpu_us: float, miss_cpu_us: float, *, peak: float, utilisation: float) -> dict[str, float]:
    """`nodes_at_<share>` for every share of hits, in percent."""
    return {
        f"nodes_at_{share}": math.ceil(
            peak * (share / 100 * hit_cpu_us + (1 - share / 100) * miss_cpu_us) / 1e6 / utilisation
        )
        for share in SHARES
    }
