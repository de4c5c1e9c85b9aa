"""The serving side: one process, one index, one Unix socket.

Searches that arrive while another one runs are searched together: under load a batch forms by itself, and alone a
search waits for nobody.
"""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from prometheus_client import CollectorRegistry

from infra.contracts.release import Manifest
from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.errors import AtollError
from infra.plumbing.large_pages import exchange_all
from region.retrieval.errors import IndexUnusableError, QueryRefusedError
from region.retrieval.index import Index, load_index
from region.retrieval.metrics import RetrievalMetrics, metrics_page
from region.retrieval.protocol import (
    FrameBuffer,
    Hello,
    Kind,
    ProtocolError,
    Search,
    Side,
    Status,
    check_query,
    check_side,
    decode_search,
    decode_side,
    encode_answer,
    encode_failure,
    encode_hello,
    kind_of,
)
from region.retrieval.side import NO_ROWS, NO_SCORES, WithSide

READY = b"ready"
"""Said on stdout once searches are taken; the address of the metrics page stands behind it."""
QUEUE_MAX = 1_024
BATCH_MAX = 64
CONNECTIONS_MAX = 64
UNSENT_BYTES_MAX = 16 << 20
LOADING_NICENESS = 10
"""Of a process that loads beside one that answers: a tenth of a busy core, and whoever answers comes first."""
SOCKET_PATH_BYTES_MAX = 100
"""The kernel takes 107; a temporary suffix must fit too."""


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    connection: "_Connection"
    search: Search


