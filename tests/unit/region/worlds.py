"""A small release in memory with NumPy in place of LiteRT and ScaNN, and everything around it that a call needs."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np

from infra.contracts.features import FloatArray, HistoryInput, IntArray
from infra.contracts.messages import HomeRequest, RecommendationType
from infra.contracts.release import Manifest
from infra.plumbing.clock import ManualClock
from infra.plumbing.telemetry import Telemetry, TelemetrySettings, start_telemetry
from region.funnel.compute import ComputePool
from region.funnel.dry_run import RequestLog
from region.funnel.funnel import Funnel
from region.funnel.live import LiveTrend
from region.funnel.metrics import FunnelMetrics
from region.funnel.plans import Budget
from region.funnel.recommender import Recommender
from region.funnel.recording import Recorder
from region.funnel.release import LoadedRelease
from region.funnel.ruling import Rulings
from region.funnel.sources import standing_of
from region.funnel.tables import ReleaseTables, load_tables
from region.funnel.understanding import Call
from region.releases.operations import NoActiveReleaseError
from region.rules.book import RuleBook
from region.rules.regional import Withdrawals
from region.rules.schema import RuleFile
from region.store.memory import MemoryStore
from region.store.port import Interactions, UserRow
from tests.support.bundles import make_bundle

SUBJECT = "0" * 32
NOW_MS = 1_700_000_000_000


@dataclass(slots=True)
class FakeTowers:
    """The mean of the items' vectors; ranks by the retrieval score. Fails on demand."""

    tables: ReleaseTables
    user_error: Exception | None = None
    ranker_error: Exception | None = None
    spoiled: bool = False
    ranked: int = 0

    def user_vector(self, history: HistoryInput) -> FloatArray:
        if self.user_error is not None:
            raise self.user_error
        rows = history.items[history.items > 0] - 1
        vector: FloatArray = self.tables.arrays.vectors[rows].mean(axis=0)
        return np.full_like(vector, np.nan) if self.spoiled else vector

    def rank(self, features: FloatArray) -> FloatArray:
        if self.ranker_error is not None:
            raise self.ranker_error
        self.ranked += len(features)
        scores: FloatArray = (1.0 / (1.0 + np.exp(-features[:, 0]))).astype(np.float32)
        return np.full_like(scores, np.nan) if self.spoiled else scores

    def item_vector(self, categories: FloatArray, year: int = 0, title: str = "") -> FloatArray:
        count, arrays = self.tables.shape.num_items, self.tables.arrays
        of_each = arrays.categories[:count].T @ arrays.vectors[:count]
        vector: FloatArray = (categories @ of_each).astype(np.float32)
        return vector


@dataclass(slots=True)
class FakeRetrieval:
    """Exact search; fails on demand."""

    vectors: FloatArray
    error: Exception | None = None
    asked: int = 0
    closed: bool = False
    side: tuple[IntArray, FloatArray] | None = None

    async def search(self, vector: FloatArray, k: int, timeout_s: float) -> tuple[IntArray, FloatArray]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        rows, vectors = np.arange(len(self.vectors), dtype=np.int32), self.vectors
        if self.side is not None:
            rows, vectors = np.concatenate([rows, self.side[0]]), np.concatenate([vectors, self.side[1]])
        scores = vectors @ vector
        best = np.argsort(-scores, kind="stable")[:k]
        return rows[best], scores[best]

    async def put_side(self, rows: IntArray, vectors: FloatArray) -> None:
        self.side = (rows, vectors)

    async def close(self) -> None:
        self.closed = True


@dataclass(slots=True, kw_only=True)
class World:
    """One node's rooms, wired as the application wires them."""

    release: LoadedRelease
    towers: FakeTowers
    retrieval: FakeRetrieval
    clock: ManualClock
    store: MemoryStore
    live: LiveTrend
    withdrawals: Withdrawals
    compute: ComputePool
    funnel: Funnel
    telemetry: Telemetry
    metrics: FunnelMetrics
    recommender: Recommender
    book: RuleBook
    requests: RequestLog
    active: list[LoadedRelease | None] = field(default_factory=list)

    def call(self, request: HomeRequest, row: UserRow | None = None, *, budget_s: float = 10.0) -> Call:
        return Call(
            request=request,
            row=row,
            release=self.release,
            now_s=self.clock.now_ms() / 1000,
            budget=Budget(self.clock.monotonic_s(), budget_s),
            recorder=Recorder(clock=self.clock, telemetry=self.telemetry),
        )

    def close(self) -> None:
        self.compute.close()
        self.telemetry.close()


