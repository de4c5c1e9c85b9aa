"""Builds a release: a folder named by the hash of its manifest, whole or not at all."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from central.datasets.aggregates import RegionCounts
from central.datasets.interactions import Interactions, Split
from central.datasets.plain import NUMBERS, parse_number
from central.evaluation.gates import Verdict, judge
from central.evaluation.protocol import Outcome
from central.evaluation.results import Evaluation
from central.folders import remove_stale, sync_tree
from central.release.card import model_card
from central.release.export import export_item_tower, export_ranker, export_user_tower, is_table_outside
from central.release.index import ParentIndex, build_index
from central.training.metadata import MetadataMap, fit_metadata
from central.training.popularity import item_counts, release_lists
from central.training.ranker import HEADS
from central.training.saved import SavedModel
from infra.contracts import release as names
from infra.contracts.features import RANKING_FEATURES, FloatArray, ItemLinks, ItemTables
from infra.plumbing.catalogue.writing import write_catalogue
from infra.plumbing.clock import Clock
from infra.plumbing.errors import AtollError
from infra.plumbing.files import sync_directory
from infra.plumbing.progress import Progress
from infra.plumbing.releases.stand_ins import StandIns
from infra.plumbing.tuf_client.manifests import MANIFEST_FILE

RANKER_BATCH: Final = 300
"""Candidates that the exported ranker scores in one call."""
HEADLINES: Final = ("hr10", "ndcg10", "hr50", "recall20", "ndcg20", "mrr10", "coverage10", "novelty10")
LINK_FILES: Final = (
    (names.SIMILAR_ROWS, names.SIMILAR_SCORES),
    (names.FOLLOWER_ROWS, names.FOLLOWER_SCORES),
    (names.SOON_ROWS, names.SOON_SCORES),
    (names.EASE_ROWS, names.EASE_SCORES),
)
CENTRAL: Final = "central"
FEDERATED: Final = "federated"


class GateError(AtollError):
    """A candidate did not pass its gates; nothing was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle on disk."""

    path: Path
    release_id: str
    manifest: names.Manifest
    verdict: Verdict
    stand_ins: int = 0
    """Items in whose place phones' towers read another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """All that a bundle is made of. `adapter`: `[dim, dim]`, in place of the trained one, or None."""

    model: SavedModel
    data: Interactions
    split: Split
    outcome: Outcome
    origin: str
    parent: str | None
    active: Evaluation | None
    adapter: FloatArray | None = None
    before: Path | None = None
    """The bundle that regions have, whose index is continued where little has changed."""
    counted: tuple[RegionCounts, ...] = ()
    """What regions counted for themselves, for their lists."""
    lists: names.ReleaseLists | None = None
    """The parent's lists, which follow from the data and not from a model; None: made of the data and `counted`."""
    stand_ins: StandIns | None = None
    """What phones' towers read in place of items that central never heard of; a file where there are any."""


def build_bundle(
    candidate: Candidate, out: Path, *, clock: Clock, progress: Progress, allow_failed_gates: bool = False
) -> Bundle:
    """Writes the bundle of `candidate` to `out/<release_id>`.

    Args:
        candidate: model, data and evaluation.
        out: folder of bundles.
        clock: the moment of creation.
        progress: told after every part.
        allow_failed_gates: build although a gate is shut (the manifest says so, and regions refuse by their policy).

    Raises:
        GateError: a gate is shut; nothing was written.
        ExportError: an export does not compute what TensorFlow computes.
        OSError: the disk is full; nothing was left behind.
    """
    verdict = judge_candidate(candidate)
    if not verdict.passed and not allow_failed_gates:
        raise GateError(
            "the candidate does not pass its gates: " + " ".join(verdict.sentences),
            fix="Train longer or on more data, or keep the active release.",
        )
    out.mkdir(parents=True, exist_ok=True)
    remove_stale(out, prefix=".building.")
    staged = out / f".building.{os.getpid()}.tmp"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    try:
        _write_files(candidate, verdict, staged, progress)
        manifest = _manifest(candidate, verdict, staged, clock)
        (staged / MANIFEST_FILE).write_bytes(manifest.canonical_bytes())
        sync_tree(staged)
        path = _place(staged, out / manifest.release_id)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return Bundle(
        path=path, release_id=manifest.release_id, manifest=manifest, verdict=verdict,
        stand_ins=len(candidate.stand_ins or ()),
    )  # fmt: skip


