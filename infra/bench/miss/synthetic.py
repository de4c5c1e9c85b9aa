"""`python -m infra.bench.miss.synthetic`: a whole release over a synthetic catalogue, in central's environment.

The towers and the ranker have the shapes and the operations of trained ones and random weights: what they answer says
nothing, what they cost says everything. The index is built as releases build it; above LARGE_ITEMS it is coarser (fewer
leaves, a smaller training sample, int8, not tuned), so that it is there in minutes, and items have fewer neighbours.
"""

import argparse
import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np

from central.datasets.interactions import Interactions, Items
from central.release.build import RANKER_BATCH
from central.release.export import export_item_tower, export_ranker, export_user_tower, is_table_outside
from central.release.index import build_index
from central.training.config import RankerConfig, RetrievalConfig
from central.training.metadata import MetadataMap
from central.training.ranker import HEADS, RankerNetwork
from central.training.retrieval import TwoTowerModel
from infra.bench.miss.vectors import clustered
from infra.contracts import release as names
from infra.contracts.features import GAP_CLASSES, RANKING_FEATURES, TITLE_SLOTS, YEAR_SLOTS, FloatArray
from infra.contracts.release import CatalogueItem, FileEntry, Manifest, ModelShape, ReleaseLists, Rules
from infra.plumbing.catalogue.writing import write_catalogue

DIM, HISTORY, CATEGORIES, NEIGHBOURS, LINKS = 64, 100, 32, 50, 8
LARGE_ITEMS = 2_000_000
LARGE_NEIGHBOURS = 20
COARSE_LEAVES, COARSE_SEARCHED, COARSE_SAMPLE, COARSE_REORDER = 3_000, 75, 100_000, 600
MODEL_ITEMS = 1_000
"""Of a user tower that reads its vectors: what the table inside would hold is not in the export."""
FIRST_S = 1_600_000_000.0


def main(arguments: list[str]) -> int:
    """Write the release; its directory is the last line of stdout."""
    parser = argparse.ArgumentParser(prog="python -m infra.bench.miss.synthetic", description=__doc__)
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    sys.stdout.write(f"{write_release(given.items, given.out, seed=given.seed)}\n")
    return 0


def write_release(num_items: int, out: Path, *, seed: int) -> Path:
    """A release of `num_items` in `out/<release id>`."""
    folder = out / "building"
    folder.mkdir(parents=True)
    vectors, owners = clustered(num_items, DIM, seed=seed)
    outside = is_table_outside(num_items, DIM)
    items = _items(MODEL_ITEMS if outside else num_items, owners)
    _write_models(items, vectors, folder, outside=outside)
    if num_items > LARGE_ITEMS:
        _build_coarse_index(vectors, folder / names.SCANN_PREFIX)
    else:
        build_index(vectors, folder / names.SCANN_PREFIX)
    _write_arrays(vectors, owners, folder, np.random.default_rng(seed))
    _write_documents(owners, folder)
    manifest = _manifest(num_items, folder, seed)
    (folder / "manifest.json").write_bytes(manifest.canonical_bytes())
    return folder.rename(out / manifest.release_id)


def _names() -> tuple[str, ...]:
    return tuple(f"category-{number}" for number in range(CATEGORIES))


def _weights(owners: "np.ndarray[Any, Any]") -> FloatArray:
    """`[items, CATEGORIES]`: each item is of one."""
    weights = np.zeros((owners.size, CATEGORIES), dtype=np.float32)
    weights[np.arange(owners.size), owners % CATEGORIES] = 1.0
    return weights


def _items(count: int, owners: "np.ndarray[Any, Any]") -> Items:
    """What the towers are made over."""
    return Items(
        ids=tuple(f"item-{row}" for row in range(count)), titles=("",) * count, labels=((),) * count,
        years=np.full(count, 2000, dtype=np.int32), categories=_names(), weights=_weights(owners[:count]),
        extras=({},) * count,
    )  # fmt: skip


def _build_coarse_index(vectors: FloatArray, folder: Path) -> None:
    from scann.scann_ops.py import scann_ops_pybind  # noqa: PLC0415 (imports TensorFlow where that is installed)

    builder = scann_ops_pybind.builder(vectors, 100, "dot_product")
    tree = builder.tree(COARSE_LEAVES, COARSE_SEARCHED, training_sample_size=COARSE_SAMPLE)
    hashed = tree.score_ah(2, anisotropic_quantization_threshold=0.2)
    bytes_each = scann_ops_pybind.scann_builder.ReorderType.INT8
    searcher = hashed.reorder(COARSE_REORDER, quantize=bytes_each).build()
    folder.mkdir(parents=True)
    searcher.docids = None
    searcher.serialize(str(folder), relative_path=True)


