"""From an export's lines to Parquet to a table of whichever engine, and features back to Parquet."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import ibis
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from infra.plumbing.errors import InvalidInputError
from region.batch.definitions import EVENT_COLUMNS, Features

ROWS_TOGETHER = 50_000
SCHEMA = ibis.schema(EVENT_COLUMNS).to_pyarrow()
MOMENTS = pa.schema([("key", pa.string()), ("now_ms", pa.int64())])
FEATURE_TABLES: tuple[str, ...] = tuple(Features.__dataclass_fields__)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of an NDJSON file.

    Raises:
        InvalidInputError: it cannot be read; names the line.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield msgspec.json.decode(line, type=dict[str, Any])
                except msgspec.DecodeError as error:
                    raise InvalidInputError(f"{path.name}, line {number}: {error}.", fix="Export it again.") from error
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror}.", fix="Export the log first.") from error


def write_rows(rows: Iterable[dict[str, Any]], path: Path, schema: pa.Schema) -> int:
    """Write rows as Parquet, a bounded number at a time; returns how many."""
    written, rows = 0, iter(rows)
    with pq.ParquetWriter(path, schema) as writer:
        while chunk := list(islice(rows, ROWS_TOGETHER)):
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
            written += len(chunk)
    return written


def write_features(features: Features, to: Path) -> dict[str, int]:
    """Evaluate every feature into `<name>.parquet`; returns how many rows each has."""
    to.mkdir(parents=True, exist_ok=True)
    counts: dict[str, int] = {}
    for name in FEATURE_TABLES:
        table = getattr(features, name).to_pyarrow()
        pq.write_table(table, to / f"{name}.parquet")
        counts[name] = table.num_rows
    return counts
