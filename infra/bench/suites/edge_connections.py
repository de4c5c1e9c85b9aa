"""10,000 idle keep-alive connections beside a load on 50: memory a connection, and what it does to the p99.

A real edge with everything on; every idle connection has been answered once and stays open. In each run the load is
measured without and then with the idle connections, on cached personal lists of 2 KB.

Options: idle=10000, connections=50, seconds=4, users=500.
"""

import contextlib
import resource
import socket
from collections.abc import Iterator

from infra.bench.catalogue import BenchRequest
from infra.bench.results import Measured, at_most, medians
from infra.bench.serving.edges import make_bed, running_edge, running_region
from infra.bench.serving.load import Caller, load, write_requests
from infra.bench.serving.processes import HOST, Server
from infra.bench.serving.warming import warm
from infra.plumbing.errors import UnavailableError

TARGET = "/v1/recommendations/personal?n=11"
SPARE_FILES = 1_000


def run(request: BenchRequest) -> Measured:
    """See the module."""
    idle = int(request.number("idle", 500 if request.quick else 10_000))
    _allow_files(idle + SPARE_FILES)
    connections, seconds = int(request.number("connections", 50)), request.number("seconds", 1 if request.quick else 4)
    bed = make_bed(request.work, request.environments, request.clock)
    runs: list[dict[str, float]] = []
    with contextlib.ExitStack() as stack:
        edge = stack.enter_context(running_edge(bed, stack.enter_context(running_region(bed))))
        callers = [Caller(token) for token in bed.tokens(int(request.number("users", 500)))]
        warm(edge, callers, TARGET)
        lines = request.work / "requests.txt"
        write_requests(lines, callers, target=lambda _number: TARGET, count=20_000, seed=1)

        def p99_ms() -> float:
            seen = load(
                edge, lines, connections=connections, duration_s=seconds, cores=bed.cores, work=request.work
            )  # fmt: skip
            return seen.p99_ms

        for number in range(request.runs):
            request.progress.advance(number, request.runs, "runs")
            alone_ms, before = p99_ms(), edge.rss_bytes()
            with _idle_connections(edge, idle, callers[0]):
                taken = (edge.rss_bytes() - before) / idle
                beside_ms = p99_ms()
            runs.append(
                {"bytes_per_connection": taken, "p99_ratio": beside_ms / alone_ms, "alone": alone_ms, "idle": beside_ms}
            )
    figures = medians(runs)
    # Memory that a run has freed is used again by the next one: only the first shows what connections take.
    taken = runs[0]["bytes_per_connection"]
    return Measured(
        figures={"bytes_per_connection": taken, "p99_ratio": figures["p99_ratio"]},
        bars=(at_most(f"p99 beside {idle} idle connections, to that without", figures["p99_ratio"], 2.0, unit="x"),),
        peers={"without": {"p99_ms": figures["alone"]}, "with": {"p99_ms": figures["idle"]}},
        notes=(
            "bytes_per_connection is the edge process's resident memory; the kernel's socket buffers are not in it",
        ),
    )


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= count:
        return
    try:
        # The edge inherits it.
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(hard, count)))
    except (ValueError, OSError) as error:
        raise UnavailableError(
            f"this process may open {soft} files and needs {count}.", fix="Raise `ulimit -n`, or say --set idle=500."
        ) from error


@contextlib.contextmanager
def _idle_connections(edge: Server, count: int, caller: Caller) -> Iterator[None]:
    """`count` connections that were answered once and then say nothing."""
    request = f"GET {TARGET} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {caller.token}\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection((HOST, edge.port), timeout=10))
            connection.sendall(request)
            if not _whole_answer(connection):
                raise UnavailableError("the edge closed a connection that was to stay idle.")
        yield


def _whole_answer(connection: socket.socket) -> bool:
    """Read one answer to its end."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65_536) or b"\r\n\r\n"
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (int(line[16:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length: ")), None
    )
    while length is not None and len(body) < length:
        more = connection.recv(65_536)
        if not more:
            return False
        body += more
    return length is not None
