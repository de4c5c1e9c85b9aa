"""Promoting and rolling back while searches run: none fails, and every answer is of one release (invariant 4)."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from central.release.publish import publish
from central.release.repository import init_repository
from infra.contracts.features import FloatArray
from infra.contracts.release import ITEM_VECTORS
from infra.plumbing.clock import SystemClock
from infra.plumbing.tuf_client.client import ReleaseClient
from region.releases.activation import Activator
from region.releases.audit import AuditLog
from region.releases.store import ReleaseDirectory, ReleaseStore
from region.retrieval.process import RetrievalProcess
from tests.support.bundles import make_bundle
from tests.support.repositories import serve_static

DIM = 8
SEARCHERS = 3


@dataclass
class Loaded:
    """A release's own vectors and its retrieval process."""

    vectors: FloatArray
    process: RetrievalProcess

    async def warm(self) -> None:
        await self.process.search(np.ones(DIM, dtype=np.float32), 3, 5.0)

    async def close(self) -> None:
        await self.process.close()


@pytest.fixture
def region(tmp_path: Path) -> Iterator[tuple[ReleaseStore, list[str]]]:
    """A region's store with three releases pulled from a real repository."""
    clock, repository, keys = SystemClock(), tmp_path / "repository", tmp_path / "keys"
    root = init_repository(repository=repository, keys=keys, clock=clock)
    releases = [make_bundle(tmp_path / "bundles", dim=DIM, seed=seed) for seed in range(3)]
    for release in releases:
        bundle = tmp_path / "bundles" / release
        publish(bundle=bundle, repository=repository, keys=keys, channel="stable", clock=clock)
    with serve_static(repository) as server:
        seen = tmp_path / "tuf"
        with ReleaseClient(repository_url=server.url, trusted_root=root, metadata_dir=seen) as client:
            store = ReleaseStore(tmp_path / "store", source=client, clock=clock)
            for release in releases:
                store.pull(release)
            yield store, releases


async def test_no_search_fails_while_releases_are_switched(
    region: tuple[ReleaseStore, list[str]], tmp_path: Path
) -> None:
    store, releases = region
    started = 0

    async def load(directory: ReleaseDirectory) -> Loaded:
        nonlocal started
        started += 1
        socket = tmp_path / f"{started}.sock"
        process = RetrievalProcess(release=directory.path, socket=socket, clock=SystemClock())
        await process.start()
        return Loaded(np.load(directory.path / ITEM_VECTORS), process)

    async def told(_: str) -> None:
        return None

    activator: Activator[Loaded] = Activator(
        store=store, load=load, audit=AuditLog(tmp_path / "audit.jsonl"), clock=SystemClock(), on_switch=told
    )
    await activator.promote(releases[0], operator="ada")
    stop, answered = asyncio.Event(), 0

    async def search(seed: int) -> None:
        nonlocal answered
        rng = np.random.default_rng(seed)
        while not stop.is_set():
            query = rng.normal(size=DIM).astype(np.float32)
            with activator.lease() as loaded:
                rows, scores = await loaded.process.search(query, 5, 5.0)
                np.testing.assert_allclose(scores, loaded.vectors[rows] @ query, rtol=1e-4, atol=1e-5)
                assert rows[0] == np.argmax(loaded.vectors @ query)
            answered += 1

    searchers = [asyncio.create_task(search(seed)) for seed in range(SEARCHERS)]
    rolled_ms: list[float] = []
    for release in releases[1:]:
        await activator.promote(release, operator="ada")
        for _ in range(2):
            rolled_ms.append((await activator.roll_back(operator="bob")).took_ms)
            await activator.promote(release, operator="ada")
    stop.set()
    await asyncio.gather(*searchers)
    assert answered > 100
    assert max(rolled_ms) < 1000
    assert started == len(releases)
    await activator.close()
    assert not sockets(tmp_path)


def sockets(directory: Path) -> list[Path]:
    return list(directory.glob("*.sock"))
