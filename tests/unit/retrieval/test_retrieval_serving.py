"""Server and client in one loop: answers, batches, bounds, and what happens when one side goes away."""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from infra.contracts.features import FloatArray, IntArray
from region.retrieval import server as server_module
from region.retrieval.client import RetrievalClient
from region.retrieval.errors import IndexUnusableError, QueryRefusedError, RetrievalUnavailableError
from region.retrieval.index import ExactIndex
from region.retrieval.protocol import FRAME_BYTES_MAX, Search, encode_search
from region.retrieval.server import READY, RetrievalServer
from tests.support.bundles import make_bundle

DIM = 4
VECTORS = np.random.default_rng(0).normal(size=(30, DIM)).astype(np.float32)
Lost = Callable[[Exception | None], None]
QUERY = np.ones(DIM, dtype=np.float32)


class GatedIndex(ExactIndex):
    """Searches when it is let; counts how many queries it was given at once."""

    def __init__(self) -> None:
        super().__init__(VECTORS)
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.batches: list[int] = []

    def search(self, vectors: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
        self.batches.append(len(vectors))
        self.entered.set()
        assert self.gate.wait(10)
        if k == 13:
            raise RuntimeError("unlucky")
        return super().search(vectors, k)


@contextlib.asynccontextmanager
async def serving(index: ExactIndex, socket: Path) -> AsyncIterator[RetrievalServer]:
    server = RetrievalServer(index, release="0" * 20)
    stop = asyncio.Event()
    reading, writing = os.pipe()
    task = asyncio.create_task(server.serve(socket, stop, announce=writing))
    assert await asyncio.to_thread(os.read, reading, 16) == READY + b"\n"
    try:
        yield server
    finally:
        stop.set()
        await task
        os.close(reading)
        os.close(writing)


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "r.sock"


async def test_search(socket: Path) -> None:
    async with serving(ExactIndex(VECTORS), socket):
        client = RetrievalClient(socket=socket)
        hello = await client.connect()
        assert (hello.dim, hello.num_items, hello.release, hello.kind) == (DIM, 30, "0" * 20, "exact")
        rows, scores = await client.search(QUERY, 5, 1.0)
        wanted = np.argsort(-(VECTORS @ QUERY), kind="stable")[:5]
        assert rows.tolist() == wanted.tolist()
        np.testing.assert_allclose(scores, (VECTORS @ QUERY)[wanted], rtol=1e-6)
        rows, _ = await client.search(QUERY, 100, 1.0)
        assert sorted(rows.tolist()) == list(range(30))
        await client.close()
    assert list(socket.parent.iterdir()) == []


async def test_searches_that_wait_are_searched_together_and_answers_find_their_callers(socket: Path) -> None:
    index = GatedIndex()
    async with serving(index, socket):
        client = RetrievalClient(socket=socket)
        await client.connect()
        index.gate.clear()
        queries = np.random.default_rng(1).normal(size=(20, DIM)).astype(np.float32)
        tasks = [asyncio.create_task(client.search(query, 1 + i % 7, 5.0)) for i, query in enumerate(queries)]
        await asyncio.to_thread(index.entered.wait, 10)
        index.gate.set()
        answers = await asyncio.gather(*tasks)
        for i, (rows, _) in enumerate(answers):
            wanted = np.argsort(-(VECTORS @ queries[i]), kind="stable")[: 1 + i % 7]
            assert rows.tolist() == wanted.tolist()
        assert sum(index.batches) == 20
        assert len(index.batches) < 20
        await client.close()


async def test_bad_queries_are_refused_on_both_sides(socket: Path) -> None:
    async with serving(ExactIndex(VECTORS), socket):
        client = RetrievalClient(socket=socket)
        link = await client._connected()
        for vector, k in ((QUERY * np.nan, 5), (QUERY[:2], 5), (QUERY, 0)):
            with pytest.raises(QueryRefusedError):
                await client.search(vector, k, 1.0)
            # What a client of another making might send.
            with pytest.raises(QueryRefusedError):
                await link.ask(Search(99, k, vector[None]))
        assert (await client.search(QUERY, 3, 1.0))[0].size == 3
        await client.close()


async def test_a_search_that_fails_says_so(socket: Path) -> None:
    async with serving(GatedIndex(), socket):
        client = RetrievalClient(socket=socket)
        with pytest.raises(RetrievalUnavailableError, match="unlucky"):
            await client.search(QUERY, 13, 1.0)
        assert (await client.search(QUERY, 3, 1.0))[0].size == 3
        await client.close()


async def test_no_answer_in_time_and_too_many_at_once(socket: Path) -> None:
    index = GatedIndex()
    async with serving(index, socket):
        client = RetrievalClient(socket=socket, in_flight_max=1)
        await client.connect()
        index.gate.clear()
        index.entered.clear()
        first = asyncio.create_task(client.search(QUERY, 3, 0.2))
        await asyncio.to_thread(index.entered.wait, 10)
        with pytest.raises(RetrievalUnavailableError, match="under way"):
            await client.search(QUERY, 3, 5.0)
        with pytest.raises(TimeoutError):
            await first
        index.gate.set()
        # The late answer to the first one is nobody's now.
        assert (await client.search(QUERY, 3, 5.0))[0].size == 3
        await client.close()


async def test_a_full_queue_is_said_at_once(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "QUEUE_MAX", 1)
    index = GatedIndex()
    async with serving(index, socket):
        client = RetrievalClient(socket=socket)
        await client.connect()
        index.gate.clear()
        tasks = [asyncio.create_task(client.search(QUERY, 3, 5.0)) for _ in range(4)]
        await asyncio.to_thread(index.entered.wait, 10)
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(RetrievalUnavailableError, match="wait already"):
            done.pop().result()
        index.gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()


async def test_nobody_there_is_known_at_once_and_a_return_is_noticed(socket: Path) -> None:
    loop = asyncio.get_running_loop()
    client = RetrievalClient(socket=socket)
    started = loop.time()
    with pytest.raises(RetrievalUnavailableError, match="does not answer"):
        await client.search(QUERY, 3, 5.0)
    assert loop.time() - started < 0.5
    async with serving(ExactIndex(VECTORS), socket):
        assert (await client.search(QUERY, 3, 1.0))[0].size == 3
    with pytest.raises(RetrievalUnavailableError):
        await client.search(QUERY, 3, 5.0)
    async with serving(ExactIndex(VECTORS), socket):
        assert (await client.search(QUERY, 3, 1.0))[0].size == 3
    await client.close()


async def test_a_server_that_goes_away_fails_what_is_under_way(socket: Path) -> None:
    index = GatedIndex()
    client = RetrievalClient(socket=socket)
    async with serving(index, socket) as server:
        await client.connect()
        index.gate.clear()
        index.entered.clear()
        search = asyncio.create_task(client.search(QUERY, 3, 5.0))
        await asyncio.to_thread(index.entered.wait, 10)
        for connection in list(server.connections):
            connection.close()
        with pytest.raises(RetrievalUnavailableError, match="ended"):
            await search
        index.gate.set()
    await client.close()


@contextlib.asynccontextmanager
async def stranger(socket: Path, greeting: bytes) -> AsyncIterator[None]:
    """Something else that listens where the retrieval process should: greets, then says nothing more."""
    gone = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        gone.set()

    server = await asyncio.start_unix_server(handle, str(socket))
    yield
    await gone.wait()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("greeting", [b"", (5).to_bytes(4, "little") + b"hello"])
async def test_something_else_behind_the_socket_is_given_up(socket: Path, greeting: bytes) -> None:
    async with stranger(socket, greeting):
        client = RetrievalClient(socket=socket, connect_timeout_s=0.2)
        with pytest.raises(RetrievalUnavailableError, match="does not answer"):
            await client.connect()


async def server_side_closed(server: RetrievalServer) -> None:
    """Returns once the server holds no connection any more."""
    for connection in list(server.connections):
        closed = asyncio.Event()
        lost = connection.connection_lost

        def tell(error: Exception | None, lost: "Lost" = lost, closed: asyncio.Event = closed) -> None:
            lost(error)
            closed.set()

        connection.connection_lost = tell  # type: ignore[method-assign, assignment]
        await closed.wait()


@pytest.mark.parametrize(
    "bytes_sent",
    [(FRAME_BYTES_MAX + 1).to_bytes(4, "little"), (3).to_bytes(4, "little") + b"abc", encode_search(
        Search(1, 3, QUERY[None])
    )[:4] + b"\xff" * 29],
)  # fmt: skip
async def test_a_caller_that_does_not_speak_the_protocol_is_cut_off(socket: Path, bytes_sent: bytes) -> None:
    async with serving(ExactIndex(VECTORS), socket) as server:
        reader, writer = await asyncio.open_unix_connection(str(socket))
        writer.write(bytes_sent)
        async with asyncio.timeout(5):
            await reader.read()
        writer.close()
        await writer.wait_closed()
        assert not server.connections


async def test_connections_are_bounded(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "CONNECTIONS_MAX", 1)
    async with serving(ExactIndex(VECTORS), socket):
        first, second = RetrievalClient(socket=socket), RetrievalClient(socket=socket)
        await first.connect()
        with pytest.raises(RetrievalUnavailableError):
            await second.connect()
        await first.close()


async def test_a_caller_that_does_not_read_is_cut_off(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "UNSENT_BYTES_MAX", 1 << 16)
    async with serving(ExactIndex(VECTORS), socket) as server:
        reader, writer = await asyncio.open_unix_connection(str(socket))
        frame = encode_search(Search(1, 4096, np.tile(QUERY, (64, 1))))
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                writer.write(frame)
                await writer.drain()
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                await server_side_closed(server)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        del reader


async def test_the_whole_process_from_loading_to_sigterm(
    tmp_path: Path, socket: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    release = tmp_path / make_bundle(tmp_path, num_items=20, dim=DIM)
    reading, writing = os.pipe()
    monkeypatch.setattr(sys, "stdout", open(writing, "w", buffering=1))  # noqa: ASYNC230, SIM115
    running = asyncio.create_task(server_module.run(release, socket, threads=1, exit_with_stdin=False))
    assert await asyncio.to_thread(os.read, reading, 16) == READY + b"\n"
    client = RetrievalClient(socket=socket)
    assert (await client.connect()).release == release.name
    assert (await client.search(QUERY, 3, 1.0))[0].size == 3
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 0
    await client.close()
    sys.stdout.close()
    os.close(reading)


async def test_a_process_that_cannot_load_says_why(
    tmp_path: Path, socket: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await server_module.run(tmp_path, socket, threads=1, exit_with_stdin=False) == 2
    assert "error: " in capsys.readouterr().err


async def test_a_path_that_is_too_long_is_said(tmp_path: Path) -> None:
    with pytest.raises(IndexUnusableError, match="longer than"):
        await RetrievalServer(ExactIndex(VECTORS), release="x").serve(tmp_path / ("x" * 100), asyncio.Event())
