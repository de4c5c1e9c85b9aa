"""The grid as a process of its own: ended, killed and frozen under its clients."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.plumbing.clock import SystemClock
from infra.plumbing.grid.client import SocketGrid
from infra.plumbing.grid.port import GridUnavailableError

ROOT = Path(__file__).parents[3]
_EDGE_PYTHON = ROOT / ".atoll/envs/edge/bin/python"
PYTHON = str(_EDGE_PYTHON if _EDGE_PYTHON.exists() else sys.executable)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "grid.sock"


@pytest.fixture
async def grid(path: Path) -> AsyncIterator[SocketGrid]:
    opened = SocketGrid(path, clock=SystemClock(), call_timeout_s=0.5, publish_timeout_s=5.0)
    async with asyncio.timeout(60):
        yield opened
    await opened.close()


_started: list[asyncio.subprocess.Process] = []


@pytest.fixture(autouse=True)
async def reap() -> AsyncIterator[None]:
    """A test that fails leaves no process behind, not even a frozen one."""
    yield
    while _started:
        process = _started.pop()
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def start_grid(path: Path) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        PYTHON, "-m", "infra.plumbing.grid", "--socket", str(path), cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    _started.append(process)
    return process


async def test_killed_and_started_again_its_subscribers_are_told(path: Path, grid: SocketGrid) -> None:
    subscription = grid.subscribe("t")
    for _ in range(2):
        process = await start_grid(path)
        assert await anext(subscription) is None
        await grid.put("k", b"v", ttl_s=60)
        assert await grid.get("k") == b"v"
        process.kill()
        await process.communicate()
        with pytest.raises(GridUnavailableError):
            await grid.get("k")
    process = await start_grid(path)
    assert await anext(subscription) is None
    assert await grid.get("k") is None, "a grid keeps nothing"
    process.terminate()
    await process.communicate()
    assert process.returncode == 0


async def test_frozen_it_costs_a_call_its_time_and_comes_back(path: Path, grid: SocketGrid) -> None:
    process = await start_grid(path)
    subscription = grid.subscribe("t")
    assert await anext(subscription) is None
    process.send_signal(signal.SIGSTOP)
    failed = 0
    while failed < 3:
        with pytest.raises(GridUnavailableError):
            await grid.get("k")
        failed += 1
    process.send_signal(signal.SIGCONT)
    while True:
        try:
            await grid.put("k", b"v", ttl_s=60)
            break
        except GridUnavailableError:
            await asyncio.sleep(0.01)  # its own time-out and its reconnect bound this
    assert await grid.get("k") == b"v"
    process.terminate()
    await process.communicate()
    assert process.returncode == 0


async def test_what_cannot_be_used_is_said_and_ends_with_2(path: Path, grid: SocketGrid) -> None:
    first = await start_grid(path)
    assert await anext(grid.subscribe("t")) is None
    second = await start_grid(path)
    _, errors = await second.communicate()
    assert second.returncode == 2
    assert b"another process listens" in errors
    first.terminate()
    await first.communicate()