def judge_candidate(candidate: Candidate) -> Verdict:
    """The gates of a candidate against the active release, or against popularity alone."""
    evaluation = candidate.outcome.evaluation
    return judge(
        candidate=evaluation.stage["retrieval"],
        popularity=evaluation.baselines["popularity"],
        active=candidate.active.stage["retrieval"] if candidate.active else None,
        ranked=evaluation.stage.get("ranked"),
        ranked_baseline=evaluation.stage.get("retrieval_same_users"),
    )


def _place(staged: Path, path: Path) -> Path:
    if path.exists():  # the same content built before, at the same moment
        return path
    os.rename(staged, path)
    sync_directory(path.parent)
    return path


def _write_files(candidate: Candidate, verdict: Verdict, folder: Path, progress: Progress) -> None:
    model, outcome = candidate.model, candidate.outcome
    parts: list[Callable[[], object]] = [
        lambda: _write(folder / names.USER_TOWER, _user_tower(candidate)),
        lambda: _write(folder / names.ITEM_TOWER, export_item_tower(_metadata(candidate))),
        lambda: _write(folder / names.RANKER, export_ranker(model.ranker, batch=RANKER_BATCH)),
        lambda: _write_tables(outcome.tables, _adapter(candidate), folder),
        lambda: _write_stand_ins(candidate.stand_ins, folder),
        lambda: build_index(outcome.tables.vectors, folder / names.SCANN_PREFIX, parent=parent_index(candidate.before)),
        lambda: _write_texts(candidate, verdict, folder),
    ]
    for done, part in enumerate(parts, start=1):
        part()
        progress.advance(done, len(parts), "building the release")


def _user_tower(candidate: Candidate) -> bytes:
    outside = _shape(candidate).tower_reads_vectors
    return export_user_tower(candidate.model.towers, candidate.adapter, table_outside=outside)


def _metadata(candidate: Candidate) -> MetadataMap:
    return fit_metadata(candidate.data.items, candidate.outcome.tables.vectors)


def parent_index(bundle: Path | None) -> ParentIndex | None:
    """The index of a bundle, to be continued; None where there is no such bundle."""
    if bundle is None:
        return None
    vectors = np.load(bundle / names.ITEM_VECTORS, allow_pickle=False)
    return ParentIndex(folder=bundle / names.SCANN_PREFIX, vectors=vectors)


def _write_tables(tables: ItemTables, adapter: FloatArray, folder: Path) -> None:
    single: dict[str, npt.NDArray[np.generic]] = {
        names.ITEM_VECTORS: tables.vectors,
        names.ITEM_POPULARITY: tables.popularity,
        names.ITEM_TREND: tables.trend,
        names.ITEM_STRENGTH: tables.strength,
        names.ITEM_CATEGORIES: tables.categories,
        names.FEDERATED_ADAPTER: adapter,
    }
    for name, array in single.items():
        _save_array(folder / name, array, np.float32)
    _save_array(folder / names.ITEM_FIRST_SEEN, tables.first_seen_s, np.float64)
    similar = ItemLinks(tables.similar_rows, tables.similar_scores)
    for (rows, scores), links in zip(LINK_FILES, (similar, tables.followers, tables.soon, tables.ease), strict=True):
        _save_array(folder / rows, links.rows, np.int32)
        _save_array(folder / scores, links.scores, np.float32)


def _write_stand_ins(stand_ins: StandIns | None, folder: Path) -> None:
    if stand_ins is not None and len(stand_ins):
        _write(folder / names.STAND_INS, stand_ins.encoded())


