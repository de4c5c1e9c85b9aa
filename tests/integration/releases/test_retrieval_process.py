"""The retrieval process for real: started, killed, started again, gone with its parent; and serving ScaNN."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import uvloop

from infra.contracts.features import FloatArray
from infra.plumbing.clock import SystemClock
from region.retrieval.errors import IndexUnusableError, QueryRefusedError, RetrievalUnavailableError
from region.retrieval.process import RetrievalProcess, restart_delay_s
from tests.support.bundles import make_bundle

DIM = 8
QUERY = np.ones(DIM, dtype=np.float32)
ROOT = Path(__file__).resolve().parents[3]
# With TensorFlow beside it ScaNN imports it; the region's own environment has none.
REGION_PYTHON = ROOT / ".atoll" / "envs" / "region" / "bin" / "python"


@contextlib.asynccontextmanager
async def running(release: Path, socket: Path, *, python: str = sys.executable) -> AsyncIterator[RetrievalProcess]:
    process = RetrievalProcess(release=release, socket=socket, clock=SystemClock(), python=python)
    await process.start()
    try:
        yield process
    finally:
        await process.close()


async def searching_for_s(process: RetrievalProcess, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        await process.search(QUERY, 5, 2.0)


def sockets(directory: Path) -> list[Path]:
    return list(directory.glob("*.sock"))


def mapped_files(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def is_alive(pid: int) -> bool:
    """A zombie is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_killed_it_fails_at_once_and_comes_back(tmp_path: Path) -> None:
    release = tmp_path / make_bundle(tmp_path, dim=DIM)
    async with running(release, tmp_path / "r.sock") as process:
        first, _ = await process.search(QUERY, 5, 1.0)
        pid = process.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        started = time.monotonic()
        with pytest.raises(RetrievalUnavailableError):
            await searching_for_s(process, 5)
        assert time.monotonic() - started < 0.5
        again = None
        async with asyncio.timeout(30):
            while again is None:
                with contextlib.suppress(RetrievalUnavailableError, TimeoutError):
                    again, _ = await process.search(QUERY, 5, 1.0)
                await asyncio.sleep(0.02)
        assert again.tolist() == first.tolist()
        assert process.restarts == 1
        new_pid = process.pid
        assert new_pid not in (pid, None)
    assert new_pid is not None
    assert not is_alive(new_pid)
    assert not sockets(tmp_path)


async def test_its_searches_are_counted_where_prometheus_reads(tmp_path: Path) -> None:
    release = tmp_path / make_bundle(tmp_path, dim=DIM)
    process = RetrievalProcess(
        release=release, socket=tmp_path / "r.sock", clock=SystemClock(), metrics_host="127.0.0.1"
    )
    assert process.metrics_address == ""
    await process.start()
    try:
        await process.search(QUERY, 5, 1.0)
        with pytest.raises(QueryRefusedError):
            await process.search(QUERY, 0, 1.0)
        page = await asyncio.to_thread(scraped, process.metrics_address)
    finally:
        await process.close()
    assert 'atoll_retrieval_searches_total{outcome="answered"} 1.0' in page
    assert f'release="{release.name}"' in page
    assert "process_resident_memory_bytes" in page
    assert process.metrics_address == ""


