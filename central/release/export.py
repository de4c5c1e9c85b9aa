"""LiteRT exports of the towers and the ranker: builtin operations only, fixed shapes, checked against TensorFlow."""

import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np

from central.training.metadata import MetadataMap
from central.training.ranker import RankerNetwork
from central.training.retrieval import TwoTowerModel
from central.training.runtime import native_words_kept, tf
from central.training.towers import packed_from_history
from infra.contracts.features import (
    GAP_BUCKETS,
    GAP_UNKNOWN,
    TITLE_SLOTS,
    TITLE_WORDS,
    YEAR_SLOTS,
    FloatArray,
    HistoryInput,
)
from infra.plumbing.errors import AtollError

PARITY_MAX: Final = 1e-4
PARITY_CASES: Final = 8
TABLE_BYTES_MAX: Final = 1 << 27
"""A larger item table stays outside of the user tower: a flatbuffer ends at 2 GB, and a converter needs it thrice."""

Arrays = dict[str, np.ndarray[Any, Any]]


class ExportError(AtollError):
    """An export does not compute what TensorFlow computes; it is not put into a release."""


def is_table_outside(num_items: int, dim: int) -> bool:
    """Whether the user tower of such a catalogue takes its items' vectors as an input."""
    return num_items * dim * np.dtype(np.float32).itemsize > TABLE_BYTES_MAX


def export_user_tower(
    model: TwoTowerModel, adapter: FloatArray | None = None, *, table_outside: bool = False
) -> bytes:  # fmt: skip
    """The user tower with its item table inside; inputs named as the fields of `HistoryInput`, output `vector`.

    Args:
        model: the trained towers.
        adapter: `[dim, dim]`, put in place of the trained one.
        table_outside: the items' vectors are one more input, `vectors [1, history_length, dim]`; what stands there for
            padding does not matter.

    Raises:
        ExportError: the export differs from TensorFlow by PARITY_MAX or more.
    """
    config = model.config
    vectors = model.items.table().numpy()
    final = tf.constant(model.users.adapter.numpy() if adapter is None else adapter)

    def compute_with(table: Any, items: Any, strengths: Any, gaps_before: Any, gaps_after: Any) -> dict[str, Any]:
        packed = packed_from_history(items, strengths, gaps_before, gaps_after)
        hidden = model.users.hidden(packed, table, training=False, last_only=True)[:, 0]
        return {"vector": tf.matmul(hidden, final)}

    def compute_outside(vectors: Any, items: Any, strengths: Any, gaps_before: Any, gaps_after: Any) -> dict[str, Any]:
        # The history's own vectors are the table, and every event is the item of its place.
        places = tf.range(1, config.history_length + 1)[None] * tf.cast(items > 0, tf.int32)
        return compute_with(vectors[0], places, strengths, gaps_before, gaps_after)

    shapes = {name: ([1, config.history_length], tf.int32) for name in HistoryInput._fields}
    cases = _history_cases(config.history_length, len(vectors))
    if not table_outside:
        table = tf.constant(vectors)
        return _export(partial(compute_with, table), shapes, cases, owner=model.users)
    for case in cases:
        case["vectors"] = vectors[np.maximum(case["items"] - 1, 0)]
    shapes = {"vectors": ([1, config.history_length, config.dim], tf.float32), **shapes}
    return _export(compute_outside, shapes, cases, owner=model.users)