def build_world(
    directory: Path, *, rules: RuleFile | None = None, num_items: int = 50, pending_max: int = 16, live: bool = True
) -> World:
    """A world over the synthetic bundle of the releases' tests."""
    tables = bundle_tables(directory, num_items=num_items)
    towers, retrieval = FakeTowers(tables), FakeRetrieval(tables.arrays.vectors[: tables.shape.num_items])
    release = LoadedRelease(
        tables=tables, standing=standing_of(tables, "us-east"), towers=towers, retrieval=retrieval
    )  # fmt: skip
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    trend = LiveTrend(clock=clock, store=store if live else None)
    withdrawals = Withdrawals(directory)
    compute = ComputePool(threads=1, pending_max=pending_max)
    book, requests = RuleBook(directory / "rules", region="us-east", first=rules), RequestLog(gap_min_s=0.0)
    rulings = Rulings(book, on_error=lambda _rule: None)
    funnel = Funnel(compute=compute, live=trend, withdrawals=withdrawals, rulings=rulings)
    telemetry = start_telemetry(
        service="region", region="us-east", node="r1", settings=TelemetrySettings(log_file=str(directory / "log"))
    )
    metrics = FunnelMetrics(telemetry.registry)
    active: list[LoadedRelease | None] = [release]
    recommender = Recommender(
        region="us-east", store=store, funnel=funnel, lease=lambda: _leased(active), clock=clock, telemetry=telemetry,
        metrics=metrics, requests=requests,
    )  # fmt: skip
    return World(
        release=release, towers=towers, retrieval=retrieval, clock=clock, store=store, live=trend,
        withdrawals=withdrawals, compute=compute, funnel=funnel, telemetry=telemetry, metrics=metrics,
        recommender=recommender, book=book, requests=requests, active=active,
    )  # fmt: skip


@contextmanager
def _leased(active: list[LoadedRelease | None]) -> Iterator[LoadedRelease]:
    if active[0] is None:
        raise NoActiveReleaseError("This region runs no release yet.")
    yield active[0]


def bundle_tables(directory: Path, *, num_items: int = 50) -> ReleaseTables:
    """Tables of the synthetic bundle."""
    return load_tables(*bundle_at(directory, num_items=num_items))


def bundle_at(directory: Path, *, num_items: int = 50) -> tuple[Path, Manifest]:
    """The synthetic bundle's directory and manifest."""
    root = directory / make_bundle(directory, num_items=num_items)
    return root, msgspec.json.decode((root / "manifest.json").read_bytes(), type=Manifest)


def row_of(*items: str, subject: str = SUBJECT, opted_out: bool = False, version: int = 3) -> UserRow:
    """A row whose history holds `items`, a minute apart, all liked."""
    first_ms = NOW_MS - 60_000 * len(items)
    times_ms = tuple(first_ms + 60_000 * index for index in range(len(items)))
    history = Interactions(items, (5,) * len(items), times_ms)
    return UserRow(subject=subject, version=version, history=history, opted_out=opted_out)


def personal(**fields: object) -> HomeRequest:
    """A personal call, changed by `fields`."""
    return msgspec.structs.replace(HomeRequest(type=RecommendationType.PERSONAL, subject=SUBJECT), **fields)


def npy_bytes(array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> bytes:
    """A .npy file in memory."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


__all__ = [
    "NOW_MS", "SUBJECT", "FakeRetrieval", "FakeTowers", "World", "build_world", "bundle_at", "bundle_tables",
    "npy_bytes", "personal", "replace", "row_of",
]  # fmt: skip
