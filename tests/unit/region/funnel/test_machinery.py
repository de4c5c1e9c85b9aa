"""The funnel's machinery: the compute pool, the recorder, live counts, loading, warming, background work."""

import asyncio
import logging
import threading
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from infra.contracts.features import FloatArray, HistoryInput
from infra.contracts.release import Manifest
from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import OverloadedError, UnavailableError
from region.background import Background
from region.funnel import towers as towers_module
from region.funnel.compute import ComputePool, Early
from region.funnel.live import LiveTrend
from region.funnel.recording import Recorder
from region.funnel.release import Retrieval, open_release
from region.funnel.tables import ReleaseContentError
from region.funnel.towers import LiteRtTowers, Model
from region.store.memory import MemoryStore
from tests.unit.region.worlds import FakeRetrieval, World, bundle_at


async def test_the_pool_refuses_beyond_its_bound_and_recovers() -> None:
    pool = ComputePool(threads=1, pending_max=2)
    gate = threading.Event()
    running = [asyncio.create_task(pool.run(gate.wait, 5.0)) for _ in range(2)]
    await asyncio.sleep(0)
    assert pool.pending == 2
    with pytest.raises(OverloadedError):
        await pool.run(int, "1")
    gate.set()
    assert await asyncio.gather(*running) == [True, True]
    assert await pool.run(int, "7") == 7
    assert pool.pending == 0
    pool.close()


