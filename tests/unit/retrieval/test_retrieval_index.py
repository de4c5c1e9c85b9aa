"""Loading an index, and the one form in which every index answers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.contracts.features import FloatArray
from infra.contracts.release import ITEM_VECTORS
from region.retrieval.errors import IndexUnusableError
from region.retrieval.index import ExactIndex, ScannIndex, load_index
from tests.support.bundles import make_bundle, npy

SCANN_FILES = {"scann/scann_assets.pbtxt": b"assets", "scann/scann_config.pb": b"config"}


class Searcher:
    """Answers as ScaNN 1.4.2 was seen to: uint32 rows; single searches short, batches filled with row 0 and NaN."""

    def __init__(self, items: int, config: str = "approx_num_neighbors: 3", found: int = 3) -> None:
        self.items, self.text, self.found = items, config, found
        self.asked: list[tuple[str, int, int]] = []

    def size(self) -> int:
        return self.items

    def config(self) -> str:
        return self.text

    def search(self, vector: FloatArray, k: int, pre: int, leaves: int) -> tuple[Any, Any]:
        self.asked.append(("search", k, pre))
        width = min(k, self.found)
        return np.arange(width, dtype=np.uint32), np.linspace(1, 0, width, dtype=np.float32)

    def search_batched(self, vectors: FloatArray, k: int, pre: int, leaves: int) -> tuple[Any, Any]:
        self.asked.append(("batched", k, pre))
        rows = np.zeros((len(vectors), k), dtype=np.uint32)
        scores = np.full((len(vectors), k), np.nan, dtype=np.float32)
        width = min(k, self.found)
        rows[:, :width], scores[:, :width] = np.arange(width), 0.5
        return rows, scores


@given(st.integers(1, 30), st.integers(1, 6), st.integers(1, 40), st.integers(0, 2**16))
def test_exact_search_is_a_sorted_dot_product(items: int, dim: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-3, 4, size=(items, dim)).astype(np.float32)
    queries = rng.integers(-3, 4, size=(2, dim)).astype(np.float32)
    rows, scores = ExactIndex(vectors).search(queries, k)
    assert rows.dtype == np.int32
    assert scores.dtype == np.float32
    assert rows.shape == scores.shape == (2, k)
    for number, query in enumerate(queries):
        every = [(-float(vector @ query), row) for row, vector in enumerate(vectors)]
        wanted = [row for _, row in sorted(every)][:k]
        assert rows[number].tolist() == wanted + [-1] * (k - len(wanted))
        assert np.isneginf(scores[number][len(wanted) :]).all()


def test_scann_answers_are_brought_into_one_form() -> None:
    searcher = Searcher(items=10)
    index = ScannIndex(searcher, dim=4)
    one = index.search(np.zeros((1, 4), np.float32), 5)
    two = index.search(np.zeros((2, 4), np.float32), 5)
    for rows, scores in (one, two):
        assert rows.dtype == np.int32
        assert rows[0].tolist() == [0, 1, 2, -1, -1]
        assert np.isneginf(scores[0][3:]).all()
    assert searcher.asked == [("search", 5, 5), ("batched", 5, 5)]


def test_scann_is_asked_to_score_exactly_at_least_as_many_as_are_wanted() -> None:
    searcher = Searcher(items=10, config="approx_num_neighbors: 100")
    ScannIndex(searcher, dim=4).search(np.zeros((1, 4), np.float32), 5)
    brute = Searcher(items=10, config="brute_force {}")
    ScannIndex(brute, dim=4).search(np.zeros((1, 4), np.float32), 5)
    assert (searcher.asked[0][2], brute.asked[0][2]) == (100, -1)


def test_a_release_without_scann_is_searched_exactly(tmp_path: Path) -> None:
    release = make_bundle(tmp_path, num_items=20, dim=4)
    index, manifest = load_index(tmp_path / release)
    assert (index.kind, index.num_items, index.dim, manifest.release_id) == ("exact", 20, 4, release)


def test_a_release_with_scann_is_loaded_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = make_bundle(tmp_path, num_items=20, dim=4, extra_files=SCANN_FILES)
    monkeypatch.chdir(tmp_path)
    asked: list[str] = []
    searcher = Searcher(items=20)

    def load(path: str) -> Searcher:
        asked.append(path)
        return searcher

    index, _ = load_index(Path(release), load_searcher=load)
    assert asked == [str(tmp_path.resolve() / release / "scann")]
    assert (index.kind, index.num_items, index.dim) == ("scann", 20, 4)
    assert len(searcher.asked) >= 3


def failing(error: Exception) -> Any:
    def load(_: str) -> Any:
        raise error

    return load


def test_indexes_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(IndexUnusableError, match="no readable manifest"):
        load_index(tmp_path)
    whole = tmp_path / make_bundle(tmp_path, num_items=20, dim=4, extra_files=SCANN_FILES)
    with pytest.raises(IndexUnusableError, match="cannot be loaded: no"):
        load_index(whole, load_searcher=failing(RuntimeError("no")))
    with pytest.raises(IndexUnusableError, match=r"\(21, 4\) numbers"):
        load_index(whole, load_searcher=lambda _: Searcher(items=21))
    (whole / "scann" / "scann_docids.pkl").write_bytes(b"cos")
    with pytest.raises(IndexUnusableError, match="holds a pickle"):
        load_index(whole, load_searcher=lambda _: Searcher(items=20))
    (whole / "scann" / "scann_assets.pbtxt").unlink()
    with pytest.raises(IndexUnusableError, match="lacks scann_assets"):
        load_index(whole, load_searcher=lambda _: Searcher(items=20))


def test_an_index_that_does_not_answer_is_not_served(tmp_path: Path) -> None:
    whole = tmp_path / make_bundle(tmp_path, num_items=20, dim=4, extra_files=SCANN_FILES)
    searcher = Searcher(items=20)
    searcher.search = failing_search  # type: ignore[method-assign, assignment]
    with pytest.raises(IndexUnusableError, match="does not answer"):
        load_index(whole, load_searcher=lambda _: searcher)


def failing_search(*_: object) -> None:
    raise RuntimeError("broken")


@pytest.mark.parametrize(
    "content",
    [b"not an array", npy(np.zeros((5, 2), np.float64)), npy(np.full((5, 2), np.nan, np.float32))],
)
def test_vectors_that_cannot_be_used(tmp_path: Path, content: bytes) -> None:
    whole = tmp_path / make_bundle(tmp_path, num_items=20, dim=4)
    (whole / ITEM_VECTORS).write_bytes(content)
    with pytest.raises(IndexUnusableError):
        load_index(whole)
