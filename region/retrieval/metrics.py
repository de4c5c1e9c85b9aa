"""What a retrieval process counts, and the page where Prometheus reads it.

A retrieval process lives as long as its release does and answers over a Unix socket, so its page has a port that the
kernel picks. The process names it when it says that it is ready; its region's API lists it at `/metrics/targets` and
hands it on (`region/api/targets.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server

from infra.plumbing.telemetry import DURATION_BUCKETS_S

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)


class RetrievalMetrics:
    """Counters of one retrieval process.

    Args:
        registry: where they stand.
        release: whose index this is.
        num_items: how many it holds.
    """

    def __init__(self, registry: CollectorRegistry, *, release: str, num_items: int) -> None:
        ProcessCollector(registry=registry)
        items = Gauge("atoll_retrieval_items", "Items in the index.", ("release",), registry=registry)
        items.labels(release).set(num_items)
        self.searches = Counter("atoll_retrieval_searches", "Searches by outcome.", ("outcome",), registry=registry)
        self.batches = Histogram(
            "atoll_retrieval_batch_searches", "Searches that were done together.", buckets=BATCH_BUCKETS,
            registry=registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "atoll_retrieval_batch_seconds", "Time of searching one batch.", buckets=DURATION_BUCKETS_S,
            registry=registry,
        )  # fmt: skip
        self.side_rows = Gauge(
            "atoll_retrieval_side_items", "Items beside the index: new between two releases.", registry=registry
        )
        self.waiting = Gauge("atoll_retrieval_waiting", "Searches that wait.", registry=registry)


@contextmanager
def metrics_page(registry: CollectorRegistry, host: str) -> Iterator[str]:
    """Serve `/metrics` on a free port of `host` while the block runs; yields the address, or "" without a host."""
    if not host:
        yield ""
        return
    server, thread = start_http_server(0, addr=host, registry=registry)
    try:
        yield f"{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
