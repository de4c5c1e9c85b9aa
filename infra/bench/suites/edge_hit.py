"""Cached personal lists of 2 KB: the edge against nginx, Varnish and plain aiohttp, one process and one core each.

All rivals cache what the same edge answers, by user and target, and are loaded by wrk with the same requests: many
users, whose tokens and header lines differ from one request to the next on every connection. The edge checks tokens,
counts callers' limits and metrics, samples spans and log lines meanwhile; the rivals do none of that and write no log.
Servers run on the first core of this process, wrk on the last. Runs are interleaved, ratios are paired run by run.

Options: users=2000, connections=64, seconds=4 (of each load).
"""

import contextlib
import http.client
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from infra.bench.catalogue import BenchRequest
from infra.bench.results import Measured, at_least, at_most, medians
from infra.bench.serving.edges import Bed, make_bed, running_edge, running_region
from infra.bench.serving.load import Caller, Loaded, load, write_requests
from infra.bench.serving.processes import HOST, Server
from infra.bench.serving.rivals import running_nginx, running_plain, running_varnish
from infra.plumbing.errors import UnavailableError

TARGET: Final = "/v1/recommendations/personal?n=11"
REQUESTS: Final = 40_000
PAUSE_MS: Final = 3
"""Between two requests of a connection in the third load, which gives every server the same, about a third of what it
can do: at full speed the faster server is measured by a busier wrk, whose own queue is in its p99."""
WRK_BOUND: Final = 0.9
"""Above this share of its core wrk is taken to be what bounds a figure."""
WARM_PASSES: Final = 3
"""Of the edge: the first fills, in the second the hot path learns the list, in the third the 304."""
RIVALS: Final[Mapping[str, Callable[[Bed, Server], contextlib.AbstractContextManager[Server]]]] = {
    "nginx": running_nginx,
    "varnish": running_varnish,
    "aiohttp": running_plain,
}


def run(request: BenchRequest) -> Measured:
    """See the module."""
    users = int(request.number("users", 200 if request.quick else 2000))
    connections = int(request.number("connections", 64))
    seconds = request.number("seconds", 1.0 if request.quick else 4.0)
    bed = make_bed(request.work, request.environments, request.clock)
    seen: list[dict[str, dict[str, Loaded]]] = []
    with contextlib.ExitStack() as stack:
        servers = dict(_started(stack, bed))
        callers = [Caller(token) for token in bed.tokens(users)]
        callers, body_bytes = _warm(servers, callers)
        lists = {name: request.work / f"{name}.txt" for name in ("full", "short", "paced")}
        for name, path in lists.items():
            write_requests(
                path, callers, target=lambda _number: TARGET, count=REQUESTS, seed=len(name),
                conditional=name == "short",
            )  # fmt: skip
        for number in range(request.runs):
            request.progress.advance(number, request.runs, "runs")
            order = list(servers)[number % len(servers) :] + list(servers)[: number % len(servers)]
            seen.append(
                {
                    name: {
                        kind: load(
                            servers[name], path, connections=connections, duration_s=seconds, cores=bed.cores,
                            work=request.work, pause_ms=PAUSE_MS if kind == "paced" else 0,
                        )
                        for kind, path in lists.items()
                    }
                    for name in order
                }
            )  # fmt: skip
    return _measured(seen, body_bytes, one_core=bed.cores.server == bed.cores.load)


def _started(stack: contextlib.ExitStack, bed: Bed) -> Iterator[tuple[str, Server]]:
    region = stack.enter_context(running_region(bed))
    edge = stack.enter_context(running_edge(bed, region))
    yield "edge", edge
    for name, start in RIVALS.items():
        yield name, stack.enter_context(start(bed, edge))


