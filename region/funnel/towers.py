"""The release's models on LiteRT: user tower, ranker, item tower. No TensorFlow anywhere.

An interpreter serves one thread at a time, so a release holds a few sets of them and lends one set per computation.
"""

import queue
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

from infra.contracts.features import TITLE_WORDS, FloatArray, HistoryInput, title_slots, year_slots
from infra.contracts.release import ITEM_TOWER, RANKER, USER_TOWER, ModelShape
from infra.plumbing.errors import UnavailableError
from region.funnel.tables import ReleaseContentError

LEND_TIMEOUT_S = 1.0
"""How long a computation waits for a set of interpreters; sets are as many as threads, so it never should."""


class Towers(Protocol):
    """What the funnel asks of a release's models. Every method may be called from any thread."""

    def user_vector(self, history: HistoryInput) -> FloatArray:
        """The user tower's vector, `[dim] float32`."""
        ...

    def rank(self, features: FloatArray) -> FloatArray:
        """Head 0 of the ranker for `[count, num_ranking_inputs]` features, count <= ranker_batch. `[count]`."""
        ...

    def item_vector(self, categories: FloatArray, year: int = 0, title: str = "") -> FloatArray:
        """The item tower's vector for `[num_categories]` category shares, a year (0: unknown) and a title.

        `[dim] float32`.
        """
        ...


class Model:
    """One LiteRT interpreter with its tensors found by name and checked by shape."""

    def __init__(
        self, path: Path, *, inputs: Mapping[str, tuple[tuple[int, ...], type[np.generic]]], output: tuple[int, ...],
        optional: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        try:
            self._interpreter = Interpreter(model_path=str(path), num_threads=1)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError, OSError) as error:
            raise ReleaseContentError(f"{path.name} is not a model that LiteRT can open.") from error
        found = _inputs_by_name(self._interpreter)
        self._inputs = {
            name: _checked_index(path, name, found, shape=shape, dtype=dtype)
            for name, (shape, dtype) in inputs.items()
            if name in found or name not in optional
        }
        outputs = self._interpreter.get_output_details()
        if len(outputs) != 1 or tuple(outputs[0]["shape"]) != output:
            shapes = [tuple(int(size) for size in detail["shape"]) for detail in outputs]
            raise ReleaseContentError(f"{path.name} has outputs of shape {shapes}; the manifest asks for {output}.")
        self._output = outputs[0]["index"]

    def takes(self, name: str) -> bool:
        """Whether the model has the (optional) input `name`."""
        return name in self._inputs

    def run(self, values: Mapping[str, npt.NDArray[Any]]) -> FloatArray:
        """One pass; `values` by input name, in the shapes given at construction. A copy of the output."""
        for name, value in values.items():
            self._interpreter.set_tensor(self._inputs[name], value)
        self._interpreter.invoke()
        output: FloatArray = self._interpreter.get_tensor(self._output)
        return output


