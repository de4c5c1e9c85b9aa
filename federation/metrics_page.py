"""A `/metrics` page of a process that lives for one run: a free port, and a file that tells Prometheus which."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, start_http_server

from infra.plumbing.files import write_atomically

HOST = "127.0.0.1"


@contextmanager
def metrics_page(registry: CollectorRegistry, *, targets_file: Path | None, process: str) -> Iterator[str]:
    """Serve `registry` while the block runs; yields the address, or "" and nothing without a `targets_file`.

    `targets_file` holds one entry of Prometheus' file-based service discovery, and goes at the end. Where the process
    is killed it stays, and names a page that does not answer: `up` is 0 then, as it should be.
    """
    if targets_file is None:
        yield ""
        return
    server, thread = start_http_server(0, addr=HOST, registry=registry)
    address = f"{HOST}:{server.server_port}"
    write_atomically(targets_file, msgspec.json.encode([{"targets": [address], "labels": {"process": process}}]))
    try:
        yield address
    finally:
        targets_file.unlink(missing_ok=True)
        server.shutdown()
        server.server_close()
        thread.join()