def scraped(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        text: str = answer.read().decode()
        return text


async def test_a_frozen_process_costs_no_more_than_the_timeout(tmp_path: Path) -> None:
    release = tmp_path / make_bundle(tmp_path, dim=DIM)
    async with running(release, tmp_path / "r.sock") as process:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            await process.search(QUERY, 5, 0.05)
        assert time.monotonic() - started < 0.5
        os.kill(process.pid, signal.SIGCONT)
        await process.search(QUERY, 5, 5.0)


PARENT = """
import asyncio, sys
from pathlib import Path
from infra.contracts.features import FloatArray
from infra.plumbing.clock import SystemClock
from region.retrieval.process import RetrievalProcess
async def main():
    process = RetrievalProcess(release=Path(sys.argv[1]), socket=Path(sys.argv[2]), clock=SystemClock())
    await process.start()
    print(process.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def test_a_parent_that_is_killed_leaves_no_child(tmp_path: Path) -> None:
    release = tmp_path / make_bundle(tmp_path, dim=DIM)
    command = [sys.executable, "-c", PARENT, str(release), str(tmp_path / "r.sock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 10
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(child)


async def test_what_cannot_be_loaded_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RetrievalUnavailableError, match=r"did not start: error: .* holds no readable manifest"):
        async with running(tmp_path, tmp_path / "r.sock"):
            pass
    assert not sockets(tmp_path)
    process = RetrievalProcess(release=tmp_path, socket=tmp_path / "r.sock", clock=SystemClock(), start_timeout_s=0.001)
    with pytest.raises(RetrievalUnavailableError, match="did not start"):
        await process.start()
    assert process.pid is None


async def test_terminated_by_signal_it_ends_by_itself(tmp_path: Path) -> None:
    release = tmp_path / make_bundle(tmp_path, dim=DIM)
    arguments = ["-m", "region.retrieval", "--release", str(release), "--socket", str(tmp_path / "r.sock")]
    child = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE, cwd=ROOT, stdin=asyncio.subprocess.DEVNULL
    )
    assert child.stdout is not None
    assert await child.stdout.readline() == b"ready\n"
    child.terminate()
    assert await child.wait() == 0
    assert not sockets(tmp_path)


async def test_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    with pytest.raises(IndexUnusableError, match="shorter directory"):
        RetrievalProcess(release=tmp_path, socket=tmp_path / ("x" * 100), clock=SystemClock())


def test_on_uvloop_as_a_region_runs_it(tmp_path: Path) -> None:
    release = tmp_path / make_bundle(tmp_path, dim=DIM)

    async def search() -> int:
        async with running(release, tmp_path / "r.sock") as process:
            rows, _ = await process.search(QUERY, 5, 1.0)
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            with pytest.raises(RetrievalUnavailableError):
                await searching_for_s(process, 5)
            return int(rows.size)

    assert uvloop.run(search()) == 5


def test_restart_delays() -> None:
    delays = [restart_delay_s(failures) for failures in range(1, 10)]
    assert delays[:4] == [0.0, 0.1, 0.2, 0.4]
    assert delays[-1] == 5.0


BUILD = """
import sys
import numpy as np
from scann import scann_ops_pybind
vectors = np.load(sys.argv[1])
builder = scann_ops_pybind.builder(vectors, 10, "dot_product").tree(20, 10, training_sample_size=len(vectors))
index = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(50).build()
index.serialize(sys.argv[2], relative_path=True)
"""


def build_scann_bundle(directory: Path) -> tuple[Path, FloatArray]:
    """A release with a ScaNN index, and its item vectors."""
    plain = directory / make_bundle(directory, num_items=600, dim=DIM)
    files = directory / "scann"
    files.mkdir()
    command = [str(REGION_PYTHON), "-c", BUILD, str(plain / "item_vectors.npy"), str(files)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    extra = {f"scann/{path.name}": path.read_bytes() for path in files.iterdir()}
    release = directory / make_bundle(directory, num_items=600, dim=DIM, extra_files=extra)
    return release, np.load(plain / "item_vectors.npy")


async def test_a_scann_index_is_served_without_tensorflow(tmp_path: Path) -> None:
    if not REGION_PYTHON.exists():
        pytest.fail("the region's environment is not installed here; `./atoll test` installs it")
    release, vectors = build_scann_bundle(tmp_path)
    async with running(release, tmp_path / "r.sock", python=str(REGION_PYTHON)) as process:
        assert process.pid is not None
        maps = mapped_files(process.pid)
        assert "scann" in maps
        assert "tensorflow" not in maps
        hits = 0
        queries = np.random.default_rng(3).normal(size=(40, DIM)).astype(np.float32)
        answers = await asyncio.gather(*(process.search(query, 100, 5.0) for query in queries))
        for query, (rows, scores) in zip(queries, answers, strict=True):
            assert (np.diff(scores) <= 0).all()
            assert len(set(rows.tolist())) == len(rows) <= 100
            np.testing.assert_allclose(scores, vectors[rows] @ query, rtol=1e-4, atol=1e-4)
            hits += len(set(rows[:10].tolist()) & set(np.argsort(-(vectors @ query))[:10].tolist()))
        assert hits / 400 > 0.7
