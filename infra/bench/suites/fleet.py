"""How many edge processes 180,000 requests/s take at 60, 70 and 80 % hits, computed from what one was measured to do.

Measured on one real edge, one core: CPU a cached answer (personal lists of 2 KB, everything on), and CPU a miss (lists
that nobody asked for before: grid, one call to the region, decoding, caching, the page). Then::

    nodes(h) = ceil( peak * ( h * hit_cpu_s + (1 - h) * miss_cpu_s ) / utilisation )

Options: peak=180000 (requests/s), utilisation=0.6 (of a core, so that the loss of a region's neighbours is absorbed),
seconds=4.
"""

import contextlib
import math
from collections.abc import Callable

from infra.bench.catalogue import BenchRequest
from infra.bench.results import Measured, medians
from infra.bench.serving.edges import make_bed, running_edge, running_region
from infra.bench.serving.load import Caller, load, write_requests
from infra.bench.serving.warming import warm

HIT_TARGET = "/v1/recommendations/personal?n=11"
MISSES_MAX = 60_000
SHARES = (60, 70, 80)


def run(request: BenchRequest) -> Measured:
    """See the module."""
    peak, utilisation = request.number("peak", 180_000), request.number("utilisation", 0.6)
    seconds = request.number("seconds", 1 if request.quick else 4)
    bed = make_bed(request.work, request.environments, request.clock)
    runs: list[dict[str, float]] = []
    with contextlib.ExitStack() as stack:
        edge = stack.enter_context(running_edge(bed, stack.enter_context(running_region(bed))))
        callers = [Caller(token) for token in bed.tokens(500)]
        warm(edge, callers, HIT_TARGET)
        hits, misses = request.work / "hits.txt", request.work / "misses.txt"
        write_requests(hits, callers, target=lambda _number: HIT_TARGET, count=20_000, seed=1)
        for run_number in range(request.runs):
            request.progress.advance(run_number, request.runs, "runs")
            write_requests(misses, callers, target=_new_lists(run_number), count=MISSES_MAX, seed=2)
            cpu_us = {}
            # Few misses at once: what a miss costs, not what the edge does when its region cannot keep up.
            for name, path, connections in (("hit", hits, 32), ("miss", misses, 4)):
                seen = load(
                    edge, path, connections=connections, duration_s=seconds, cores=bed.cores, work=request.work
                )  # fmt: skip
                cpu_us[f"{name}_cpu_us"], cpu_us[f"{name}_rps"] = seen.cpu_us, seen.rps
            runs.append(cpu_us | nodes(cpu_us["hit_cpu_us"], cpu_us["miss_cpu_us"], peak=peak, utilisation=utilisation))
    figures = medians(runs)
    return Measured(
        figures={name: figures[name] for name in figures if name.startswith("nodes_at")},
        peers={"node": {name: value for name, value in figures.items() if not name.startswith("nodes_at")}},
        notes=(
            "nodes(h) = ceil(peak * (h * hit_cpu + (1 - h) * miss_cpu) / utilisation); a node is a process on one core",
            f"assumed: {peak:,.0f} requests/s in all, {utilisation:.0%} of each core used at the peak, load spread "
            "evenly (bounded-load hashing), no TLS on the edge (the balancer ends it), regions that keep up",
            "events and other writes are not counted; the load generator and the made-up region ran beside the edge",
        ),
    )


def _new_lists(run_number: int) -> Callable[[int], str]:
    """A category per request, other ones in every run: no list is asked for twice."""
    return lambda number: f"/v1/recommendations/popular?n=11&category=c{run_number}x{number}"


def nodes(hit_cpu_us: float, miss_cpu_us: float, *, peak: float, utilisation: float) -> dict[str, float]:
    """`nodes_at_<share>` for every share of hits, in percent."""
    return {
        f"nodes_at_{share}": math.ceil(
            peak * (share / 100 * hit_cpu_us + (1 - share / 100) * miss_cpu_us) / 1e6 / utilisation
        )
        for share in SHARES
    }
