"""A tiny release with true LiteRT models in it, made with TensorFlow; and an exact search in place of ScaNN."""

import hashlib
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from infra.contracts import release as contract
from infra.contracts.features import FloatArray, HistoryInput, IntArray
from infra.contracts.release import FileEntry, Manifest, ModelShape
from infra.plumbing.clock import Clock
from tests.support.bundles import make_bundle


def tiny_release(directory: Path, *, seed: int) -> str:
    """Write `<directory>/<release_id>/`, whose towers are means of the items' vectors. Returns the id."""
    draft = directory / "drafts"
    old = draft / make_bundle(draft, seed=seed)
    manifest = msgspec.json.decode((old / "manifest.json").read_bytes(), type=Manifest)
    vectors = np.load(old / contract.ITEM_VECTORS, allow_pickle=False)
    models = _models(manifest.shape, vectors.tobytes())
    files = dict(manifest.files)
    for name, content in models.items():
        (old / name).write_bytes(content)
        files[name] = FileEntry(sha256=hashlib.sha256(content).hexdigest(), length=len(content))
    manifest = replace(manifest, files=files)
    (old / "manifest.json").write_bytes(manifest.canonical_bytes())
    old.rename(directory / manifest.release_id)
    return manifest.release_id


@cache
def _models(shape: ModelShape, vectors_bytes: bytes) -> dict[str, bytes]:
    import tensorflow as tf  # noqa: PLC0415 - takes seconds, and only this needs it

    vectors = np.frombuffer(vectors_bytes, dtype=np.float32).reshape(shape.num_items, shape.dim)
    table = tf.constant(np.concatenate([np.zeros((1, shape.dim), np.float32), vectors]))
    spread = tf.constant(np.eye(shape.num_categories, shape.dim, dtype=np.float32))

    def user(items: Any, strengths: Any, gaps_before: Any, gaps_after: Any) -> dict[str, Any]:
        count = tf.reduce_sum(tf.cast(items > 0, tf.float32), axis=1, keepdims=True)
        idle = tf.cast(tf.reduce_sum(strengths + gaps_before + gaps_after, axis=1, keepdims=True), tf.float32) * 1e-9
        return {"vector": tf.reduce_sum(tf.gather(table, items), axis=1) / tf.maximum(count, 1.0) + idle}

    def rank(features: Any) -> dict[str, Any]:
        return {"probabilities": tf.sigmoid(features[:, :1])}

    def item(categories: Any) -> dict[str, Any]:
        return {"vector": tf.matmul(categories, spread)}

    history = dict.fromkeys(HistoryInput._fields, ([1, shape.history_length], tf.int32))
    return {
        contract.USER_TOWER: _convert(tf, user, history),
        contract.RANKER: _convert(
            tf, rank, {"features": ([shape.ranker_batch, shape.num_ranking_inputs], tf.float32)}
        ),
        contract.ITEM_TOWER: _convert(tf, item, {"categories": ([1, shape.num_categories], tf.float32)}),
    }  # fmt: skip


def _convert(tf: Any, compute: Callable[..., dict[str, Any]], shapes: dict[str, tuple[list[int], Any]]) -> bytes:
    module = tf.Module()
    specifications = [tf.TensorSpec(shape, kind, name=name) for name, (shape, kind) in shapes.items()]
    module.compute = tf.function(compute, input_signature=specifications, autograph=False)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={"serving_default": module.compute.get_concrete_function()})
        content: bytes = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
    return content


class ExactProcess:
    """What `RetrievalProcess` does, by exact search in this process: its own tests show the real one."""

    def __init__(
        self, *, release: Path, socket: Path, clock: Clock, metrics_host: str = "", gives_way: bool = False
    ) -> None:
        self._vectors: FloatArray = np.load(release / contract.ITEM_VECTORS, allow_pickle=False)
        self.socket = socket
        self.release = release.name
        self.metrics_address = f"{metrics_host}:1"

    async def start(self) -> None:
        return None

    async def search(self, vector: FloatArray, k: int, timeout_s: float) -> tuple[IntArray, FloatArray]:
        scores = self._vectors @ vector
        rows = np.argsort(-scores)[:k].astype(np.int32)
        return rows, scores[rows]

    async def put_side(self, rows: IntArray, vectors: FloatArray) -> None:
        return None

    async def close(self) -> None:
        return None
