import asyncio
import json
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from infra.plumbing.clock import ManualClock, SystemClock
from infra.plumbing.errors import SettingsError
from infra.plumbing.grid.memory import MemoryGrid
from infra.plumbing.telemetry import Telemetry, TelemetrySettings, start_telemetry
from region.events.memory import MemoryLog
from region.events.opening import open_log
from region.events.streaming import Streaming
from region.events.waking import LOG_TOPIC
from region.settings import RegionSettings
from region.store.memory import MemoryStore
from region.store.opening import open_store
from region.store.port import AppliedChange, OffsetEvent
from region.worker import process as process_module
from region.worker.process import SESSION_MARGIN_S, Worker, run_together, run_worker
from tests.contract.building import ALICE, NOW_MS, VISITOR, logged, until
from tests.support.keeping import key_file


@pytest.fixture(autouse=True)
async def limit() -> AsyncIterator[None]:
    async with asyncio.timeout(20):
        yield


@pytest.fixture
def telemetry(tmp_path: Path) -> Telemetry:
    settings = TelemetrySettings(log_file=str(tmp_path / "log"), log_level="DEBUG")
    return start_telemetry(service="worker", region="r", node="n", settings=settings)


def settings_in(folder: Path, *, port: int = 0) -> RegionSettings:
    return RegionSettings(
        node="n", region="r", port=0, worker_port=port, state_directory=str(folder), repository_url="", trusted_root="",
        keys_file=str(key_file(folder)), trust_file="", grid="memory", session_life_s=10.0, log_retention_s=100.0,
        telemetry=TelemetrySettings(log_file=str(folder / "log")),
    )  # fmt: skip


class WatchedStore(MemoryStore):
    """Says when something was applied."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self.applied = asyncio.Condition()

    async def apply(self, events: Sequence[OffsetEvent]) -> list[AppliedChange]:
        changes = await super().apply(events)
        async with self.applied:
            self.applied.notify_all()
        return changes

    async def until_applied(self, offset: int) -> None:
        while (await self.applied_offsets()).get(0, 0) < offset:
            async with self.applied:
                await self.applied.wait()


class Parts:
    def __init__(self, folder: Path, telemetry: Telemetry) -> None:
        self.clock = ManualClock(wall_ms=NOW_MS)
        self.log, self.store = MemoryLog(), WatchedStore(self.clock)
        self.grid = MemoryGrid(clock=self.clock)
        self.telemetry = telemetry
        self.worker = Worker(
            settings=settings_in(folder),
            streaming=Streaming(
                log=self.log, store=self.store, grid=self.grid, clock=self.clock, registry=telemetry.registry
            ),
            log=self.log, store=self.store, grid=self.grid, clock=self.clock, telemetry=telemetry,
        )  # fmt: skip

    def counted(self, name: str, **labels: str) -> float:
        return self.telemetry.registry.get_sample_value(f"atoll_worker_{name}_total", labels) or 0.0


@pytest.fixture
async def parts(tmp_path: Path, telemetry: Telemetry) -> AsyncIterator[Parts]:
    yield Parts(tmp_path, telemetry)
    telemetry.close()


async def test_it_is_woken_by_the_grid_and_polls_without(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = asyncio.Event()
    loops = [asyncio.create_task(parts.worker.stream(stop)), asyncio.create_task(parts.worker.listen(stop))]
    assert parts.worker.ready() is not None
    await until(lambda: parts.worker.ready() is None)
    await parts.log.append([logged(1)])
    await parts.store.until_applied(1)  # found by polling: nobody woke it
    monkeypatch.setattr(process_module, "POLL_MIN_S", 3600.0)
    monkeypatch.setattr(process_module, "POLL_MAX_S", 3600.0)
    for number in (2, 3, 4):
        await parts.log.append([logged(number)])
        await parts.grid.publish(LOG_TOPIC, b"")
        await parts.store.until_applied(number)
    stop.set()
    await asyncio.gather(*loops)


async def test_it_puts_off_and_goes_on(parts: Parts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process_module, "RETRY_S", 0.001)
    parts.store.available = False
    stop = asyncio.Event()
    loop = asyncio.create_task(parts.worker.stream(stop))
    await until(lambda: parts.counted("failures", loop="stream") > 2)
    assert parts.worker.ready() == "StoreUnavailableError"
    await parts.log.append([logged(1)])
    parts.store.available = True
    await parts.store.until_applied(1)
    stop.set()
    await loop
    told = [one["message"] for one in map(json.loads, (tmp_path / "log").read_text().splitlines()) if "loop" in one]
    assert told == ["put off", "goes on"], "a part that is away for a night must not fill the disk"


async def test_it_forgets_what_is_past_its_life(parts: Parts) -> None:
    await parts.log.append([logged(1, subject=VISITOR, received_ms=NOW_MS), logged(2, received_ms=NOW_MS + 695_000)])
    await parts.store.apply(await parts.log.read(after={0: 0}, limit=10))
    parts.clock.advance(10 + SESSION_MARGIN_S + 91)
    stop = asyncio.Event()
    loop = asyncio.create_task(parts.worker.retain(stop))
    await until(lambda: parts.counted("expired", what="records") > 0)
    assert (parts.counted("expired", what="rows"), parts.counted("expired", what="records")) == (1, 1)
    assert await parts.store.read(VISITOR) is None
    assert await parts.store.read(ALICE) is not None
    stop.set()
    await loop


async def test_retention_is_put_off_when_a_part_does_not_answer(parts: Parts) -> None:
    parts.log.available = False
    stop = asyncio.Event()
    loop = asyncio.create_task(parts.worker.retain(stop))
    await until(lambda: parts.counted("failures", loop="retain") > 0)
    stop.set()
    await loop


async def test_listening_ends_when_the_grid_does(parts: Parts) -> None:
    loop = asyncio.create_task(parts.worker.listen(asyncio.Event()))
    await asyncio.sleep(0)
    await parts.grid.close()
    await loop


async def test_when_one_loop_fails_the_others_end_and_the_failure_is_raised() -> None:
    stop = asyncio.Event()
    ended: list[str] = []

    async def patient() -> None:
        await stop.wait()
        ended.append("patient")

    async def failing() -> None:
        raise SettingsError("a port is in use.")

    with pytest.raises(SettingsError, match="in use"):
        await run_together(stop, patient(), failing())
    assert ended == ["patient"]


async def test_the_whole_worker_runs_on_files_and_ends_when_told(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    log = open_log(settings)
    await log.append([logged(1, item="x", at_ms=SystemClock().now_ms(), received_ms=SystemClock().now_ms())])
    stop = asyncio.Event()
    running = asyncio.create_task(run_worker(settings, stop, clock=SystemClock()))
    store = open_store(settings, read_timeout_s=5.0)
    while (await store.applied_offsets()).get(0, 0) < 1:
        pass
    stop.set()
    await running
    row = await store.read(ALICE)
    assert row is not None
    assert [entry.item for entry in row.history] == ["x"]
    await store.close()
    await log.close()
    assert ALICE not in (tmp_path / "log").read_text()


async def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = settings_in(tmp_path, port=taken.getsockname()[1])
        with pytest.raises(SettingsError, match="is in use"):
            await run_worker(settings, asyncio.Event(), clock=SystemClock())
