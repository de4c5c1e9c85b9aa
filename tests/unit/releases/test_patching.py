"""A second release whose tables changed a little moves a little; whatever a delta gives is what was signed."""

import io
from pathlib import Path

import numpy as np
import pytest

from central.release.index import ParentIndex, build_index
from central.release.publish import publish
from infra.plumbing.clock import SystemClock
from infra.plumbing.tuf_client.client import ReleaseClient
from region.releases.store import ReleaseStore
from tests.support.bundles import make_bundle
from tests.unit.releases.conftest import Central

TABLE = "tables/extra.npy"
ROWS, WIDTH = 4_000, 32


def table(seed: int, changed: int = 0) -> bytes:
    rows = np.random.default_rng(seed).normal(size=(ROWS, WIDTH)).astype(np.float32)
    rows[:changed] += 1.0
    file = io.BytesIO()
    np.save(file, rows, allow_pickle=False)
    return file.getvalue()


def put_out(central: Central, content: bytes, *, ndcg10: float) -> str:
    release = make_bundle(central.bundles, extra_files={TABLE: content}, ndcg10=ndcg10)
    return publish(
        bundle=central.bundles / release, repository=central.repository, keys=central.keys, channel="stable",
        clock=central.clock,
    ).release  # fmt: skip


@pytest.fixture
def store(client: ReleaseClient, tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(tmp_path / "store", source=client, clock=SystemClock())


def deltas(central: Central) -> list[Path]:
    return list((central.repository / "targets" / "deltas").glob("*"))


def test_what_changed_a_little_moves_a_little(central: Central, store: ReleaseStore) -> None:
    store.pull(put_out(central, table(1), ndcg10=0.1))
    second = put_out(central, table(1, changed=40), ndcg10=0.2)
    assert len(deltas(central)) == 1
    answer = store.pull(second)
    assert answer.bytes_fetched < 0.05 * ROWS * WIDTH * 4
    assert store.verify(second).ok
    assert (store.directory(second).path / TABLE).read_bytes() == table(1, changed=40)


def test_without_the_release_before_the_file_comes_whole(central: Central, store: ReleaseStore) -> None:
    put_out(central, table(1), ndcg10=0.1)
    second = put_out(central, table(1, changed=40), ndcg10=0.2)
    assert store.pull(second).bytes_fetched > ROWS * WIDTH * 4
    assert store.verify(second).ok


def test_a_base_that_was_damaged_on_disk_costs_bytes_and_nothing_else(central: Central, store: ReleaseStore) -> None:
    first = put_out(central, table(1), ndcg10=0.1)
    store.pull(first)
    path = store.directory(first).path / TABLE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    second = put_out(central, table(1, changed=40), ndcg10=0.2)
    assert store.pull(second).bytes_fetched > ROWS * WIDTH * 4
    assert (store.directory(second).path / TABLE).read_bytes() == table(1, changed=40)


def test_a_table_of_which_nothing_stayed_gets_no_delta(central: Central) -> None:
    put_out(central, table(1), ndcg10=0.1)
    put_out(central, table(2), ndcg10=0.2)
    assert deltas(central) == []


def test_deltas_go_with_the_blobs_that_they_are_between(central: Central) -> None:
    first = make_bundle(central.bundles, extra_files={TABLE: table(1)}, ndcg10=0.1)
    for number in range(4):
        content = table(1, changed=40 * number)
        release = make_bundle(central.bundles, extra_files={TABLE: content}, ndcg10=0.1 + number, seed=number)
        publish(
            bundle=central.bundles / release, repository=central.repository, keys=central.keys, channel="stable",
            clock=central.clock, releases_max=2,
        )  # fmt: skip
    # Files of the state before the last publish stay for readers that are in the middle of it.
    assert 1 <= len(deltas(central)) <= 2
    assert first


def test_an_index_of_which_little_changed_is_continued(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(64, 16))
    before = (centres[rng.integers(64, size=25_000)] + 0.3 * rng.normal(size=(25_000, 16))).astype(np.float32)
    build_index(before, tmp_path / "a")
    after = np.concatenate([before, before[:100] + 0.1])
    changed = rng.choice(25_000, 500, replace=False)
    after[changed] = after[rng.permutation(changed)] + 0.05
    build_index(after, tmp_path / "b", parent=ParentIndex(folder=tmp_path / "a", vectors=before))
    assert {path.name for path in (tmp_path / "a").iterdir()} == {path.name for path in (tmp_path / "b").iterdir()}
    hashed = [np.load(tmp_path / folder / "hashed_dataset.npy")[:25_000] for folder in "ab"]
    assert (hashed[0] != hashed[1]).any(axis=1).mean() <= 0.021
    assert recall(after, tmp_path / "b") > recall(before, tmp_path / "a") - 0.02
    # So many new rows want partitions of their own.
    build_index(before + 1.0, tmp_path / "c", parent=ParentIndex(folder=tmp_path / "a", vectors=before))
    assert (np.load(tmp_path / "c" / "hashed_dataset.npy") != hashed[0]).any(axis=1).mean() > 0.5


def recall(vectors: "np.ndarray[tuple[int, int], np.dtype[np.float32]]", folder: Path) -> float:
    from scann.scann_ops.py import scann_ops_pybind  # noqa: PLC0415 - imports TensorFlow where that is installed

    found, _ = scann_ops_pybind.load_searcher(str(folder)).search_batched(vectors[-200:], final_num_neighbors=10)
    exact = np.argsort(-(vectors[-200:] @ vectors.T), axis=1)[:, :10]
    return float(np.mean([len(set(a.tolist()) & set(b.tolist())) / 10 for a, b in zip(found, exact, strict=True)]))
