"""The index of one release: ScaNN where the release brings one, exact search where it does not."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from infra.contracts.features import FloatArray, IntArray
from infra.contracts.release import INDEX_REPORT, ITEM_VECTORS, SCANN_PREFIX, IndexReport, Manifest
from region.retrieval.errors import IndexUnusableError

_REORDERED = re.compile(r"approx_num_neighbors:\s*(\d+)")
_WARM_SEARCHES = 5
_WARM_K = 10


class Index(Protocol):
    """Finds the rows with the largest dot products."""

    kind: str
    dim: int
    num_items: int

    def search(self, vectors: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
        """Rows `[count, k] int32` and scores `[count, k] float32` for `vectors [count, dim] float32`.

        Best first; -1 and -inf fill what was not found. Safe to call from several threads.
        """
        ...


class ExactIndex:
    """Every dot product, for catalogues that are small enough."""

    kind = "exact"

    def __init__(self, vectors: FloatArray) -> None:
        self._vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        self.num_items, self.dim = self._vectors.shape

    def search(self, vectors: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
        """As `Index.search`; equal scores in row order."""
        scores = vectors @ self._vectors.T
        found = min(k, self.num_items)
        rows = np.full((len(vectors), k), -1, dtype=np.int32)
        best = np.full((len(vectors), k), -np.inf, dtype=np.float32)
        rows[:, :found] = np.argsort(-scores, axis=1, kind="stable")[:, :found]
        best[:, :found] = np.take_along_axis(scores, rows[:, :found], axis=1)
        return rows, best


class ScannIndex:
    """A serialised ScaNN searcher. `search` releases the interpreter; loading holds it, so it has its own process.

    Args:
        searcher: of `scann.scann_ops_pybind`; its ids are rows.
        dim: length of a vector.
        tuned: what the release says to search with; None: as the index was built.
    """

    kind = "scann"

    def __init__(self, searcher: Any, *, dim: int, tuned: IndexReport | None = None) -> None:
        self._searcher = searcher
        self._leaves = tuned.leaves_to_search if tuned is not None and tuned.leaves_to_search else -1
        self._tuned_reorder = tuned.reorder if tuned is not None else 0
        self.dim = dim
        self.num_items = int(searcher.size())
        reordered = _REORDERED.search(str(searcher.config()))
        self._reordered = int(reordered.group(1)) if reordered else 0

    def search(self, vectors: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
        """As `Index.search`."""
        # Without this, a k above the number that is scored exactly comes back short.
        pre_reorder = max(k, self._tuned_reorder or self._reordered) if self._reordered else -1
        if len(vectors) == 1:
            found, scores = self._searcher.search(vectors[0], k, pre_reorder, self._leaves)
            if len(found) == k:
                # As nearly always: nothing is to be filled, which would cost as much as two partitions.
                return found.astype(np.int32)[None], scores[None]
            return _padded(np.asarray(found)[None], np.asarray(scores)[None], k)
        found, scores = self._searcher.search_batched(vectors, k, pre_reorder, self._leaves)
        return _padded(np.asarray(found), np.asarray(scores), k)


def load_index(release: Path, *, load_searcher: Callable[[str], Any] | None = None) -> tuple[Index, Manifest]:
    """Load the index of the release in `release`, and warm it by a few searches.

    Args:
        release: a pulled release: its files and manifest.json.
        load_searcher: ScaNN's loader; by default the installed one.

    Raises:
        IndexUnusableError: a file is missing or damaged, or index and manifest disagree.
    """
    manifest = _read_manifest(release)
    index: Index
    if (release / SCANN_PREFIX).is_dir():
        searcher = _load_scann(release / SCANN_PREFIX, load_searcher or _scann_loader())
        index = ScannIndex(searcher, dim=manifest.shape.dim, tuned=_read_report(release / INDEX_REPORT))
    else:
        index = ExactIndex(_read_vectors(release / ITEM_VECTORS))
    shape = (index.num_items, index.dim)
    if shape != (manifest.shape.num_items, manifest.shape.dim):
        raise IndexUnusableError(
            f"the index in {release} holds {shape} numbers, its manifest says "
            f"{(manifest.shape.num_items, manifest.shape.dim)}.",
            fix="Build the release again.",
        )
    _warm(index)
    return index, manifest


def _warm(index: Index) -> None:
    """The first searches fault pages in and fill caches; and an index that cannot answer says so before it is used."""
    rng = np.random.default_rng(0)
    for _ in range(_WARM_SEARCHES):
        query = rng.normal(size=(1, index.dim)).astype(np.float32)
        try:
            index.search(query, min(_WARM_K, index.num_items))
        except RuntimeError as error:
            raise IndexUnusableError(f"the index does not answer: {error}.", fix="Build the release again.") from error


def _read_manifest(release: Path) -> Manifest:
    try:
        return msgspec.json.decode((release / "manifest.json").read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IndexUnusableError(
            f"{release} holds no readable manifest: {error}.", fix="Name a directory of a pulled release."
        ) from error


def _read_report(path: Path) -> IndexReport | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=IndexReport)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IndexUnusableError(f"{path.name} cannot be read: {error}.", fix="Pull the release again.") from error


def _read_vectors(path: Path) -> FloatArray:
    try:
        vectors: FloatArray = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise IndexUnusableError(f"{path} cannot be read: {error}.", fix="Pull the release again.") from error
    if vectors.ndim != 2 or vectors.dtype != np.float32 or not np.isfinite(vectors).all():
        raise IndexUnusableError(f"{path} is not a matrix of finite float32.", fix="Build the release again.")
    return vectors


def _load_scann(directory: Path, load_searcher: Callable[[str], Any]) -> Any:
    missing = [name for name in ("scann_assets.pbtxt", "scann_config.pb") if not (directory / name).is_file()]
    if missing:
        # ScaNN would try to write the missing file into the release.
        raise IndexUnusableError(f"{directory} lacks {', '.join(missing)}.", fix="Build the release again.")
    pickles = [path.name for path in directory.glob("*.pkl")]
    if pickles:
        # ScaNN would unpickle it, and with that run whatever it says.
        raise IndexUnusableError(f"{directory} holds a pickle ({pickles[0]}).", fix="Build it without item ids.")
    try:
        # ScaNN joins a relative path twice.
        return load_searcher(str(directory.resolve()))
    except (RuntimeError, ValueError, OSError) as error:
        raise IndexUnusableError(f"the index in {directory} cannot be loaded: {error}.") from error


def _scann_loader() -> Callable[[str], Any]:
    # Only a release with a ScaNN index needs the library.
    from scann import scann_ops_pybind  # noqa: PLC0415

    loader: Callable[[str], Any] = scann_ops_pybind.load_searcher
    return loader


def _padded(found: "np.ndarray[Any, Any]", scores: "np.ndarray[Any, Any]", k: int) -> tuple[IntArray, FloatArray]:
    """ScaNN's answer in our form: single searches come back short, batches are filled with row 0 and NaN."""
    count, width = found.shape
    rows = np.full((count, k), -1, dtype=np.int32)
    best = np.full((count, k), -np.inf, dtype=np.float32)
    real = ~np.isnan(scores)
    rows[:, :width] = np.where(real, found.astype(np.int64), -1).astype(np.int32)
    best[:, :width] = np.where(real, scores, -np.inf)
    return rows, best