def export_item_tower(metadata: MetadataMap) -> bytes:
    """The item tower for an item that has metadata only: `categories`, `year` and `title` in, `vector` out."""
    dim = metadata.years.shape[1]
    # A tensor without elements is no input: where nothing has a category, one column of zeros stands for none.
    num_categories = max(len(metadata.categories), 1)
    weights = tf.constant(metadata.categories if len(metadata.categories) else np.zeros((1, dim), dtype=np.float32))
    years, words = tf.constant(metadata.years), tf.constant(metadata.words)

    def compute(categories: Any, year: Any, title: Any) -> dict[str, Any]:
        held = tf.cast(categories > 0.0, tf.float32)
        return {
            "vector": tf.matmul(held, weights) + tf.gather(years, year) + tf.reduce_sum(tf.gather(words, title), axis=1)
        }

    rng = np.random.default_rng(0)
    cases: list[Arrays] = [
        {
            "categories": rng.dirichlet(np.ones(num_categories), 1).astype(np.float32),
            "year": rng.integers(0, YEAR_SLOTS, 1).astype(np.int32),
            "title": rng.integers(0, TITLE_SLOTS, (1, TITLE_WORDS)).astype(np.int32),
        }
        for _ in range(PARITY_CASES)
    ]
    shapes = {
        "categories": ([1, num_categories], tf.float32), "year": ([1], tf.int32), "title": ([1, TITLE_WORDS], tf.int32)
    }  # fmt: skip
    return _export(compute, shapes, cases)


def export_ranker(network: RankerNetwork, *, batch: int) -> bytes:
    """The ranker: input `features [batch, num_inputs]`, output `probabilities [batch, num_heads]`."""
    mean, deviation = network.mean.numpy(), network.deviation.numpy()

    def compute(features: Any) -> dict[str, Any]:
        return {"probabilities": network.probabilities(features)}

    rng = np.random.default_rng(0)
    cases = [
        {"features": (mean + deviation * rng.normal(size=(batch, mean.size))).astype(np.float32)}
        for _ in range(PARITY_CASES)
    ]
    return _export(compute, {"features": ([batch, mean.size], tf.float32)}, cases, owner=network)


def _export(
    compute: Callable[..., dict[str, Any]],
    shapes: dict[str, tuple[list[int], Any]],
    cases: list[Arrays],
    *,
    owner: Any = None,
) -> bytes:
    signature = [tf.TensorSpec(shape, kind, name=name) for name, (shape, kind) in shapes.items()]
    module = tf.Module()
    module.owner = owner  # of the variables that `compute` reads
    module.compute = tf.function(compute, input_signature=signature, autograph=False)
    function = module.compute.get_concrete_function()
    # By way of a saved model, because only that keeps a signature: inputs and outputs are then found by name.
    with tempfile.TemporaryDirectory(prefix="atoll-export-") as folder:
        tf.saved_model.save(module, folder, signatures={"serving_default": function})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        with native_words_kept():
            content: bytes = converter.convert()
    _check_parity(content, function, cases)
    return content


def _check_parity(content: bytes, function: Any, cases: list[Arrays]) -> None:
    runner = open_runner(content)
    for case in cases:
        wanted = function(**{name: tf.constant(value) for name, value in case.items()})
        found = runner(**case)
        for name, value in wanted.items():
            error = float(np.abs(value.numpy() - found[name]).max())
            if not error < PARITY_MAX:
                raise ExportError(
                    f"the LiteRT export of {name} differs from TensorFlow by {error:.2e}.",
                    fix=f"Less than {PARITY_MAX} is allowed; report it with the model folder.",
                )


def open_runner(content: bytes) -> Callable[..., Arrays]:
    """A LiteRT interpreter over `content`, called with its inputs by name."""
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 (only exports need it)

    interpreter = Interpreter(model_content=content, num_threads=1)
    runner: Callable[..., Arrays] = interpreter.get_signature_runner()
    return runner


def _history_cases(length: int, num_items: int) -> list[Arrays]:
    """Full, short, single and empty histories."""
    rng = np.random.default_rng(0)
    cases = []
    for known in (length, length, length // 2, 3, 1, 0):
        case = {name: np.zeros((1, length), dtype=np.int32) for name in HistoryInput._fields}
        if known:
            case["items"][0, -known:] = rng.integers(1, num_items + 1, known)
            case["strengths"][0, -known:] = rng.integers(1, 6, known)
            case["gaps_before"][0, -known:] = rng.integers(0, GAP_BUCKETS, known)
            case["gaps_after"][0, -known:] = rng.integers(0, GAP_UNKNOWN, known)
        cases.append(case)
    return cases
