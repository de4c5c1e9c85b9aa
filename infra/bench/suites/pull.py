"""Bytes that a region fetches for a second release in which 2 % of the item rows changed, against the first.

A release of made-up vectors with a real ScaNN index is built, signed, published and pulled over HTTP by a region's own
release store; then 2 % of its rows change, its index is continued, and the region pulls it too. Everything that crosses
is counted at the server: metadata, manifests, deltas, blobs.
Options: `items` (default 100000), `changed` (share, default 0.02).
"""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from central.release.index import ParentIndex, build_index
from central.release.publish import publish
from central.release.repository import init_repository
from infra.bench.catalogue import BenchRequest
from infra.bench.results import Measured, at_most, medians
from infra.contracts import release as names
from infra.contracts.features import FloatArray
from infra.contracts.release import FileEntry, Manifest, ModelShape
from infra.plumbing.clock import Clock
from infra.plumbing.tuf_client.client import ReleaseClient
from region.releases.store import ReleaseStore

DIM, NEIGHBOURS, CATEGORIES = 64, 50, 20
TOWER_BYTES = 300_000
CLUSTERS = 256


def run(request: BenchRequest) -> Measured:
    """Publish and pull two releases, as often as asked."""
    items = int(request.number("items", 25_000 if request.quick else 100_000))
    changed = request.number("changed", 0.02)
    runs = []
    for number in range(request.runs):
        runs.append(_once(request.work / str(number), items, changed, number, request.clock))
        request.progress.advance(number + 1, request.runs, "pulled twice")
    figures = medians(runs)
    return Measured(
        figures=figures,
        bars=(at_most("bytes of the second release", figures["bytes_ratio"], 0.1, unit="x of the first"),),
        notes=(
            f"{items:,} items of {DIM} dimensions, {changed:.1%} of the rows changed in vectors, popularity and "
            "item-to-item lists; the models and the catalogue stay.",
        ),
    )


def _once(folder: Path, items: int, changed: float, seed: int, clock: Clock) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CLUSTERS, DIM))
    first = _arrays(rng, centres, items)
    second = {name: array.copy() for name, array in first.items()}
    rows = rng.choice(items, int(changed * items), replace=False)
    for name, array in _arrays(rng, centres, len(rows)).items():
        second[name][rows] = array
    repository, keys = folder / "repository", folder / "keys"
    init_repository(repository=repository, keys=keys, clock=clock)
    with _counting_server(repository) as server:
        root = (keys / "trusted-root.json").read_bytes()
        with ReleaseClient(repository_url=server.url, trusted_root=root, metadata_dir=folder / "tuf") as client:
            store = ReleaseStore(folder / "store", source=client, clock=clock)
            crossed, told, before = [], [], None
            for arrays in (first, second):
                bundle = _write_bundle(folder / "bundles", arrays, before, clock)
                publish(bundle=bundle, repository=repository, keys=keys, channel="stable", clock=clock)
                server.bytes_sent = 0
                told.append(store.pull(bundle.name).bytes_fetched)
                crossed.append(server.bytes_sent)
                before = bundle
            if not store.verify(before.name if before else "").ok:
                raise ValueError("the second release does not verify")
    return {
        "bytes_ratio": crossed[1] / crossed[0],
        "first_bytes": float(crossed[0]),
        "second_bytes": float(crossed[1]),
        "files_ratio": told[1] / told[0],
    }


def _arrays(rng: np.random.Generator, centres: "np.ndarray[Any, Any]", items: int) -> dict[str, Any]:
    vectors = centres[rng.integers(len(centres), size=items)] + 0.5 * rng.normal(size=(items, DIM))
    return {
        names.ITEM_VECTORS: vectors.astype(np.float32),
        names.ITEM_POPULARITY: rng.random(items, dtype=np.float32),
        names.ITEM_TREND: rng.random(items, dtype=np.float32),
        names.ITEM_CATEGORIES: rng.random((items, CATEGORIES), dtype=np.float32),
        names.SIMILAR_ROWS: rng.integers(items, size=(items, NEIGHBOURS), dtype=np.int32),
        names.SIMILAR_SCORES: rng.random((items, NEIGHBOURS), dtype=np.float32),
    }


def _write_bundle(folder: Path, arrays: dict[str, Any], before: Path | None, clock: Clock) -> Path:
    """A bundle folder under its own name; its index is continued from that of `before`."""
    staged = folder / "staged"
    staged.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(staged / name, array, allow_pickle=False)
    parent = None
    if before is not None:
        known: FloatArray = np.load(before / names.ITEM_VECTORS, allow_pickle=False)
        parent = ParentIndex(folder=before / names.SCANN_PREFIX, vectors=known)
    build_index(arrays[names.ITEM_VECTORS], staged / names.SCANN_PREFIX, parent=parent)
    for name in sorted(names.REQUIRED_FILES - arrays.keys()):
        (staged / name).parent.mkdir(exist_ok=True)
        (staged / name).write_bytes(hashlib.shake_256(name.encode()).digest(TOWER_BYTES))
    items = len(arrays[names.ITEM_VECTORS])
    manifest = Manifest(
        format_version=names.FORMAT_VERSION, created_at_ms=clock.now_ms(), dataset="synthetic",
        dataset_sha256="0" * 64, parent=before.name if before else None, origin="central",
        shape=ModelShape(
            dim=DIM, history_length=50, num_items=items, num_categories=CATEGORIES, ranker_batch=512,
            num_ranking_inputs=DIM, heads=("click",), categories=(),
        ),
        metrics={}, gates={}, files=dict(_entries(staged)),
    )  # fmt: skip
    (staged / "manifest.json").write_bytes(manifest.canonical_bytes())
    return staged.rename(folder / manifest.release_id)


def _entries(folder: Path) -> Iterator[tuple[str, FileEntry]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            name = path.relative_to(folder).as_posix()
            yield name, FileEntry(sha256=hashlib.sha256(content).hexdigest(), length=len(content))


class _Counting(http.server.ThreadingHTTPServer):
    """Counts the bytes of every body that it sends."""

    daemon_threads = True
    bytes_sent = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.SimpleHTTPRequestHandler):
    def copyfile(self, source: Any, outputfile: Any) -> None:
        """Send a file and count it."""
        content = source.read()
        outputfile.write(content)
        if isinstance(self.server, _Counting):
            self.server.bytes_sent += len(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


@contextmanager
def _counting_server(directory: Path) -> Iterator[_Counting]:
    server = _Counting(("127.0.0.1", 0), partial(_Handler, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
