"""Datasets larger than memory: Parquet sorted by user on disk, read back a part at a time.

DuckDB sorts and groups outside of memory. What comes out is an ordinary dataset folder that holds a sample of the
users, whole histories each (everything that needs all of a table at once learns from it: ranker, item-to-item tables,
evaluation), and beside it `stream/` with the columns of everybody, from which the towers are trained.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from central.datasets.text import DatasetError
from infra.contracts.features import IntArray

PARQUET: Final = "interactions.parquet"
STREAM: Final = "stream"
SAMPLE_INTERACTIONS: Final = 1_000_000
"""Up to here a dataset is held in memory as a whole; of a larger one this much is."""
SHARD_INTERACTIONS: Final = 250_000
"""What is read back at once; whole users, so a little more."""
DUCKDB_MB: Final = 400
"""Memory of the sort; beyond it DuckDB writes to disk."""
KINDS_MAX: Final = 100_000
FETCH_ROWS: Final = 100_000
_COLUMNS: Final = (("rows", np.int32), ("strengths", np.int32), ("times_s", np.float64))
_SQL: Final = Path(__file__).with_suffix(".sql")


class StreamCard(msgspec.Struct, frozen=True, kw_only=True):
    """What `stream/stream.json` says. `sha256` covers all columns."""

    interactions: int
    users: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Shard:
    """Whole histories of a few users, as `Interactions` has them; `starts` counts from the shard's begin."""

    rows: IntArray
    strengths: IntArray
    times_s: npt.NDArray[np.float64]
    starts: npt.NDArray[np.int64]


class Stream:
    """The columns of everybody, on disk.

    Args:
        folder: `stream/` of a dataset folder.
    """

    def __init__(self, folder: Path, *, shard_interactions: int = SHARD_INTERACTIONS) -> None:
        self._folder = folder
        self._shard_interactions = shard_interactions
        self.card = msgspec.json.decode((folder / "stream.json").read_bytes(), type=StreamCard)

    def shards(self, rng: np.random.Generator | None = None) -> Iterator[Shard]:
        """Every shard once, in random order if `rng` is given. Memory is that of one shard."""
        starts = np.fromfile(self._folder / "starts", dtype=np.int64)
        edges = [0]
        while edges[-1] < len(starts) - 1:
            wanted = starts[edges[-1]] + self._shard_interactions
            edges.append(int(min(np.searchsorted(starts, wanted, side="left"), len(starts) - 1)))
        order = np.arange(len(edges) - 1) if rng is None else rng.permutation(len(edges) - 1)
        for at in order:
            yield self._read(starts[edges[at] : edges[at + 1] + 1])

    def _read(self, starts: npt.NDArray[np.int64]) -> Shard:
        begin, count = int(starts[0]), int(starts[-1] - starts[0])
        columns = {
            name: np.fromfile(self._folder / name, dtype=kind, count=count, offset=begin * np.dtype(kind).itemsize)
            for name, kind in _COLUMNS
        }
        return Shard(**columns, starts=starts - begin)  # type: ignore[arg-type]


def queries() -> dict[str, str]:
    """The named queries of `streaming.sql`."""
    parts = _SQL.read_text(encoding="utf-8").split("-- name: ")[1:]
    return {name.strip(): body for name, _, body in (part.partition("\n") for part in parts)}


@contextmanager
def sorting(folder: Path) -> Iterator[Any]:
    """A DuckDB connection whose data and temporary files lie below `folder`, its memory bounded."""
    import duckdb  # noqa: PLC0415 (only datasets in Parquet need it)

    folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder, prefix=".sorting."))
    connection = duckdb.connect(str(work / "events.duckdb"))
    try:
        connection.execute(f"SET memory_limit = '{DUCKDB_MB}MB'")
        connection.execute(f"SET temp_directory = '{work}'")
        connection.execute("SET threads = 2")
        connection.execute("SET preserve_insertion_order = true")
        yield connection
    except duckdb.Error as error:
        raise DatasetError(f"{PARQUET} cannot be read: {str(error).splitlines()[0]}", fix="Check the file.") from error
    finally:
        connection.close()
        shutil.rmtree(work, ignore_errors=True)


def write_stream(connection: Any, out: Path) -> StreamCard:
    """Write the columns of the table `sorted` as plain arrays into `out`."""
    out.mkdir()
    files = {name: (out / name).open("wb") for name, _ in _COLUMNS}
    starts, last, total = [0], None, 0
    try:
        reader = connection.sql(queries()["columns"]).to_arrow_reader(FETCH_ROWS)
        for batch in reader:
            users = batch.column(0).to_numpy(zero_copy_only=False)
            new = users[1:] != users[:-1]
            begins = np.flatnonzero(np.concatenate([[users[0] != last], new]))
            starts.extend((begins[begins + total > 0] + total).tolist())
            last, total = users[-1], total + len(users)
            for at, (name, kind) in enumerate(_COLUMNS, start=1):
                files[name].write(batch.column(at).to_numpy(zero_copy_only=False).astype(kind).tobytes())
    finally:
        for file in files.values():
            file.close()
    np.asarray([*starts, total], dtype=np.int64).tofile(out / "starts")
    card = StreamCard(interactions=total, users=len(starts), sha256=_digest(out))
    (out / "stream.json").write_bytes(msgspec.json.encode(card))
    return card


def _digest(folder: Path) -> str:
    joint = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            joint.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return joint.hexdigest()