class RetrievalServer:
    """Searches `index` for whoever connects.

    Args:
        index: loaded and warm.
        release: whose index it is.
        threads: how many searches may run at once beside the loop; 0: on the loop itself. A process that does nothing
            else saves two changes of threads on each search so; what comes meanwhile waits in the socket.
        clock: times the searches.
        registry: where they are counted.
    """

    def __init__(
        self,
        index: Index,
        *,
        release: str,
        threads: int = 1,
        clock: Clock | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self.index = WithSide(index)
        self._clock = clock or SystemClock()
        self._metrics = RetrievalMetrics(registry or CollectorRegistry(), release=release, num_items=index.num_items)
        self.hello = encode_hello(Hello(index.dim, index.num_items, release, index.kind))
        self.connections: set[_Connection] = set()
        self._threads = threads
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue(QUEUE_MAX)

    async def serve(
        self, socket: Path, stop: asyncio.Event, *, announce: int | None = None, metrics_address: str = ""
    ) -> None:
        """Listen on `socket` until `stop` is set.

        Args:
            socket: made anew; what a dead process left there is removed.
            stop: ends it.
            announce: a file descriptor to which READY is written once connections are taken.
            metrics_address: of the metrics page, told with READY.

        Raises:
            IndexUnusableError: `socket` is longer than a socket's path may be.
        """
        check_socket_path(socket)
        _remove(socket)
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: _Connection(self), str(socket), backlog=CONNECTIONS_MAX)
        with ThreadPoolExecutor(max(1, self._threads), thread_name_prefix="search") as pool:
            workers = [asyncio.create_task(self._work(pool)) for _ in range(max(1, self._threads))]
            try:
                if announce is not None:
                    os.write(announce, READY + f" {metrics_address}".rstrip().encode() + b"\n")
                await stop.wait()
            finally:
                server.close()
                for connection in list(self.connections):
                    connection.close()
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
                _remove(socket)

    def submit(self, connection: "_Connection", search: Search) -> None:
        """Queue a search, or say at once why not."""
        try:
            check_query(search.vectors, k=search.k, dim=self.index.dim)
            self._jobs.put_nowait(_Job(connection, search))
            self._metrics.waiting.set(self._jobs.qsize())
        except QueryRefusedError as error:
            self._metrics.searches.labels("refused").inc()
            connection.send(encode_failure(search.request_id, Status.REFUSED, error.message))
        except asyncio.QueueFull:
            self._metrics.searches.labels("overloaded").inc()
            message = f"{QUEUE_MAX} searches wait already"
            connection.send(encode_failure(search.request_id, Status.OVERLOADED, message))

    def stand_beside(self, connection: "_Connection", side: Side) -> None:
        """Take over the rows beside the index, or say why not; what stood there before goes on then."""
        try:
            check_side(side.rows, side.vectors, dim=self.index.dim, num_items=self.index.num_items)
        except QueryRefusedError as error:
            connection.send(encode_failure(side.request_id, Status.REFUSED, error.message))
            return
        self.index.replace(side.rows, side.vectors)
        self._metrics.side_rows.set(side.rows.size)
        connection.send(encode_answer(side.request_id, NO_ROWS, NO_SCORES))

    async def _work(self, pool: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            jobs = [await self._jobs.get()]
            while len(jobs) < BATCH_MAX and not self._jobs.empty():
                jobs.append(self._jobs.get_nowait())
            self._metrics.waiting.set(self._jobs.qsize())
            answers = await loop.run_in_executor(pool, self._answers, jobs) if self._threads else self._answers(jobs)
            for job, answer in zip(jobs, answers, strict=True):
                job.connection.send(answer)
            # What came meanwhile is read now, and makes the next batch.
            await asyncio.sleep(0)

    def _answers(self, jobs: list[_Job]) -> list[bytes]:
        """Frames that answer `jobs`, in their order."""
        vectors = np.concatenate([job.search.vectors for job in jobs])
        started_s = self._clock.monotonic_s()
        try:
            rows, scores = self.index.search(vectors, max(job.search.k for job in jobs))
        except Exception as error:
            self._metrics.searches.labels("failed").inc(len(jobs))
            return [encode_failure(job.search.request_id, Status.FAILED, str(error)) for job in jobs]
        self._metrics.seconds.observe(self._clock.monotonic_s() - started_s)
        self._metrics.batches.observe(len(jobs))
        self._metrics.searches.labels("answered").inc(len(jobs))
        answers, start = [], 0
        for job in jobs:
            end, k = start + len(job.search.vectors), job.search.k
            answers.append(encode_answer(job.search.request_id, rows[start:end, :k], scores[start:end, :k]))
            start = end
        return answers


class _Connection(asyncio.Protocol):
    """One caller."""

    def __init__(self, server: RetrievalServer) -> None:
        self._server = server
        self._frames = FrameBuffer()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello, unless there are too many already."""
        if len(self._server.connections) >= CONNECTIONS_MAX:
            transport.close()
            return
        # A stream's transport both reads and writes; uvloop's does so without being an `asyncio.Transport`.
        self._transport = cast("asyncio.Transport", transport)
        self._server.connections.add(self)
        self._transport.write(self._server.hello)

    def data_received(self, data: bytes) -> None:
        """Take searches."""
        try:
            for frame in self._frames.feed(data):
                if kind_of(frame) is Kind.SIDE:
                    self._server.stand_beside(self, decode_side(frame))
                else:
                    self._server.submit(self, decode_search(frame))
        except ProtocolError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the caller is gone either way
        """Forget the caller."""
        self._server.connections.discard(self)
        self._transport = None

    def send(self, frame: bytes) -> None:
        """Send a frame; a caller that does not read is cut off."""
        if self._transport is None:
            return
        self._transport.write(frame)
        if self._transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            self._transport.abort()

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()


def check_socket_path(socket: Path) -> None:
    """Refuse a path that the kernel would.

    Raises:
        IndexUnusableError: it is too long.
    """
    if len(os.fsencode(socket)) > SOCKET_PATH_BYTES_MAX:
        raise IndexUnusableError(
            f"the socket's path {socket} is longer than {SOCKET_PATH_BYTES_MAX} bytes.", fix="Use a shorter directory."
        )


def _remove(socket: Path) -> None:
    socket.unlink(missing_ok=True)


async def run(
    release: Path, socket: Path, *, threads: int, exit_with_stdin: bool, metrics_host: str = "", gives_way: bool = False
) -> int:
    """The whole process: load, warm, serve until SIGTERM or SIGINT (or the end of stdin). Returns the exit code.

    `metrics_host`: where `/metrics` is served, on a port that the kernel picks; empty: nowhere. `gives_way`: others
    answer while this loads, and come first.
    """
    if exit_with_stdin:
        threading.Thread(target=_exit_with_stdin, daemon=True).start()
    try:
        check_socket_path(socket)
        index, manifest = await _loaded(release, niceness=LOADING_NICENESS if gives_way else 0)
    except AtollError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    registry = CollectorRegistry()
    server = RetrievalServer(index, release=manifest.release_id, threads=threads, registry=registry)
    with metrics_page(registry, metrics_host) as address:
        await _serve_until_signalled(server, socket, address)
    return 0


async def _loaded(release: Path, *, niceness: int) -> tuple[Index, Manifest]:
    """Load, into large pages where there are any, in a thread of this niceness.

    On Linux niceness is a thread's own (setpriority(2)), so it ends with the loading.

    Raises:
        IndexUnusableError: see `load_index`.
    """

    def work() -> tuple[Index, Manifest]:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + niceness)
        loaded = load_index(release)
        # A search reads rows all over it.
        exchange_all()
        return loaded

    with ThreadPoolExecutor(1, thread_name_prefix="load") as pool:
        return await asyncio.get_running_loop().run_in_executor(pool, work)


async def _serve_until_signalled(server: RetrievalServer, socket: Path, metrics_address: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await server.serve(socket, stop, announce=sys.stdout.fileno(), metrics_address=metrics_address)


def _exit_with_stdin() -> None:
    """A parent that dies, however it dies, closes this pipe; nothing here must outlive it."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os._exit(0)
