"""Killed with -9 at any moment: nothing acknowledged is lost, nothing counts twice (DESIGN, invariant 3)."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest
from prometheus_client import CollectorRegistry

from infra.contracts.events import Event, EventBatch, EventType
from infra.contracts.messages import INVALIDATION_TOPIC, Invalidation
from infra.plumbing.clock import SystemClock
from infra.plumbing.grid.client import SocketGrid
from infra.plumbing.grid.server import GridServer
from region.events.intake import Intake
from region.events.opening import open_log
from region.events.port import Log
from region.events.waking import Waker
from region.settings import RegionSettings
from region.store.opening import open_store
from region.store.port import Store
from tests.integration.events.appender import BATCH
from tests.support.keeping import key_file

ROOT = Path(__file__).parents[3]
_REGION_PYTHON = ROOT / ".atoll/envs/region/bin/python"
PYTHON = str(_REGION_PYTHON if _REGION_PYTHON.exists() else sys.executable)
SUBJECTS = [f"{number:032x}" for number in range(10)]
KILLS = 6
BURST = 60
CLOCK = SystemClock()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def settings(tmp_path: Path) -> RegionSettings:
    return RegionSettings(
        node="us-east-1", region="us-east", port=free_port(), worker_port=free_port(), state_directory=str(tmp_path),
        repository_url="", trusted_root="", keys_file=str(key_file(tmp_path)), trust_file="",
        grid=str(tmp_path / "grid.sock"),
        history_max=10_000,
    )  # fmt: skip


_started: list[asyncio.subprocess.Process] = []


@pytest.fixture(autouse=True)
async def reap() -> AsyncIterator[None]:
    """A test that fails leaves no process behind."""
    yield
    while _started:
        await end(_started.pop(), kill=True)


async def start_python(*arguments: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        PYTHON, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _started.append(process)
    return process


async def start_worker(settings: RegionSettings) -> asyncio.subprocess.Process:
    path = Path(settings.state_directory) / "settings.json"
    path.write_text(json.dumps(msgspec.to_builtins(settings)))
    return await start_python("-m", "region.worker", "--settings", str(path))


async def end(process: asyncio.subprocess.Process, *, kill: bool) -> str:
    if process in _started:
        _started.remove(process)
    if process.returncode is None:
        (process.kill if kill else process.terminate)()
    _, errors = await process.communicate()
    return errors.decode()


class Edge:
    """Hears invalidations as an edge does: the highest version told of each subject."""

    def __init__(self, grid: SocketGrid) -> None:
        self.versions: dict[str, int] = {}
        self.told = 0
        self._messages = grid.subscribe(INVALIDATION_TOPIC)
        self._heard = asyncio.Condition()
        self.hearing = asyncio.create_task(self._hear())

    async def until(self, done: Callable[[], bool]) -> None:
        async with self._heard:
            await self._heard.wait_for(done)

    async def until_told(self, count: int) -> None:
        await self.until(lambda: self.told >= count)

    async def _hear(self) -> None:
        async for message in self._messages:
            if message is None:
                continue
            invalidation = msgspec.json.decode(message, type=Invalidation)
            assert invalidation.subject is not None
            before = self.versions.get(invalidation.subject, 0)
            async with self._heard:
                self.versions[invalidation.subject] = max(before, invalidation.subject_version)
                self.told += 1
                self._heard.notify_all()


class Region:
    """The node's open parts in this process: what the API would hold."""

    def __init__(self, store: Store, log: Log, grid: SocketGrid) -> None:
        self.store, self.log, self.grid = store, log, grid
        registry = CollectorRegistry()
        self.waker = Waker(grid=grid, registry=registry)
        self.intake = Intake(log=log, clock=CLOCK, wake=self.waker.wake, registry=registry)
        self.acknowledged: dict[str, int] = dict.fromkeys(SUBJECTS, 0)

    async def send(self, subject: str, count: int) -> None:
        """`count` events in small batches; every other batch is sent twice, as a caller does that lost an answer."""
        for start in range(0, count, BATCH):
            first = self.acknowledged[subject]
            batch = EventBatch(
                subject=subject,
                events=tuple(
                    Event(event_id=f"event-{first + place:06d}", type=EventType.VIEW, item=f"{first + place}",
                          at_ms=CLOCK.now_ms())
                    for place in range(BATCH)
                ),
            )  # fmt: skip
            for turn in range(1 + (start // BATCH) % 2):
                ack = await self.intake.take(batch)
                assert (ack.accepted, ack.duplicates) == ((BATCH, 0) if turn == 0 else (0, BATCH))
            self.acknowledged[subject] += BATCH

    async def send_to_all(self, count: int) -> None:
        await asyncio.gather(*(self.send(subject, count // len(SUBJECTS)) for subject in SUBJECTS))

    async def send_in_turn(self, edge: Edge, subjects: list[str], stop: asyncio.Event) -> None:
        """Each subject's next batch when anything was heard since the last: events flow while the worker works."""

        async def one(subject: str) -> None:
            while not stop.is_set():
                told = edge.told
                await self.send(subject, BATCH)
                await edge.until(lambda told=told: edge.told > told or stop.is_set())  # type: ignore[misc]

        await asyncio.gather(*(one(subject) for subject in subjects))


@asynccontextmanager
async def open_region(settings: RegionSettings) -> AsyncIterator[Region]:
    server = GridServer(bytes_max=1 << 20, clock=CLOCK)
    await server.start(Path(settings.grid))
    grid = SocketGrid(Path(settings.grid), clock=CLOCK, call_timeout_s=5.0, publish_timeout_s=5.0)
    region = Region(open_store(settings), open_log(settings), grid)
    try:
        yield region
    finally:
        await region.waker.close()
        await region.store.close()
        await region.log.close()
        await grid.close()
        await server.close()


async def check_counts(region: Region, expected: dict[str, int]) -> None:
    for subject, count in expected.items():
        row = await region.store.read(subject)
        assert row is not None
        assert [entry.item for entry in row.history] == [f"{number}" for number in range(count)], "lost or twice"
        assert row.version == count
    trending = await region.store.trending(since_ms=0, limit=100_000)
    assert sum(item.count for item in trending) == sum(expected.values())


async def test_a_worker_killed_again_and_again_loses_nothing_and_counts_once(settings: RegionSettings) -> None:
    async with asyncio.timeout(60), open_region(settings) as region:
        edge = Edge(region.grid)
        stop = asyncio.Event()
        flow = asyncio.create_task(region.send_in_turn(edge, SUBJECTS[:5], stop))
        for turn in range(KILLS):
            worker = await start_worker(settings)
            burst = asyncio.gather(*(region.send(subject, BURST) for subject in SUBJECTS[5:]))
            # The kill comes in the middle of the work, after a different number of invalidations each time.
            await edge.until_told(edge.told + 2 + 7 * turn)
            await end(worker, kill=True)
            await burst
        stop.set()
        worker = await start_worker(settings)
        await flow
        expected = dict(region.acknowledged)
        await edge.until(lambda: edge.versions == expected)
        errors = await end(worker, kill=False)
        assert worker.returncode == 0, errors
        assert await region.store.applied_offsets() == await region.log.last_offsets() == {0: sum(expected.values())}
        assert sum(expected.values()) >= 1800
        await check_counts(region, expected)
        for subject in SUBJECTS:
            assert subject not in errors, "no subject in the logs"


async def test_invalidations_of_the_last_batch_are_told_again_after_a_restart(settings: RegionSettings) -> None:
    async with asyncio.timeout(60), open_region(settings) as region:
        await region.send_to_all(50)
        # As a worker leaves it that died before it told anybody.
        await region.store.apply(await region.log.read(after={0: 0}, limit=100))
        edge = Edge(region.grid)
        worker = await start_worker(settings)
        await edge.until(lambda: edge.versions == region.acknowledged)
        assert (await end(worker, kill=False)) is not None
        await check_counts(region, region.acknowledged)


async def test_an_intake_killed_again_and_again_keeps_what_it_acknowledged(settings: RegionSettings) -> None:
    subject = SUBJECTS[1]
    state = settings.state_directory
    acknowledged: set[int] = set()
    async with asyncio.timeout(90):
        for kill_after in (1, 9, 40, 90):
            # Each life begins again from the first batch, as callers do that heard nothing.
            process = await start_python("-m", "tests.integration.events.appender", state, subject, "0", "99999")
            assert process.stdout is not None
            for _ in range(kill_after):
                acknowledged.add(int(await process.stdout.readline()))
            process.kill()
            rest, errors = await process.communicate()
            assert errors == b""
            # The last line may be cut short by the kill; only whole lines were said.
            acknowledged.update(int(line) for line in rest.splitlines(keepends=True) if line.endswith(b"\n"))
        log = open_log(settings)
        records = await log.read(after={0: 0}, limit=1_000_000)
        await log.close()
    ids = [record.logged.event.event_id for record in records]
    assert len(ids) == len(set(ids)), "counted twice"
    wanted = {f"{subject[:4]}-{number:05d}-{place}" for number in acknowledged for place in range(BATCH)}
    assert wanted <= set(ids), "acknowledged and lost"


async def test_the_worker_shows_its_health_and_metrics_and_ends_on_sigterm(settings: RegionSettings) -> None:
    async with asyncio.timeout(60), open_region(settings) as region:
        edge = Edge(region.grid)
        worker = await start_worker(settings)
        await region.send_to_all(50)
        await edge.until(lambda: edge.versions == region.acknowledged)
        assert worker.stderr is not None
        while b'"listening"' not in await worker.stderr.readline():
            pass
        address = f"http://127.0.0.1:{settings.worker_port}"
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{address}/metrics") as response:
                assert "atoll_worker_events_applied_total 50.0" in await response.text()
            # It says so behind the step that edges heard of already.
            while True:
                async with session.get(f"{address}/health/ready") as response:
                    said = await response.json()
                if said["status"] != "waiting":
                    break
                await asyncio.sleep(0.02)
            assert said == {"status": "ready"}
        errors = await end(worker, kill=False)
        assert worker.returncode == 0, errors


async def test_a_worker_says_what_is_wrong_and_ends_with_2(settings: RegionSettings, tmp_path: Path) -> None:
    missing = await start_python("-m", "region.worker", "--settings", str(tmp_path / "none.json"))
    assert "cannot read the settings file" in await _errors(missing)
    (tmp_path / "store.sqlite").write_text("this is a diary, not a database, long enough to be read as one" * 9)
    diary = await start_worker(settings)
    errors = await _errors(diary)
    assert "cannot be opened" in errors
    assert (missing.returncode, diary.returncode) == (2, 2)


async def test_a_store_ahead_of_its_log_is_refused(settings: RegionSettings) -> None:
    async with open_region(settings) as region:
        await region.send_to_all(50)
        await region.store.apply(await region.log.read(after={0: 0}, limit=100))
    for suffix in ("", "-wal", "-shm"):
        Path(f"{settings.state_directory}/log.sqlite{suffix}").unlink(missing_ok=True)  # noqa: ASYNC240 - nobody waits
    worker = await start_worker(settings)
    assert "Restore the log that belongs to this store" in await _errors(worker)
    assert worker.returncode == 2


async def _errors(process: asyncio.subprocess.Process) -> str:
    _, errors = await process.communicate()
    return errors.decode()
