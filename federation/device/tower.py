"""The released user tower as a phone runs it, and what else of a release a phone holds."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from infra.contracts.features import HistoryInput, encode_history
from infra.contracts.release import ITEM_VECTORS, RELEASE_ID_PATTERN, USER_TOWER
from infra.plumbing.catalogue.reading import Catalogue, CatalogueError, open_catalogue
from infra.plumbing.errors import AtollError
from infra.plumbing.releases.stand_ins import StandIns, StandInsError, read_stand_ins

Float32Array = npt.NDArray[np.float32]


class DeviceReleaseError(AtollError):
    """The release on this phone cannot be used."""


class Tower(Protocol):
    """A user tower: the vector of a history, without a personal part."""

    dim: int
    history_length: int

    def vector(self, inputs: HistoryInput) -> Float32Array:
        """The vector of one history, `[dim] float32`."""
        ...


class LiteRTTower:
    """The tower of a release in LiteRT, one thread. Not for use by two threads at once.

    Args:
        path: the model.
        vectors: `[num_items, dim]`, for a tower that reads its items' vectors (`ModelShape.tower_reads_vectors`).
    """

    def __init__(self, path: Path, vectors: Float32Array | None = None) -> None:
        # Imported here: whoever brings another tower (tests, another runtime) needs no LiteRT.
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

        try:
            self._interpreter = Interpreter(model_path=os.fspath(path), num_threads=1)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise DeviceReleaseError(f"the user tower {path.name} cannot be opened: {error}.") from error
        details = self._interpreter.get_input_details()
        self._inputs = {field: _input_index(details, field) for field in HistoryInput._fields}
        reads = any(_bare_name(str(detail["name"])) == "vectors" for detail in details)
        if reads and vectors is None:
            raise DeviceReleaseError(f"the user tower {path.name} reads the items' vectors; none were given.")
        self._vectors = vectors if reads else None
        self._vectors_at = _input_index(details, "vectors") if reads else -1
        output = self._interpreter.get_output_details()[0]
        self._output = output["index"]
        self.dim = int(output["shape"][-1])
        items = self._inputs["items"]
        self.history_length = next(int(detail["shape"][-1]) for detail in details if detail["index"] == items)

    def vector(self, inputs: HistoryInput) -> Float32Array:
        """The vector of one history, `[dim] float32`."""
        for field, values in inputs._asdict().items():
            self._interpreter.set_tensor(self._inputs[field], values.reshape(1, -1).astype(np.int32))
        if self._vectors is not None:
            rows = np.maximum(inputs.items.reshape(-1) - 1, 0)
            self._interpreter.set_tensor(self._vectors_at, self._vectors[rows][None].astype(np.float32))
        self._interpreter.invoke()
        return np.array(self._interpreter.get_tensor(self._output)[0], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class DeviceRelease:
    """What of a release a phone holds.

    `item_vectors`: `[num_items, dim] float32`; `rows`: catalogue row of each item id; `log_q`: `[num_items] float64`,
    log of the chance with which an item is drawn as a negative where the catalogue is too large to use whole; `heard`:
    `[num_items]`, how many events central's training had of each item; `reading`: `[num_items] int32`, the row that is
    read in place of each item where only this phone knows of an event: its own, its stand-in's, or -1.
    """

    release_id: str
    tower: Tower
    item_vectors: Float32Array
    rows: dict[str, int]
    log_q: npt.NDArray[np.float64]
    heard: npt.NDArray[np.int64]
    reading: npt.NDArray[np.int32]

    def reads(self, rows: npt.NDArray[np.int32], *, sensitive: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
        """What the tower reads in place of each event's item: the item, another, or -1.

        A sensitive event of an item that no training event was of is not read as such: the item's vector is what
        training has made of a thing that never came up, and reading it costs every other recommendation. Rounds over
        items find one that central knows and whose taste is alike; it stands in. Served events are read as they are:
        the region reads them so.
        """
        return np.where(sensitive, self.reading[rows], rows)

    def base_vector(self, rows: npt.ArrayLike, strengths: npt.ArrayLike, times_s: npt.ArrayLike, *, now_s: float) -> Float32Array:  # fmt: skip  # noqa: E501
        """The released tower's own vector of a history (oldest first) asked at `now_s`, `[dim] float32`."""
        length = self.tower.history_length
        return self.tower.vector(encode_history(rows, strengths, times_s, now_s=now_s, length=length))


def load_device_release(directory: Path, *, release_id: str = "") -> DeviceRelease:
    """The release in `directory`; its id is the folder's name unless given.

    Raises:
        DeviceReleaseError: a file is missing or damaged, or its tower, vectors, catalogue and stand-ins do not fit.
    """
    name = release_id or directory.name
    if not RELEASE_ID_PATTERN.fullmatch(name):
        raise DeviceReleaseError(f"{name} is not a release id.", fix="Name the folder of a release bundle.")
    try:
        vectors = np.load(directory / ITEM_VECTORS, allow_pickle=False).astype(np.float32)
        catalogue = open_catalogue(directory)
    except (OSError, ValueError, CatalogueError) as error:
        raise DeviceReleaseError(f"the release in {directory} cannot be read: {error}.") from error
    try:
        stand_ins = read_stand_ins(directory, heard=catalogue.interactions)
    except StandInsError as error:
        raise DeviceReleaseError(error.message, fix=error.fix) from None
    tower = LiteRTTower(directory / USER_TOWER, vectors)
    return device_release(name, tower, vectors, catalogue, stand_ins)


def device_release(
    release_id: str, tower: Tower, item_vectors: Float32Array, catalogue: Catalogue, stand_ins: StandIns | None = None
) -> DeviceRelease:
    """Put the parts of a release together; `stand_ins` have been checked.

    Raises:
        DeviceReleaseError: they do not fit together.
    """
    if item_vectors.shape != (len(catalogue), tower.dim):
        raise DeviceReleaseError(
            f"the release does not fit together: vectors {item_vectors.shape}, catalogue {len(catalogue)}, "
            f"tower {tower.dim}.",
            fix="Fetch the release again.",
        )
    heard = catalogue.interactions
    weight = heard.astype(np.float64) + 1.0
    ids = catalogue.ids.texts
    rows = {ids[row]: row for row in range(len(ids))}
    return DeviceRelease(
        release_id, tower, item_vectors, rows, np.log(weight / weight.sum()), heard,
        (stand_ins or StandIns.none()).reading(heard),
    )  # fmt: skip


def _input_index(details: list[dict[str, object]], field: str) -> int:
    """The tensor whose name holds `field`; converters decorate names (`serving_default_items:0`)."""
    matches = [detail["index"] for detail in details if _bare_name(str(detail["name"])) == field]
    if len(matches) != 1:
        names = ", ".join(sorted(str(detail["name"]) for detail in details))
        raise DeviceReleaseError(f"the user tower has no single input {field}; it has {names}.")
    return int(str(matches[0]))


def _bare_name(name: str) -> str:
    return name.removeprefix("serving_default_").split(":")[0]