def _write_models(items: Items, vectors: FloatArray, folder: Path, *, outside: bool) -> None:
    config = RetrievalConfig(dim=DIM, history_length=HISTORY, layers=2, heads=2, distances=True)
    shares = np.full(len(items), 1.0 / len(items), dtype=np.float32)
    model = TwoTowerModel(config=config, data=cast("Interactions", SimpleNamespace(items=items)), item_shares=shares)
    model.items.ids.assign(vectors[: len(items)])
    model.items.categories.assign(np.zeros((CATEGORIES, DIM), dtype=np.float32))
    model.items.years.assign(np.zeros(model.items.years.shape, dtype=np.float32))
    (folder / names.USER_TOWER).write_bytes(export_user_tower(model, table_outside=outside))
    nowhere = MetadataMap(
        categories=np.zeros((CATEGORIES, DIM), dtype=np.float32), years=np.zeros((YEAR_SLOTS, DIM), dtype=np.float32),
        words=np.zeros((TITLE_SLOTS, DIM), dtype=np.float32),
    )  # fmt: skip
    (folder / names.ITEM_TOWER).write_bytes(export_item_tower(nowhere))
    inputs = len(RANKING_FEATURES)
    ranker = RankerNetwork(
        config=RankerConfig(), mean=np.zeros(inputs, np.float32), deviation=np.ones(inputs, np.float32)
    )
    (folder / names.RANKER).write_bytes(export_ranker(ranker, batch=RANKER_BATCH))


def _write_arrays(
    vectors: FloatArray, owners: "np.ndarray[Any, Any]", folder: Path, rng: np.random.Generator
) -> None:  # fmt: skip
    count = owners.size
    popularity = np.sort(rng.random(count).astype(np.float32) ** 3)[::-1]
    tables: dict[str, np.ndarray[Any, Any]] = {
        names.ITEM_VECTORS: vectors,
        names.ITEM_POPULARITY: popularity,
        names.ITEM_TREND: popularity * rng.random(count).astype(np.float32),
        names.ITEM_CATEGORIES: _weights(owners),
        names.ITEM_STRENGTH: rng.random(count).astype(np.float32),
        names.ITEM_FIRST_SEEN: FIRST_S + 1e8 * rng.random(count),
        names.FEDERATED_ADAPTER: np.eye(DIM, dtype=np.float32),
    }
    for name, array in tables.items():
        np.save(folder / name, np.ascontiguousarray(array), allow_pickle=False)
    similar = LARGE_NEIGHBOURS if count > LARGE_ITEMS else NEIGHBOURS
    _save_links(folder, names.SIMILAR_ROWS, names.SIMILAR_SCORES, _neighbours(owners, similar, rng))
    _save_links(folder, names.SOON_ROWS, names.SOON_SCORES, _neighbours(owners, LINKS, rng))
    _save_links(folder, names.EASE_ROWS, names.EASE_SCORES, _neighbours(owners, LINKS, rng))
    followers = _neighbours(owners, GAP_CLASSES * LINKS, rng).reshape(count, GAP_CLASSES, LINKS)
    _save_links(folder, names.FOLLOWER_ROWS, names.FOLLOWER_SCORES, followers)


def _neighbours(owners: "np.ndarray[Any, Any]", length: int, rng: np.random.Generator) -> "np.ndarray[Any, Any]":
    """`[count, length] int32`: items of the same cluster, drawn."""
    order = np.argsort(owners, kind="stable").astype(np.int32)
    starts = np.searchsorted(owners[order], np.arange(int(owners.max()) + 2))
    first, size = starts[owners], np.diff(starts)[owners]
    rows = np.empty((owners.size, length), dtype=np.int32)
    for column in range(length):
        rows[:, column] = order[first + (rng.random(owners.size) * size).astype(np.int64)]
    return rows


def _save_links(folder: Path, rows_name: str, scores_name: str, rows: "np.ndarray[Any, Any]") -> None:
    scores = np.broadcast_to(np.linspace(1.0, 0.1, rows.shape[-1], dtype=np.float32), rows.shape)
    np.save(folder / rows_name, rows, allow_pickle=False)
    np.save(folder / scores_name, np.ascontiguousarray(scores), allow_pickle=False)


def _write_documents(owners: "np.ndarray[Any, Any]", folder: Path) -> None:
    labels = tuple((name,) for name in _names())
    catalogue = (
        CatalogueItem(
            item=f"item-{row}", title=f"Title {row}", categories=labels[owner % CATEGORIES], brand=f"b{row % 997}"
        )
        for row, owner in enumerate(owners.tolist())
    )
    write_catalogue(folder, catalogue, np.load(folder / names.ITEM_POPULARITY, allow_pickle=False))
    best = tuple(f"item-{row}" for row in range(100))
    lists = ReleaseLists(popular={"all": best}, trending={"all": best}, similar={}, titles={})
    (folder / names.LISTS).write_bytes(msgspec.json.encode(lists))
    (folder / names.RULES).write_bytes(msgspec.json.encode(Rules()))
    (folder / names.EVALUATION).write_bytes(b"{}")
    (folder / names.MODEL_CARD).write_bytes(b"# Synthetic\n")


def _manifest(num_items: int, folder: Path, seed: int) -> Manifest:
    files = {
        path.relative_to(folder).as_posix(): _entry(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip
    return Manifest(
        format_version=names.FORMAT_VERSION, created_at_ms=round(FIRST_S * 1000) + seed, dataset="synthetic",
        dataset_sha256=hashlib.sha256(str(seed).encode()).hexdigest(), parent=None, origin="central",
        shape=ModelShape(
            dim=DIM, history_length=HISTORY, num_items=num_items, num_categories=CATEGORIES,
            ranker_batch=RANKER_BATCH, num_ranking_inputs=len(RANKING_FEATURES), heads=HEADS,
            categories=_names(), tower_reads_vectors=is_table_outside(num_items, DIM),
        ),
        metrics={}, gates={}, files=files,
    )  # fmt: skip


def _entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        return FileEntry(sha256=hashlib.file_digest(file, "sha256").hexdigest(), length=path.stat().st_size)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
