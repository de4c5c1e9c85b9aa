"""Checkpoints: what a killed training goes on from. One file beside the model folder, whole or not at all."""

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from infra.plumbing.files import write_atomically

_STATE: Final = "state"
Arrays = list[npt.NDArray[Any]]


class TrainingState(msgspec.Struct, frozen=True, kw_only=True):
    """Where a training stands at the end of an epoch, besides its weights.

    `done`, `steps`: optimiser steps of this run; `spent_s`: wall time of all its processes; `best`: validation NDCG@10
    of the best epoch; `rng`: of the windows; `finished`: the towers are trained, what follows is the ranker.
    """

    run: str
    done: int
    steps: int
    spent_s: float
    best: float
    curve: tuple[float, ...]
    rng: dict[str, Any]
    finished: bool


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """Arrays of a training: the weights, their averages, the averages of the best epoch, the optimiser's moments."""

    variables: Arrays
    averages: Arrays
    best: Arrays
    optimizer: Arrays


class Checkpoint:
    """The checkpoint of one run.

    Args:
        path: the file.
        run: names the run: data, settings, split. A checkpoint of another run is not gone on from.
    """

    def __init__(self, path: Path, *, run: str) -> None:
        self.path = path
        self.run = run

    @classmethod
    def beside(cls, out: Path, *settings: object) -> "Checkpoint":
        """The checkpoint of the model folder `out`, for a run with these settings."""
        run = hashlib.sha256(msgspec.json.encode(settings)).hexdigest()[:20]
        return cls(out.with_name(f".{out.name}.checkpoint"), run=run)

    def save(self, state: TrainingState, weights: Weights) -> None:
        """Puts this checkpoint in the place of the last; a reader finds one or the other.

        Raises:
            OSError: the disk is full; the last checkpoint is as it was.
        """
        arrays = {
            f"{group}_{at}": array for group in Weights.__struct_fields__ for at, array in _numbered(weights, group)
        }
        encoded = np.frombuffer(msgspec.json.encode(state), dtype=np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **{_STATE: encoded, **arrays})
        write_atomically(self.path, buffer.getvalue())

    def load(self) -> tuple[TrainingState, Weights] | None:
        """The last checkpoint of this run; None when there is none that reads, or it is of another run."""
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                state = msgspec.json.decode(arrays[_STATE].tobytes(), type=TrainingState)
                if state.run != self.run:
                    return None
                groups = {group: _ordered(arrays, group) for group in Weights.__struct_fields__}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, msgspec.DecodeError):
            return None
        return state, Weights(**groups)

    def remove(self) -> None:
        """Forgets it, and what a killed run left half-written of it: the run is over."""
        self.path.unlink(missing_ok=True)
        for half in self.path.parent.glob(f".{self.path.name}.*"):
            half.unlink(missing_ok=True)


def _numbered(weights: Weights, group: str) -> list[tuple[int, npt.NDArray[Any]]]:
    return list(enumerate(getattr(weights, group)))


def _ordered(arrays: Any, group: str) -> Arrays:
    names = [name for name in arrays.files if name.rpartition("_")[0] == group]
    return [arrays[name] for name in sorted(names, key=lambda name: int(name.rpartition("_")[2]))]
