"""Derives a candidate from a release: the same towers with another adapter, or with items that moved.

What a federated round learned is evaluated and built like any other release. Where items moved, they moved everywhere:
in the catalogue's vectors, in the index over them, and in the user tower, which reads a history by them. What phones
read in place of items that central never heard of goes along. What a parent was itself derived by is kept.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec
import numpy as np

from central.datasets.interactions import Interactions
from central.evaluation.protocol import evaluate_model
from central.evaluation.results import Evaluation
from central.evaluation.splits import split_for
from central.release.build import FEDERATED, Bundle, Candidate, build_bundle
from central.training.saved import SavedModel
from central.training.towers import catalogue_vectors
from infra.contracts.features import FloatArray, IntArray
from infra.contracts.release import (
    EVALUATION,
    ITEM_VECTORS,
    LISTS,
    MOVED_READS,
    MOVED_ROWS,
    MOVES,
    Manifest,
    ReleaseLists,
)
from infra.plumbing.catalogue.reading import CatalogueError, open_catalogue
from infra.plumbing.clock import Clock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.progress import Progress
from infra.plumbing.releases.stand_ins import StandIns, StandInsError, read_stand_ins
from infra.plumbing.tuf_client.manifests import MANIFEST_FILE

SAME_VECTOR = 1e-5
"""Two machines compute an item's vector alike to less than that."""


class ParentError(InvalidInputError):
    """The bundle to derive from does not fit the model, or what a round learned does not fit the bundle."""