async def test_work_whose_caller_left_counts_until_it_ends() -> None:
    pool = ComputePool(threads=1, pending_max=2)
    gate, begun = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        gate.wait(5.0)

    task = asyncio.create_task(pool.run(work))
    await asyncio.to_thread(begun.wait, 5.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pool.pending == 1
    gate.set()
    await pool.run(int)
    assert pool.pending == 0
    pool.close()


async def test_one_computation_has_the_turn_and_gives_it_away_where_it_waits() -> None:
    pool = ComputePool(threads=2, pending_max=4)
    other_ran, entered = threading.Event(), threading.Event()
    inside: list[str] = []

    def first() -> list[str]:
        inside.append("first")
        entered.set()
        with pool.without_turn():
            assert other_ran.wait(5.0)
        inside.append("first again")
        return list(inside)

    def second() -> None:
        assert entered.wait(5.0)
        inside.append("second")
        other_ran.set()

    answers = await asyncio.gather(pool.run(first), pool.run(second))
    assert answers[0] == ["first", "second", "first again"]
    pool.close()


async def test_no_two_computations_run_at_once() -> None:
    pool = ComputePool(threads=4, pending_max=64)
    running: list[int] = []

    def work() -> int:
        running.append(1)
        most = len(running)
        sum(range(20_000))
        most = max(most, len(running))
        running.pop()
        return most

    assert set(await asyncio.gather(*(pool.run(work) for _ in range(32)))) == {1}
    pool.close()


async def test_work_that_was_given_up_before_it_began_does_not_count() -> None:
    pool = ComputePool(threads=1, pending_max=4)
    gate = threading.Event()
    running, waiting = pool.begin(gate.wait, 5.0), pool.begin(int)
    waiting.cancel()
    await asyncio.sleep(0)
    assert pool.pending == 1
    gate.set()
    assert await running
    pool.close()


async def test_the_loop_hears_a_value_while_its_computation_goes_on() -> None:
    pool = ComputePool(threads=1, pending_max=4)
    gate, early = threading.Event(), Early[int]()

    def work() -> bool:
        early.tell(7)
        return gate.wait(5.0)

    whole = pool.begin(work)
    assert await early.value == 7
    assert not whole.done()
    gate.set()
    assert await whole
    given_up = Early[int]()
    given_up.value.cancel()
    given_up.tell(8)
    await asyncio.sleep(0)
    assert given_up.is_given_up
    pool.close()


def test_a_stage_is_timed_and_an_error_is_its_reason() -> None:
    clock = ManualClock()
    recorder = Recorder(clock=clock)
    with recorder.stage("merge", candidates_in=3) as note:
        clock.advance(0.002)
        note.candidates_out = 2
    with pytest.raises(TimeoutError), recorder.stage("ann"):
        raise TimeoutError
    with pytest.raises(ValueError, match="x"), recorder.stage("ranker"):
        raise ValueError("x")
    recorder.skip("store", why="deadline")
    recorder.degrade("store")
    assert [(stage.stage, stage.took_ms, stage.skipped) for stage in recorder.stages] == [
        ("merge", 2.0, ""), ("ann", 0.0, "timeout"), ("ranker", 0.0, "failed"), ("store", 0.0, "deadline"),
    ]  # fmt: skip
    assert recorder.degraded == ["store"]


async def test_live_counts_need_a_store_that_answers() -> None:
    clock = ManualClock()
    with pytest.raises(UnavailableError):
        await LiveTrend(clock=clock).refresh()
    store = MemoryStore(clock=clock)
    live = LiveTrend(clock=clock, store=store)
    assert live.is_stale()
    await live.refresh()
    assert not live.is_stale()
    store.available = False
    with pytest.raises(UnavailableError):
        await live.refresh()
    clock.advance(59)
    assert not live.is_stale()
    clock.advance(2)
    assert live.is_stale()


async def test_warming_asks_models_and_index(world: World) -> None:
    await world.release.warm()
    assert world.retrieval.asked == 3
    await world.release.close()
    assert world.retrieval.closed


async def test_a_release_that_speaks_nonsense_does_not_warm(world: World) -> None:
    world.towers.spoiled = True
    with pytest.raises(ReleaseContentError, match="not finite"):
        await world.release.warm()


async def test_an_unusable_release_takes_its_retrieval_process_along(tmp_path: Path) -> None:
    directory, manifest = bundle_at(tmp_path)
    started = FakeRetrieval(np.zeros((1, 1), np.float32))

    async def start(_directory: Path, _manifest: Manifest) -> Retrieval:
        return started

    with pytest.raises(ReleaseContentError, match="not a model"):
        await open_release(directory, manifest, region="x", tower_sets=1, start_retrieval=start)
    assert started.closed


async def test_a_retrieval_process_that_does_not_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, manifest = bundle_at(tmp_path)
    monkeypatch.setattr("region.funnel.release.LiteRtTowers", lambda *_args, **_named: None)

    async def fail(_directory: Path, _manifest: Manifest) -> Retrieval:
        raise UnavailableError("no index")

    with pytest.raises(UnavailableError, match="no index"):
        await open_release(directory, manifest, region="x", tower_sets=1, start_retrieval=fail)


class ScriptedInterpreter:
    """An interpreter whose tensors are as told."""

    inputs: tuple[tuple[str, tuple[int, ...], type], ...] = (("serving_default_features:0", (2, 3), np.float32),)
    output_shape: tuple[int, ...] = (2, 1)

    def __init__(self, model_path: str, num_threads: int) -> None:
        self.values: dict[int, FloatArray] = {}

    def allocate_tensors(self) -> None:
        return None

    def get_input_details(self) -> list[dict[str, object]]:
        return [
            {"name": name, "shape": np.array(shape), "dtype": dtype, "index": place}
            for place, (name, shape, dtype) in enumerate(self.inputs)
        ]

    def get_output_details(self) -> list[dict[str, object]]:
        return [{"name": "out", "shape": np.array(self.output_shape), "dtype": np.float32, "index": 99}]

    def get_signature_list(self) -> dict[str, object]:
        return {}

    def set_tensor(self, index: int, value: FloatArray) -> None:
        self.values[index] = value

    def invoke(self) -> None:
        return None

    def get_tensor(self, _index: int) -> FloatArray:
        total: FloatArray = self.values[0].sum(axis=1, keepdims=True)
        return total


def test_a_models_tensors_are_found_by_name_and_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(towers_module, "Interpreter", ScriptedInterpreter)
    path = tmp_path / "ranker.tflite"
    model = Model(path, inputs={"features": ((2, 3), np.float32)}, output=(2, 1))
    assert model.run({"features": np.ones((2, 3), np.float32)}).tolist() == [[3.0], [3.0]]
    with pytest.raises(ReleaseContentError, match="no input named histories; it has"):
        Model(path, inputs={"histories": ((2, 3), np.float32)}, output=(2, 1))
    with pytest.raises(ReleaseContentError, match=r"float32 \(2, 3\); the manifest asks for float32 \(5, 3\)"):
        Model(path, inputs={"features": ((5, 3), np.float32)}, output=(2, 1))
    with pytest.raises(ReleaseContentError, match=r"outputs of shape \[\(2, 1\)\]"):
        Model(path, inputs={"features": ((2, 3), np.float32)}, output=(2, 2))


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "user_tower.tflite"
    path.write_bytes(b"nonsense")
    with pytest.raises(ReleaseContentError, match=r"user_tower\.tflite is not a model"):
        Model(path, inputs={}, output=(1, 8))


def test_interpreters_are_lent_to_one_computation_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Set:
        def __init__(self, _directory: Path, _shape: object, **_more: object) -> None:
            self.gate = threading.Event()

        def user_vector(self, _history: HistoryInput) -> FloatArray:
            inside.set()
            self.gate.wait(5.0)
            return np.ones(1, np.float32)

        def rank(self, features: FloatArray) -> FloatArray:
            return features

        def item_vector(self, categories: FloatArray, year: int = 0, title: str = "") -> FloatArray:
            return categories

    inside = threading.Event()
    monkeypatch.setattr(towers_module, "TowerSet", Set)
    monkeypatch.setattr(towers_module, "LEND_TIMEOUT_S", 0.01)
    _, manifest = bundle_at(tmp_path)
    towers = LiteRtTowers(tmp_path, manifest.shape, sets=1)
    value = np.ones(3, np.float32)
    assert towers.rank(value) is value
    assert towers.item_vector(value) is value
    only = towers._sets.queue[0]
    history = HistoryInput(*[np.zeros(1, np.int32)] * 4)
    thread = threading.Thread(target=towers.user_vector, args=(history,))
    thread.start()
    inside.wait(5.0)
    with pytest.raises(UnavailableError, match="busy"):
        towers.rank(value)
    only.gate.set()
    thread.join(5.0)
    assert towers.rank(value) is value


async def test_background_work_goes_on_after_failures_and_reports_once(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("test-background")
    registry = CollectorRegistry()
    background = Background(logger=logger, registry=registry)
    outcomes: list[Exception | None] = [ValueError("x"), UnavailableError("gone"), None, None]
    done = asyncio.Event()

    async def work() -> None:
        if not outcomes:
            done.set()
            return
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    with caplog.at_level(logging.INFO, logger="test-background"):
        async with background.running({"w": background.repeat("w", work, every_s=0.0)}):
            await asyncio.wait_for(done.wait(), 5.0)
    assert [record.message for record in caplog.records] == [
        "background work fails",
        "background work succeeds again",
    ]
    assert registry.get_sample_value("atoll_region_background_failures_total", {"work": "w"}) == 2
