"""Small releases, towers, plans and datasets for the federation's tests."""

import itertools
from collections.abc import Callable
from pathlib import Path

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from federation.device.store import LocalHistory
from federation.device.tower import DeviceRelease, Float32Array, device_release
from federation.messages import RoundPlan, to_bytes
from infra.contracts.features import HistoryInput
from infra.contracts.release import FEDERATED_ADAPTER, ITEM_VECTORS, USER_TOWER, CatalogueItem
from infra.plumbing.catalogue.reading import Catalogue
from infra.plumbing.catalogue.writing import write_catalogue

RELEASE_ID = "0123456789abcdef0123"
DIM = 6
ITEMS = 40
LENGTH = 10


class MeanTower:
    """A tower in NumPy: the mean of the history's item vectors, weighted by strength."""

    def __init__(self, vectors: Float32Array, history_length: int = LENGTH) -> None:
        self.dim = vectors.shape[1]
        self.history_length = history_length
        self._table = np.vstack([np.zeros((1, self.dim)), vectors]).astype(np.float32)
        self.calls = 0

    def vector(self, inputs: HistoryInput) -> Float32Array:
        self.calls += 1
        weight = inputs.strengths.astype(np.float32) * (inputs.items > 0)
        total = max(float(weight.sum()), 1.0)
        return np.asarray(weight @ self._table[inputs.items] / total, dtype=np.float32)


def columns(num_items: int = ITEMS) -> Catalogue:
    """The same as a release holds it."""
    return Catalogue.of(catalogue(num_items), np.zeros(num_items, dtype=np.float32))


def catalogue(num_items: int = ITEMS) -> tuple[CatalogueItem, ...]:
    return tuple(
        CatalogueItem(
            item=f"i{row}", title=f"Item {row}", categories=("quiet" if row % 4 == 0 else "loud",), interactions=row
        )
        for row in range(num_items)
    )  # fmt: skip


def item_vectors(num_items: int = ITEMS, dim: int = DIM, seed: int = 1) -> Float32Array:
    return np.random.default_rng(seed).normal(size=(num_items, dim)).astype(np.float32)


def small_release(num_items: int = ITEMS, dim: int = DIM) -> DeviceRelease:
    vectors = item_vectors(num_items, dim)
    return device_release(RELEASE_ID, MeanTower(vectors), vectors, columns(num_items))


def history(count: int, *, seed: int = 3, num_items: int = ITEMS, hidden_every: int = 3) -> LocalHistory:
    rng = np.random.default_rng(seed)
    return LocalHistory(
        rows=rng.integers(0, num_items, size=count).astype(np.int32),
        strengths=rng.integers(1, 6, size=count).astype(np.int32),
        times_s=1e9 + np.cumsum(rng.uniform(1, 5000, size=count)),
        sensitive=np.arange(count) % hidden_every == 0,
    )


def round_plan(
    *, rank: int = 3, dim: int = DIM, round_id: str = "a" * 16, clipping_norm: float = 0.5, noise: float = 1.0,
    core: Float32Array | None = None, local_steps: int = 8, local_learning_rate: float = 0.2,
) -> RoundPlan:  # fmt: skip
    basis = np.linalg.qr(np.random.default_rng(5).normal(size=(dim, dim)))[0][:, :rank]
    start = np.zeros((rank, rank)) if core is None else core
    return RoundPlan(
        round_id=round_id, release=RELEASE_ID, dim=dim, rank=rank, basis=to_bytes(basis), core=to_bytes(start),
        clipping_norm=clipping_norm, noise_multiplier=noise, local_steps=local_steps,
        local_learning_rate=local_learning_rate,
    )  # fmt: skip