@dataclass(frozen=True, slots=True)
class ItemMoves:
    """How far the vectors of some items moved: catalogue rows `[moved] int32`, and moves `[moved, dim] float32`.

    `reads [moved] int32`: what phones' towers read in place of each, -1: nothing; None: the run said nothing of that.
    """

    rows: IntArray
    moves: FloatArray
    reads: IntArray | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """What a run over items left behind (`items.npz`).

        Raises:
            ParentError: it cannot be read.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                reads = arrays[MOVED_READS].astype(np.int32) if MOVED_READS in arrays else None
                return cls(arrays[MOVED_ROWS].astype(np.int32), arrays[MOVES].astype(np.float32), reads)
        except (OSError, ValueError, KeyError) as error:
            raise ParentError(
                f"{path} does not hold the moves of items: {error}.",
                fix="Give the items.npz that ./atoll federate round --train items left.",
            ) from None


def read_bundle(folder: Path) -> tuple[Manifest, Evaluation]:
    """Manifest and evaluation of a bundle.

    Raises:
        ParentError: not a bundle.
    """
    try:
        manifest = msgspec.json.decode((folder / MANIFEST_FILE).read_bytes(), type=Manifest)
        evaluation = msgspec.json.decode((folder / EVALUATION).read_bytes(), type=Evaluation)
    except (OSError, msgspec.DecodeError) as error:
        raise ParentError(
            f"{folder} is not a release bundle: {error}.", fix="Build one: ./atoll release build."
        ) from None
    return manifest, evaluation


def _lists(folder: Path) -> ReleaseLists:
    """A bundle's lists, what regions counted for themselves in them: a round changes none of it.

    Raises:
        ParentError: they cannot be read.
    """
    try:
        return msgspec.json.decode((folder / LISTS).read_bytes(), type=ReleaseLists)
    except (OSError, msgspec.DecodeError) as error:
        raise ParentError(f"the lists of {folder} cannot be read: {error}.", fix="Pull or build it again.") from None


def derive_bundle(
    *,
    parent: Path,
    model: SavedModel,
    data: Interactions,
    adapter: FloatArray,
    out: Path,
    clock: Clock,
    progress: Progress,
    items: ItemMoves | None = None,
    allow_failed_gates: bool = False,
) -> Bundle:
    """Builds the candidate `parent` with `adapter` in the user tower and `items` moved; the same gates as any release.

    Args:
        parent: the bundle to derive from.
        model: the model folder that the parent was built from, loaded; left as it was.
        data: its dataset.
        adapter: `[dim, dim]` float32, finite.
        out: folder of bundles.
        clock: the moment of creation.
        progress: told while it runs.
        items: how far some items moved, if they did.
        allow_failed_gates: build although a gate is shut.

    Raises:
        ParentError: parent, model, adapter and moves do not belong together.
        GateError: a gate is shut.
    """
    manifest, active = read_bundle(parent)
    _check_fit(manifest, model, adapter)
    _check_moves(items, manifest)
    stand_ins, by = _stand_ins(parent, items), _moves_of_all(manifest, parent, model, items)
    split = split_for(data, model.card.protocol)
    with _moved(model, adapter=adapter, by=by):
        outcome = evaluate_model(model, data, split, progress=progress)
        candidate = Candidate(
            model=model, data=data, split=split, outcome=outcome, origin=FEDERATED, parent=manifest.release_id,
            active=active, adapter=adapter.astype(np.float32), before=parent, lists=_lists(parent),
            stand_ins=stand_ins,
        )  # fmt: skip
        return build_bundle(candidate, out, clock=clock, progress=progress, allow_failed_gates=allow_failed_gates)


@contextmanager
def _moved(model: SavedModel, *, adapter: FloatArray, by: FloatArray | None) -> Iterator[None]:
    """The model as the round left it, every item moved `by [num_items, dim]`, and afterwards as it was.

    An item moves by its own row, to which what follows from its metadata is added: so new items stay where they are.
    """
    final, own = model.towers.users.adapter, model.towers.items.ids
    kept = final.numpy(), own.numpy()
    final.assign(adapter)
    if by is not None:
        own.assign(kept[1] + by)
    try:
        yield
    finally:
        final.assign(kept[0])
        own.assign(kept[1])


def _moves_of_all(
    manifest: Manifest, parent: Path, model: SavedModel, items: ItemMoves | None
) -> FloatArray | None:  # fmt: skip
    """How far every item lies from where the model has it, `[num_items, dim]`; None: all are there.

    Moves are told from the parent on, and one that is derived has moved items of its own.

    Raises:
        ParentError: the parent's vectors cannot be read.
    """
    by = None
    if manifest.origin == FEDERATED:
        by = _vectors(parent, manifest) - catalogue_vectors(model.towers.items)
        by[np.abs(by).max(axis=1) < SAME_VECTOR] = 0.0
    if items is not None:
        by = np.zeros((manifest.shape.num_items, manifest.shape.dim), dtype=np.float32) if by is None else by
        by[items.rows] += items.moves
    return by


def _vectors(parent: Path, manifest: Manifest) -> FloatArray:
    wanted = manifest.shape.num_items, manifest.shape.dim
    try:
        vectors: FloatArray = np.load(parent / ITEM_VECTORS, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ParentError(
            f"{ITEM_VECTORS} of {parent} cannot be read: {error}.", fix="Pull or build it again."
        ) from None
    if vectors.shape != wanted or not np.isfinite(vectors).all():
        raise ParentError(f"{ITEM_VECTORS} of {parent} is not {wanted} and finite.", fix="Pull or build it again.")
    return vectors.astype(np.float32)


def _stand_ins(parent: Path, items: ItemMoves | None) -> StandIns:
    """What phones read in place of items: as the run left it of its slice, of all others as before.

    Raises:
        ParentError: the parent's cannot be read, or the run's do not fit its catalogue.
    """
    try:
        heard = open_catalogue(parent).interactions
        before = read_stand_ins(parent, heard=heard)
        if items is None or items.reads is None:
            return before
        found = StandIns.of(items.rows, items.reads)
        found.check(heard)
    except (OSError, ValueError, CatalogueError, StandInsError) as error:
        raise ParentError(
            f"what is read in place of items cannot be told: {error}",
            fix="Derive from the release that the round was run on.",
        ) from None
    return before.but_of(items.rows).joined(found)


def _check_fit(manifest: Manifest, model: SavedModel, adapter: FloatArray) -> None:
    dim = model.card.retrieval.dim
    if manifest.dataset_sha256 != model.card.dataset_sha256 or manifest.shape.dim != dim:
        raise ParentError("the parent was built from another model.", fix="Give the model folder it was built from.")
    if adapter.shape != (dim, dim) or not np.isfinite(adapter).all():
        raise ParentError(f"the adapter must be [{dim}, {dim}] and finite, not {adapter.shape}.")


def _check_moves(items: ItemMoves | None, manifest: Manifest) -> None:
    if items is None:
        return
    rows, shape = items.rows, manifest.shape
    if rows.ndim != 1 or items.moves.shape != (rows.size, shape.dim) or not np.isfinite(items.moves).all():
        raise ParentError(f"the moves must be [{rows.size}, {shape.dim}] and finite, not {items.moves.shape}.")
    if items.reads is not None and items.reads.shape != rows.shape:
        raise ParentError(
            f"the moves say of {items.reads.shape} items what is read in their place, not of {rows.shape}."
        )
    if np.unique(rows).size != rows.size or not ((rows >= 0) & (rows < shape.num_items)).all():
        raise ParentError(
            f"the moves do not name rows of the parent's {shape.num_items} items, each once.",
            fix="Derive from the release that the round was run on.",
        )
