"""A release that can be asked: its tables, its models, its retrieval process."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from infra.contracts.events import EventType, event_strength
from infra.contracts.features import FloatArray, IntArray, encode_history
from infra.contracts.release import Manifest
from infra.plumbing.aside import aside
from infra.plumbing.mapped import let_go
from region import collecting
from region.funnel.sources import Standing, standing_of
from region.funnel.tables import ReleaseContentError, ReleaseTables, load_tables
from region.funnel.towers import LiteRtTowers, Towers

WARM_PASSES = 3
WARM_SEARCH_TIMEOUT_S = 5.0


class Retrieval(Protocol):
    """The index of a release, wherever it lives."""

    async def search(self, vector: FloatArray, k: int, timeout_s: float) -> tuple[IntArray, FloatArray]:
        """Rows and dot products of the `k` nearest items, best first; may come back short.

        Raises:
            TimeoutError: it did not answer in time.
            UnavailableError: it does not run.
        """
        ...

    async def put_side(self, rows: IntArray, vectors: FloatArray) -> None:
        """From now on `rows [count] int32` with `vectors [count, dim]` are searched beside the index, and no others.

        Raises:
            TimeoutError, UnavailableError: it does not run; it hears of them when it is back.
        """
        ...

    async def close(self) -> None:
        """End it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class LoadedRelease:
    """One release in memory. Everything in it comes from the same bundle (invariant 4)."""

    tables: ReleaseTables
    standing: Standing
    towers: Towers
    retrieval: Retrieval

    @property
    def release_id(self) -> str:
        """Which release this is."""
        return self.tables.release_id

    async def warm(self) -> None:
        """Run models and index a few times, so that the first request finds pages and caches filled.

        Raises:
            ReleaseContentError: the models give numbers that are not finite.
            TimeoutError, UnavailableError: the index does not answer.
        """
        vector = await asyncio.to_thread(self._try_models)
        wanted = min(self.tables.shape.ranker_batch, self.tables.shape.num_items)
        for _ in range(WARM_PASSES):
            await self.retrieval.search(vector, wanted, WARM_SEARCH_TIMEOUT_S)

    async def close(self) -> None:
        """End the retrieval process; tables and models go with the last reference.

        Their pages go before: whoever drops the last reference, a request perhaps, would wait for all of them.
        """
        await aside(let_go, self.tables.mapped)
        await self.retrieval.close()

    def _try_models(self) -> FloatArray:
        shape = self.tables.shape
        strength = event_strength(EventType.LIKE, None)
        history = encode_history([0], [strength], [0.0], now_s=60.0, length=shape.history_length)
        features = np.zeros((shape.ranker_batch, shape.num_ranking_inputs), dtype=np.float32)
        for _ in range(WARM_PASSES):
            vector, scores = self.towers.user_vector(history), self.towers.rank(features)
        if not (np.isfinite(vector).all() and np.isfinite(scores).all()):
            raise ReleaseContentError(f"the models of release {self.release_id} give numbers that are not finite.")
        return vector


async def open_release(
    directory: Path, manifest: Manifest, *, region: str, tower_sets: int,
    start_retrieval: Callable[[Path, Manifest], Awaitable[Retrieval]],
) -> LoadedRelease:  # fmt: skip
    """Load the release in `directory`: tables and models in a thread, beside the start of its retrieval process.

    Args:
        directory: all files of the release, verified.
        manifest: its manifest.
        region: whose lists stand first.
        tower_sets: how many computations may run its models at once.
        start_retrieval: starts the process that searches its index.

    Raises:
        ReleaseContentError: a file is not what the manifest says.
        AtollError: the retrieval process does not start.
    """
    starting = asyncio.ensure_future(start_retrieval(directory, manifest))
    try:
        with collecting.loading():
            tables, towers = await asyncio.to_thread(_read, directory, manifest, tower_sets)
            standing = await asyncio.to_thread(standing_of, tables, region)
        return LoadedRelease(tables=tables, standing=standing, towers=towers, retrieval=await starting)
    except BaseException:
        await _abandon(starting)
        raise


def _read(directory: Path, manifest: Manifest, tower_sets: int) -> tuple[ReleaseTables, LiteRtTowers]:
    tables = load_tables(directory, manifest)
    return tables, LiteRtTowers(directory, manifest.shape, sets=tower_sets, vectors=tables.arrays.vectors)


async def _abandon(starting: "asyncio.Future[Retrieval]") -> None:
    """End a retrieval process whose release turned out to be unusable, whether it has started or not."""
    starting.cancel()
    results = await asyncio.gather(starting, return_exceptions=True)
    if not isinstance(results[0], BaseException):
        await results[0].close()
