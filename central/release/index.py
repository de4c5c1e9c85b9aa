"""The ScaNN index of a release: settings by the size of the catalogue, files without absolute paths or pickles."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from central.release.tuning import exact_report, tuned, write_report
from infra.contracts.features import FloatArray, IntArray
from infra.contracts.release import INDEX_REPORT, IndexReport
from infra.plumbing.errors import AtollError

NEIGHBOURS: Final = 100
BRUTE_FORCE_ITEMS_MAX: Final = 20_000
"""Up to here exact search takes less than the rest of a request."""
CONTINUED_SHARE_MAX: Final = 0.1
"""An index with more new rows than this share of the old ones is built from nothing: its partitions would not fit."""
AVQ: Final = 3.0
"""Weight of the error along a vector in its partition's centre (ScaNN's `avq`, arXiv 1908.10396): for the large dot
products that a search is after. At 1 M items a recall of .985 takes a third of the partitions that it takes without."""
ANISOTROPY: Final = 0.3
"""From which share of a vector's length on a dot product counts, when errors of the codes are weighed (the threshold of
the same paper). Of 100,000 crowded vectors 200 reordered give a recall of .984, where .2 gives .978 and none .952."""
_LENGTH_OF: Final = 10_000
"""Vectors by which is judged how long they are."""
_FORBIDDEN: Final = frozenset({".pkl", ".pickle"})


class ReleaseIndexError(AtollError):
    """The index cannot be built or would not be safe to ship."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeSettings:
    """Settings of a partitioned index; see ScaNN's `algorithms.md`."""

    leaves: int
    leaves_to_search: int
    training_sample: int
    reorder: int


def tree_settings(num_items: int) -> TreeSettings | None:
    """Settings for a catalogue of `num_items`, None for exact search.

    From 1 M items on the training sample is the biggest lever on recall: 400,000 vectors.
    """
    if num_items <= BRUTE_FORCE_ITEMS_MAX:
        return None
    leaves = int(min(8000, max(100, 2 * np.sqrt(num_items))))
    return TreeSettings(
        leaves=leaves,
        leaves_to_search=max(20, leaves // 25),
        training_sample=min(num_items, 400_000),
        reorder=300 if num_items <= 2_000_000 else 1000,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentIndex:
    """The index of the release before: its serialised folder, and the vectors `[num_items, dim]` that are in it."""

    folder: Path
    vectors: FloatArray


def build_index(vectors: FloatArray, folder: Path, *, parent: ParentIndex | None = None) -> IndexReport:
    """Builds the index over `vectors [num_items, dim]`, serialises it into `folder`, and puts its report beside that.

    Where little has changed since `parent`, its index is continued: the same partitions and code book, with only the
    rows that differ put anew. So an index of few new rows is a file of few new rows, and a region fetches just those.

    Raises:
        ReleaseIndexError: a vector is not finite, or ScaNN wrote a file that has no place in a release.
    """
    from scann.scann_ops.py import scann_ops_pybind  # noqa: PLC0415 (imports TensorFlow where that is installed)

    if not np.isfinite(vectors).all():
        raise ReleaseIndexError("an item vector is not finite.", fix="Train again with a lower learning rate.")
    if parent is not None and (changed := _rows_to_renew(parent, vectors)) is not None:
        return _serialise(_continued(parent, vectors, changed), folder, vectors, leaves=_leaves_of(parent))
    neighbours = min(NEIGHBOURS, len(vectors))
    builder = scann_ops_pybind.builder(np.ascontiguousarray(vectors), neighbours, "dot_product")
    settings = tree_settings(len(vectors))
    if settings is None:
        searcher = builder.score_brute_force().build()
    else:
        tree = builder.tree(
            settings.leaves, settings.leaves_to_search, training_sample_size=settings.training_sample, avq=AVQ
        )
        length = float(np.linalg.norm(vectors[:_LENGTH_OF], axis=1).mean())
        hashed = tree.score_ah(2, anisotropic_quantization_threshold=ANISOTROPY * length)
        half = scann_ops_pybind.scann_builder.ReorderType.BFLOAT16
        searcher = hashed.reorder(settings.reorder, quantize=half).build()
    return _serialise(searcher, folder, vectors, leaves=settings.leaves if settings is not None else 0)


def _leaves_of(parent: ParentIndex) -> int:
    """The partitions of an index that may itself have been continued."""
    told = parent.folder.parent / INDEX_REPORT
    if told.is_file():
        return msgspec.json.decode(told.read_bytes(), type=IndexReport).leaves
    settings = tree_settings(len(parent.vectors))
    return settings.leaves if settings is not None else 0


def _rows_to_renew(parent: ParentIndex, vectors: FloatArray) -> IntArray | None:
    """Rows of `vectors` that `parent` has not or has otherwise; None when its index is not to be continued."""
    before, items = len(parent.vectors), len(vectors)
    same_settings = tree_settings(before) is not None and tree_settings(items) is not None
    if not same_settings or items < before or parent.vectors.shape[1] != vectors.shape[1]:
        return None
    differing = np.flatnonzero((parent.vectors != vectors[:before]).any(axis=1))
    changed = np.concatenate([differing, np.arange(before, items)]).astype(np.int32)
    return changed if len(changed) <= CONTINUED_SHARE_MAX * before else None


def _continued(parent: ParentIndex, vectors: FloatArray, changed: IntArray) -> Any:
    from scann.scann_ops.py import scann_ops_pybind  # noqa: PLC0415 (imports TensorFlow where that is installed)

    loaded = scann_ops_pybind.load_searcher(str(parent.folder.resolve()))
    # Rows are their own names; ScaNN wants names for whatever is put anew.
    names = [str(row) for row in range(len(parent.vectors))]
    searcher = scann_ops_pybind.ScannSearcher(loaded.searcher, docids=names)
    if len(changed):
        searcher.upsert([str(row) for row in changed], np.ascontiguousarray(vectors[changed]))
    return searcher


def _serialise(searcher: Any, folder: Path, vectors: FloatArray, *, leaves: int) -> IndexReport:
    folder.mkdir(parents=True, exist_ok=True)
    # Names would be written as a pickle, and are nothing but the row numbers.
    searcher.docids = None
    searcher.serialize(str(folder), relative_path=True)
    _check_files(folder)
    exact = exact_report(len(vectors), items_max=BRUTE_FORCE_ITEMS_MAX)
    report = tuned(searcher, vectors, leaves=leaves) if leaves else exact
    write_report(report, folder.parent)
    return report


def _check_files(folder: Path) -> None:
    for file in folder.iterdir():
        if file.suffix in _FORBIDDEN or (file.suffix == ".pbtxt" and b"/" in file.read_bytes()):
            raise ReleaseIndexError(f"ScaNN wrote {file.name}, which has no place in a release.")