class TowerSet:
    """One interpreter of each model: what one thread needs at a time.

    Args:
        directory: of the release.
        shape: of its models.
        vectors: `[rows, dim]`, of every item, for a user tower that reads them; None where it holds its own.
    """

    def __init__(self, directory: Path, shape: ModelShape, *, vectors: FloatArray | None = None) -> None:
        self._vectors = vectors if shape.tower_reads_vectors else None
        if shape.tower_reads_vectors and vectors is None:
            raise ReleaseContentError(f"{USER_TOWER} reads the items' vectors; none were given.")
        inputs: dict[str, tuple[tuple[int, ...], type[np.generic]]] = dict.fromkeys(
            HistoryInput._fields, ((1, shape.history_length), np.int32)
        )
        if shape.tower_reads_vectors:
            inputs["vectors"] = ((1, shape.history_length, shape.dim), np.float32)
        self._user = Model(directory / USER_TOWER, inputs=inputs, output=(1, shape.dim))
        batch = (shape.ranker_batch, shape.num_ranking_inputs)
        self._ranker = Model(
            directory / RANKER,
            inputs={"features": (batch, np.float32)},
            output=(shape.ranker_batch, len(shape.heads)),
        )
        self._item = Model(
            directory / ITEM_TOWER,
            # A tensor without elements is no input: where nothing has a category, one column of zeros stands for none.
            inputs={
                "categories": ((1, max(shape.num_categories, 1)), np.float32),
                "year": ((1,), np.int32),
                "title": ((1, TITLE_WORDS), np.int32),
            },
            optional=("year", "title"),
            output=(1, shape.dim),
        )
        self._padded = np.zeros(batch, dtype=np.float32)

    def user_vector(self, history: HistoryInput) -> FloatArray:
        """See `Towers`."""
        values: dict[str, npt.NDArray[Any]] = {name: part[None, :] for name, part in history._asdict().items()}
        if self._vectors is not None:
            values["vectors"] = self._vectors[np.maximum(history.items - 1, 0)][None]
        vector: FloatArray = self._user.run(values)[0]
        return vector

    def rank(self, features: FloatArray) -> FloatArray:
        """See `Towers`."""
        count = len(features)
        self._padded[:count] = features
        self._padded[count:] = 0.0
        scores: FloatArray = self._ranker.run({"features": self._padded})[:count, 0]
        return scores

    def item_vector(self, categories: FloatArray, year: int = 0, title: str = "") -> FloatArray:
        """See `Towers`."""
        shares = categories if categories.size else np.zeros(1, dtype=np.float32)
        inputs: dict[str, npt.NDArray[Any]] = {"categories": shares[None, :].astype(np.float32)}
        if self._item.takes("year"):
            inputs["year"] = year_slots(np.asarray([year], dtype=np.int32))
        if self._item.takes("title"):
            inputs["title"] = title_slots(title)[None]
        vector: FloatArray = self._item.run(inputs)[0]
        return vector


class LiteRtTowers:
    """A bounded number of `TowerSet`s, lent to one computation at a time."""

    def __init__(
        self, directory: Path, shape: ModelShape, *, sets: int, vectors: FloatArray | None = None
    ) -> None:  # fmt: skip
        self._sets: queue.Queue[TowerSet] = queue.Queue(maxsize=sets)
        for _ in range(sets):
            self._sets.put_nowait(TowerSet(directory, shape, vectors=vectors))

    @contextmanager
    def _lent(self) -> Iterator[TowerSet]:
        try:
            towers = self._sets.get(timeout=LEND_TIMEOUT_S)
        except queue.Empty:
            raise UnavailableError("all interpreters of the release are busy.") from None
        try:
            yield towers
        finally:
            self._sets.put_nowait(towers)

    def user_vector(self, history: HistoryInput) -> FloatArray:
        """See `Towers`."""
        with self._lent() as towers:
            return towers.user_vector(history)

    def rank(self, features: FloatArray) -> FloatArray:
        """See `Towers`."""
        with self._lent() as towers:
            return towers.rank(features)

    def item_vector(self, categories: FloatArray, year: int = 0, title: str = "") -> FloatArray:
        """See `Towers`."""
        with self._lent() as towers:
            return towers.item_vector(categories, year, title)


def _inputs_by_name(interpreter: Any) -> dict[str, dict[str, Any]]:
    """Input details by the name that the model's signature gives them, or else by their tensor's own name."""
    details = {detail["name"]: detail for detail in interpreter.get_input_details()}
    plain = {name.removeprefix("serving_default_").split(":")[0]: detail for name, detail in details.items()}
    for signature in interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(signature)
        by_tensor = {detail["index"]: detail for detail in details.values()}
        for name, detail in runner.get_input_details().items():
            if detail["index"] in by_tensor:
                plain[name] = by_tensor[detail["index"]]
    return plain


def _checked_index(
    path: Path, name: str, found: Mapping[str, dict[str, Any]], *, shape: tuple[int, ...], dtype: type[np.generic]
) -> int:
    detail = found.get(name)
    if detail is None:
        raise ReleaseContentError(f"{path.name} has no input named {name}; it has {sorted(found)}.")
    have = tuple(int(size) for size in detail["shape"])
    if have != shape or detail["dtype"] is not dtype:
        raise ReleaseContentError(
            f"input {name} of {path.name} is {np.dtype(detail['dtype'])} {have}; "
            f"the manifest asks for {np.dtype(dtype)} {shape}."
        )
    return int(detail["index"])
