"""A tiny synthetic release: valid in form, with real arrays and dummy bytes where the towers would be."""

import hashlib
import io
from pathlib import Path

import msgspec
import numpy as np

from infra.contracts import release as contract
from infra.contracts.features import GAP_CLASSES, RANKING_FEATURES
from infra.contracts.release import CatalogueItem, FileEntry, Manifest, ModelShape, ReleaseLists, Rules
from infra.plumbing.catalogue.writing import catalogue_arrays

CATEGORIES = ("action", "comedy", "drama")


def make_bundle(
    directory: Path,
    *,
    num_items: int = 50,
    dim: int = 8,
    seed: int = 0,
    extra_files: dict[str, bytes] | None = None,
    ndcg10: float = 0.1,
) -> str:
    """Write `<directory>/<release_id>/` with all required files and `manifest.json`; returns the release id.

    The same arguments give the same release. Releases of different seeds share the towers, rules and catalogue.
    """
    files = {**_arrays(num_items, dim, seed), **_documents(num_items, ndcg10), **(extra_files or {})}
    files |= {
        name: f"dummy {name}".encode() * 64 for name in (contract.USER_TOWER, contract.ITEM_TOWER, contract.RANKER)
    }
    entries = {
        name: FileEntry(sha256=hashlib.sha256(content).hexdigest(), length=len(content))
        for name, content in files.items()
    }
    manifest = Manifest(
        format_version=contract.FORMAT_VERSION,
        created_at_ms=1_700_000_000_000 + seed,
        dataset="synthetic",
        dataset_sha256=hashlib.sha256(str(seed).encode()).hexdigest(),
        parent=None,
        origin="central",
        shape=_shape(num_items, dim),
        metrics={"hr10": 0.2, "ndcg10": ndcg10},
        gates={"ndcg10": True},
        files=entries,
    )
    root = directory / manifest.release_id
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (root / "manifest.json").write_bytes(manifest.canonical_bytes())
    return manifest.release_id


def npy(array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> bytes:
    """Bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _shape(num_items: int, dim: int) -> ModelShape:
    return ModelShape(
        dim=dim,
        history_length=16,
        num_items=num_items,
        num_categories=len(CATEGORIES),
        ranker_batch=32,
        num_ranking_inputs=len(RANKING_FEATURES),
        heads=("click",),
        categories=CATEGORIES,
    )


def _arrays(num_items: int, dim: int, seed: int) -> dict[str, bytes]:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(num_items, dim)).astype(np.float32)
    categories = np.eye(len(CATEGORIES), dtype=np.float32)[np.arange(num_items) % len(CATEGORIES)]
    neighbours = min(5, num_items - 1)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    similar = np.argsort(-scores, axis=1)[:, :neighbours].astype(np.int32)
    falling = np.tile(np.linspace(1, 0.2, neighbours, dtype=np.float32), (num_items, 1))
    popularity = np.sort(rng.random(num_items).astype(np.float32))[::-1].copy()
    return {
        contract.ITEM_VECTORS: npy(vectors),
        contract.ITEM_POPULARITY: npy(popularity),
        contract.ITEM_TREND: npy(rng.random(num_items).astype(np.float32)),
        contract.ITEM_CATEGORIES: npy(categories),
        contract.ITEM_STRENGTH: npy(rng.random(num_items).astype(np.float32)),
        contract.ITEM_FIRST_SEEN: npy(rng.uniform(0, 1e9, num_items)),
        contract.SIMILAR_ROWS: npy(similar),
        contract.SIMILAR_SCORES: npy(falling),
        contract.FOLLOWER_ROWS: npy(np.repeat(similar[:, None], GAP_CLASSES, axis=1)),
        contract.FOLLOWER_SCORES: npy(np.repeat(falling[:, None], GAP_CLASSES, axis=1)),
        contract.SOON_ROWS: npy(similar),
        contract.SOON_SCORES: npy(falling),
        contract.EASE_ROWS: npy(similar),
        contract.EASE_SCORES: npy(falling),
        contract.FEDERATED_ADAPTER: npy(np.eye(dim, dtype=np.float32)),
        **{name: npy(column) for name, column in catalogue_arrays(catalogue_items(num_items), popularity).items()},
    }


def catalogue_items(num_items: int) -> tuple[CatalogueItem, ...]:
    """The items of a bundle."""
    return tuple(
        CatalogueItem(
            item=item,
            title=f"Title {row}",
            categories=(CATEGORIES[row % len(CATEGORIES)],),
            interactions=num_items - row,
        )
        for row, item in enumerate(_ids(num_items))
    )


def _ids(num_items: int) -> tuple[str, ...]:
    return tuple(f"item-{row}" for row in range(num_items))


def _documents(num_items: int, ndcg10: float) -> dict[str, bytes]:
    ids = _ids(num_items)
    lists = ReleaseLists(
        popular={"all": ids[:20]},
        trending={"all": ids[5:25]},
        similar={item: tuple(ids[(row + step) % num_items] for step in (1, 2, 3)) for row, item in enumerate(ids)},
        titles={item: f"Title {row}" for row, item in enumerate(ids)},
    )
    return {
        contract.LISTS: msgspec.json.encode(lists),
        contract.EVALUATION: msgspec.json.encode({"ndcg10": ndcg10}),
        contract.MODEL_CARD: b"# Synthetic release\n",
        contract.RULES: msgspec.json.encode(Rules()),
    }