def _save_array(path: Path, array: npt.NDArray[np.generic], kind: type[np.generic]) -> None:
    if not np.isfinite(array).all():
        raise AtollError(f"{path.name} would hold a value that is not finite.", fix="Train again.")
    np.save(path, np.ascontiguousarray(array, dtype=kind), allow_pickle=False)


def _write_texts(candidate: Candidate, verdict: Verdict, folder: Path) -> None:
    data, ends = candidate.data, candidate.split.known_ends
    similar_rows = candidate.outcome.tables.similar_rows
    lists = candidate.lists or release_lists(data, ends, similar_rows, counted=candidate.counted)
    write_catalogue(folder, _catalogue(data, ends), candidate.outcome.tables.popularity)
    _write(folder / names.LISTS, msgspec.json.encode(lists))
    _write(folder / names.RULES, msgspec.json.encode(names.Rules()))
    if candidate.model.card.light is not None:
        _write(folder / names.LIGHT, msgspec.json.encode(candidate.model.card.light))
    _write(folder / names.EVALUATION, msgspec.json.format(msgspec.json.encode(candidate.outcome.evaluation)))
    card = model_card(
        candidate.model.card, candidate.outcome.evaluation, verdict, origin=candidate.origin, counted=candidate.counted
    )  # fmt: skip
    _write(folder / names.MODEL_CARD, card.encode())


def _catalogue(data: Interactions, ends: npt.NDArray[np.int64]) -> Iterator[names.CatalogueItem]:
    counts = item_counts(data, ends)
    items = data.items
    return (
        names.CatalogueItem(
            item=items.ids[row], title=items.titles[row], categories=items.labels[row],
            year=int(items.years[row]) or None, interactions=int(counts[row]), **_named_extras(items.extras[row]),
        )
        for row in range(len(items))
    )  # fmt: skip


def _named_extras(extras: dict[str, str]) -> dict[str, Any]:
    """Fields of `CatalogueItem` out of an item's other columns; what has no field of its own is an attribute."""
    named: dict[str, Any] = {name: extras[name] for name in ("brand", "creator") if name in extras}
    named |= {name: parse_number(extras[name]) for name in NUMBERS if name in extras}
    return {**named, "attributes": {name: text for name, text in extras.items() if name not in named}}


def _manifest(candidate: Candidate, verdict: Verdict, folder: Path, clock: Clock) -> names.Manifest:
    evaluation = candidate.outcome.evaluation
    retrieval = evaluation.stage["retrieval"]
    return names.Manifest(
        format_version=names.FORMAT_VERSION, created_at_ms=clock.now_ms(), dataset=evaluation.dataset,
        dataset_sha256=evaluation.dataset_sha256, parent=candidate.parent, origin=candidate.origin,
        shape=_shape(candidate), metrics={name: retrieval[name] for name in HEADLINES}, gates=verdict.gates,
        files={name: _entry(folder / name) for name in sorted(_file_names(folder))},
    )  # fmt: skip


def _shape(candidate: Candidate) -> names.ModelShape:
    config, items = candidate.model.card.retrieval, candidate.data.items
    return names.ModelShape(
        dim=config.dim, history_length=config.history_length, num_items=len(items),
        num_categories=len(items.categories), ranker_batch=RANKER_BATCH,
        num_ranking_inputs=len(RANKING_FEATURES), heads=HEADS, categories=items.categories,
        tower_reads_vectors=is_table_outside(len(items), config.dim),
    )  # fmt: skip


def _adapter(candidate: Candidate) -> FloatArray:
    trained: FloatArray = candidate.model.towers.users.adapter.numpy()
    return trained if candidate.adapter is None else candidate.adapter


def _file_names(folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]


def _entry(path: Path) -> names.FileEntry:
    with path.open("rb") as file:
        return names.FileEntry(sha256=hashlib.file_digest(file, "sha256").hexdigest(), length=path.stat().st_size)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