def fixed_entropy() -> Callable[[int], bytes]:
    """Bytes that differ from call to call, but not from run to run."""
    counter = itertools.count(1)
    return lambda count: np.random.Philox(key=next(counter)).random_raw(count // 8 + 1).tobytes()[:count]


def write_release(directory: Path, *, num_items: int = ITEMS, dim: int = DIM) -> Path:
    """`<directory>/<RELEASE_ID>/` with a real LiteRT tower, item vectors, catalogue and adapter."""
    root = directory / RELEASE_ID
    root.mkdir(parents=True)
    np.save(root / ITEM_VECTORS, item_vectors(num_items, dim))
    np.save(root / FEDERATED_ADAPTER, np.eye(dim, dtype=np.float32))
    write_catalogue(root, catalogue(num_items), np.zeros(num_items, dtype=np.float32))
    (root / USER_TOWER).write_bytes(linear_tower(dim=dim, length=LENGTH))
    return root


def write_dataset(directory: Path, *, regions: tuple[str, ...], users: int, events: int = 12) -> Path:
    """A plain dataset folder: `users` users in each region with `events` events each."""
    rng = np.random.default_rng(11)
    directory.mkdir(parents=True, exist_ok=True)
    homes = [(f"u{region[3:]}{index}", region) for region in regions for index in range(users)]
    lines = ["user_id,item_id,timestamp,event_type,value"]
    for user, _ in homes:
        rows = rng.permutation(ITEMS)[:events]
        lines += [f"{user},i{row},{1_600_000_000 + 60 * step},rating,{1 + row % 5}" for step, row in enumerate(rows)]
    (directory / "interactions.csv").write_text("\n".join(lines) + "\n")
    (directory / "users.csv").write_text("user_id,region\n" + "".join(f"{u},{r}\n" for u, r in homes))
    items = [f"{item.item},{item.title},{'|'.join(item.categories)}" for item in catalogue()]
    (directory / "items.csv").write_text("item_id,title,category\n" + "\n".join(items) + "\n")
    return directory


def linear_tower(*, dim: int, length: int, seed: int = 2) -> bytes:
    """A LiteRT model of a linear user tower: each input is cast, multiplied and added. No TensorFlow needed."""
    operator = schema.BuiltinOperator
    codes = [operator.CAST, operator.FULLY_CONNECTED, operator.ADD]
    rng = np.random.default_rng(seed)
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs = 3, [graph]
    model.operatorCodes = []
    for code in codes:
        entry = schema.OperatorCodeT()
        entry.builtinCode = entry.deprecatedBuiltinCode = code
        entry.version = 1
        model.operatorCodes.append(entry)
    model.buffers = [schema.BufferT()]
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [], []

    def tensor(name: str, shape: list[int], kind: int, data: bytes | None = None) -> int:
        one = schema.TensorT()
        one.name, one.shape, one.type, one.buffer = name, shape, kind, 0
        if data is not None:
            held = schema.BufferT()
            held.data = np.frombuffer(data, dtype=np.uint8)
            model.buffers.append(held)
            one.buffer = len(model.buffers) - 1
        graph.tensors.append(one)
        return len(graph.tensors) - 1

    def apply(code: int, inputs: list[int], output: int, kind: int = 0, options: object = None) -> int:
        one = schema.OperatorT()
        one.opcodeIndex, one.inputs, one.outputs = codes.index(code), inputs, [output]
        one.builtinOptionsType, one.builtinOptions = kind, options
        graph.operators.append(one)
        return output

    float32, int32, options = schema.TensorType.FLOAT32, schema.TensorType.INT32, schema.BuiltinOptions
    total = -1
    for field in HistoryInput._fields:
        given = tensor(f"serving_default_{field}:0", [1, length], int32)
        graph.inputs.append(given)
        cast = apply(operator.CAST, [given], tensor(f"{field}_float", [1, length], float32))
        weight = rng.normal(scale=0.02, size=(dim, length)).astype("<f4").tobytes()
        matrix = tensor(f"{field}_weight", [dim, length], float32, weight)
        product = tensor(f"{field}_product", [1, dim], float32)
        apply(
            operator.FULLY_CONNECTED, [cast, matrix, -1], product, options.FullyConnectedOptions,
            schema.FullyConnectedOptionsT(),
        )  # fmt: skip
        if total < 0:
            total = product
        else:
            both = tensor(f"{field}_sum", [1, dim], float32)
            total = apply(operator.ADD, [total, product], both, options.AddOptions, schema.AddOptionsT())
    graph.outputs.append(total)
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