def _warm(servers: Mapping[str, Server], callers: list[Caller]) -> tuple[list[Caller], int]:
    """Have every server hold every caller's list; returns the callers with their lists' tags, and a list's size.

    Raises:
        UnavailableError: two servers gave different bytes for one call, or none were cached.
    """
    tags: dict[str, str] = {}
    bodies: dict[str, bytes] = {}
    for name, server in servers.items():
        connection = http.client.HTTPConnection(HOST, server.port, timeout=10)
        for number in range(WARM_PASSES if name == "edge" else 1):
            for caller in callers:
                headers = {"Authorization": f"Bearer {caller.token}"}
                if number == WARM_PASSES - 1:
                    headers["If-None-Match"] = tags[caller.token]
                connection.request("GET", TARGET, headers=headers)
                response = connection.getresponse()
                body = response.read()
                if response.status not in (200, 304):
                    raise UnavailableError(f"{name} answered {response.status} while its cache was filled.")
                tags[caller.token] = response.headers["ETag"]
                if response.status == 200 and bodies.setdefault(caller.token, body) != body:
                    raise UnavailableError(f"{name} serves another body than the servers before it.")
        connection.close()
    return [Caller(caller.token, tags[caller.token]) for caller in callers], len(next(iter(bodies.values())))


def _measured(seen: list[dict[str, dict[str, Loaded]]], body_bytes: int, *, one_core: bool) -> Measured:
    ratios = [_ratios(run) for run in seen]
    figures = medians(ratios)
    peers = {name: medians([_figures(run[name]) for run in seen]) for name in seen[0]}
    notes = [f"the list has {body_bytes} bytes; the edge's own figures stand among the peers"]
    busy = max(peers["edge"]["load_busy"], peers["edge"]["not_modified_load_busy"])
    if busy > WRK_BOUND:
        notes.append(f"wrk took {busy:.0%} of its core: it bounds the edge's requests/s, the CPU ratios say more")
    if one_core:
        notes.append("this machine has one core: servers and wrk shared it")
    return Measured(
        figures={**figures, "rps": peers["edge"]["rps"], "cpu_us": peers["edge"]["cpu_us"]},
        bars=(
            at_least("requests/s of nginx", figures["rps_ratio_nginx"], 1.3, unit="x"),
            at_most("CPU a request of nginx", figures["cpu_ratio_nginx"], 0.75, unit="x"),
            at_most("p99 of nginx", figures["p99_ratio_nginx"], 1.0, unit="x"),
            at_least("304 answers/s of nginx", figures["not_modified_rps_ratio_nginx"], 1.3, unit="x"),
        ),
        peers=peers,
        notes=tuple(notes),
    )


def _ratios(run: Mapping[str, Mapping[str, Loaded]]) -> dict[str, float]:
    edge, nginx = run["edge"], run["nginx"]
    return {
        "rps_ratio_nginx": edge["full"].rps / nginx["full"].rps,
        "cpu_ratio_nginx": edge["full"].cpu_us / nginx["full"].cpu_us,
        "p99_ratio_nginx": edge["full"].p99_ms / nginx["full"].p99_ms,
        "paced_p99_ratio_nginx": edge["paced"].p99_ms / nginx["paced"].p99_ms,
        "not_modified_cpu_ratio_nginx": edge["short"].cpu_us / nginx["short"].cpu_us,
        "not_modified_rps_ratio_nginx": edge["short"].rps / nginx["short"].rps,
        "rps_ratio_varnish": edge["full"].rps / run["varnish"]["full"].rps,
        "rps_ratio_aiohttp": edge["full"].rps / run["aiohttp"]["full"].rps,
    }


def _figures(loads: Mapping[str, Loaded]) -> dict[str, float]:
    full, short, paced = loads["full"], loads["short"], loads["paced"]
    return {
        "rps": full.rps, "cpu_us": full.cpu_us, "p50_ms": full.p50_ms, "p99_ms": full.p99_ms,
        "not_modified_rps": short.rps, "not_modified_cpu_us": short.cpu_us, "load_busy": full.load_busy,
        "not_modified_load_busy": short.load_busy, "paced_rps": paced.rps, "paced_p99_ms": paced.p99_ms,
    }  # fmt: skip
