"""The ScaNN index of a release: settings by the size of the catalogue, files without absolute paths or pickles."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from infra.contracts.features import FloatArray
from infra.plumbing.errors import AtollError

NEIGHBOURS: Final = 100
BRUTE_FORCE_ITEMS_MAX: Final = 20_000
"""Up to here exact search takes less than the rest of a request."""
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


def build_index(vectors: FloatArray, folder: Path) -> None:
    """Builds the index over `vectors [num_items, dim]` and serialises it into `folder`.

    Raises:
        ReleaseIndexError: a vector is not finite, or ScaNN wrote a file that has no place in a release.
    """
    from scann.scann_ops.py import scann_ops_pybind  # noqa: PLC0415 (imports TensorFlow where that is installed)

    if not np.isfinite(vectors).all():
        raise ReleaseIndexError("an item vector is not finite.", fix="Train again with a lower learning rate.")
    neighbours = min(NEIGHBOURS, len(vectors))
    builder = scann_ops_pybind.builder(np.ascontiguousarray(vectors), neighbours, "dot_product")
    settings = tree_settings(len(vectors))
    if settings is None:
        searcher = builder.score_brute_force().build()
    else:
        tree = builder.tree(settings.leaves, settings.leaves_to_search, training_sample_size=settings.training_sample)
        hashed = tree.score_ah(2, anisotropic_quantization_threshold=0.2)
        half = scann_ops_pybind.scann_builder.ReorderType.BFLOAT16
        searcher = hashed.reorder(settings.reorder, quantize=half).build()
    folder.mkdir(parents=True, exist_ok=True)
    searcher.serialize(str(folder), relative_path=True)
    _check_files(folder)


def _check_files(folder: Path) -> None:
    for file in folder.iterdir():
        if file.suffix in _FORBIDDEN or (file.suffix == ".pbtxt" and b"/" in file.read_bytes()):
            raise ReleaseIndexError(f"ScaNN wrote {file.name}, which has no place in a release.")
