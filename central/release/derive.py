"""Derives a candidate from a release: the same towers with another adapter, evaluated and built like any other."""

from pathlib import Path

import msgspec
import numpy as np

from central.datasets.interactions import Interactions
from central.evaluation.protocol import Outcome, evaluate_model
from central.evaluation.results import Evaluation
from central.evaluation.splits import split_for
from central.release.build import FEDERATED, Bundle, Candidate, build_bundle
from central.training.saved import SavedModel
from infra.contracts.features import FloatArray
from infra.contracts.release import EVALUATION, Manifest
from infra.plumbing.clock import Clock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.progress import Progress
from infra.plumbing.tuf_client.manifests import MANIFEST_FILE


class ParentError(InvalidInputError):
    """The bundle to derive from does not fit the model or the adapter."""


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


def derive_bundle(
    *,
    parent: Path,
    model: SavedModel,
    data: Interactions,
    adapter: FloatArray,
    out: Path,
    clock: Clock,
    progress: Progress,
    allow_failed_gates: bool = False,
) -> Bundle:
    """Builds the candidate `parent` with `adapter` in the user tower; the same gates as any release.

    Args:
        parent: the bundle to derive from.
        model: the model folder that the parent was built from, loaded; left as it was.
        data: its dataset.
        adapter: `[dim, dim]` float32, finite.
        out: folder of bundles.
        clock: the moment of creation.
        progress: told while it runs.
        allow_failed_gates: build although a gate is shut.

    Raises:
        ParentError: parent, model and adapter do not belong together.
        GateError: a gate is shut.
    """
    manifest, active = read_bundle(parent)
    _check_fit(manifest, model, adapter)
    split = split_for(data, model.card.protocol)
    outcome = _evaluate_with(adapter, model, data, progress)
    candidate = Candidate(
        model=model, data=data, split=split, outcome=outcome, origin=FEDERATED, parent=manifest.release_id,
        active=active, adapter=adapter.astype(np.float32), before=parent,
    )  # fmt: skip
    return build_bundle(candidate, out, clock=clock, progress=progress, allow_failed_gates=allow_failed_gates)


def _evaluate_with(adapter: FloatArray, model: SavedModel, data: Interactions, progress: Progress) -> Outcome:
    variable = model.towers.users.adapter
    kept = variable.numpy()
    variable.assign(adapter)
    try:
        return evaluate_model(model, data, split_for(data, model.card.protocol), progress=progress)
    finally:
        variable.assign(kept)


def _check_fit(manifest: Manifest, model: SavedModel, adapter: FloatArray) -> None:
    dim = model.card.retrieval.dim
    if manifest.dataset_sha256 != model.card.dataset_sha256 or manifest.shape.dim != dim:
        raise ParentError("the parent was built from another model.", fix="Give the model folder it was built from.")
    if adapter.shape != (dim, dim) or not np.isfinite(adapter).all():
        raise ParentError(f"the adapter must be [{dim}, {dim}] and finite, not {adapter.shape}.")
