"""Hit rate of the edge's in-process cache at equal bytes, against packaged caches and one that knows the future.

The trace is made up and seeded: Zipf popularity, scans whose lists are asked for once, places in the order of
popularity that move, and lists of four sizes. Each run has a seed of its own. Rates are counted after the first tenth,
in which all caches fill. The edge's own cache is `edge.cache.l1`; the same code runs in the edge.

Options: requests=150000, keys=15000, exponent=0.9, scan=0.1, moved=0.5 (of the keys, over the trace), bytes=0.4 (of all
lists that belong to somebody).
"""

from collections.abc import Callable

from infra.bench.catalogue import BenchRequest
from infra.bench.results import Measured, at_least, medians
from infra.bench.serving.policies import RIVALS, Clairvoyant, Own, Policy, Theine
from infra.bench.serving.traces import Trace, make_trace

FIRST_SEED = 7
WARM_SHARE = 0.1


def run(request: BenchRequest) -> Measured:
    """See the module."""
    makers: dict[str, Callable[[Trace, int], Policy]] = {"edge": Own, **RIVALS, "clairvoyant": Clairvoyant}
    runs = []
    for number in range(request.runs):
        trace = make_trace(
            requests=int(request.number("requests", 10_000 if request.quick else 150_000)),
            keys=int(request.number("keys", 1_000 if request.quick else 15_000)),
            exponent=request.number("exponent", 0.9), scan_share=request.number("scan", 0.1),
            moved_share=request.number("moved", 0.5), seed=FIRST_SEED + number,
        )  # fmt: skip
        bytes_max = int(request.number("bytes", 0.4) * trace.working_set_bytes)
        rates = {}
        for place, (name, make) in enumerate(makers.items()):
            request.progress.advance(number * len(makers) + place, request.runs * len(makers), name)
            rates[name] = _hit_points(make(trace, bytes_max), trace)
        runs.append(rates)
    return _measured(runs)


def _hit_points(policy: Policy, trace: Trace) -> float:
    warm = int(WARM_SHARE * len(trace.keys))
    for key in trace.keys[:warm]:
        policy.ask(key)
    hits = sum(policy.ask(key) for key in trace.keys[warm:])
    if isinstance(policy, Theine):
        policy.close()
    return 100.0 * hits / (len(trace.keys) - warm)


def _measured(runs: list[dict[str, float]]) -> Measured:
    figures = medians(
        [
            {
                "hit_points_vs_best": rates["edge"] - max(rates[name] for name in RIVALS),
                "hit_points_vs_clairvoyant": rates["edge"] - rates["clairvoyant"],
            }
            for rates in runs
        ]
    )
    return Measured(
        figures=figures,
        bars=(
            at_least("hit points over the best packaged cache", figures["hit_points_vs_best"], 0.0, unit="points"),
            at_least("hit points over the clairvoyant", figures["hit_points_vs_clairvoyant"], -5.0, unit="points"),
        ),
        peers={name: {"hit_points": rate} for name, rate in medians(runs).items()},
        notes=("theine counts entries: it got as many as lists of mean size fit into the bytes",),
    )
