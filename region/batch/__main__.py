"""`python -m region.batch features|parity --export DIR`: batch features of an exported log, and their parity."""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import ibis
import msgspec

from infra.contracts.residency import Global, RegionalMessage
from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.one_shot import print_report
from infra.plumbing.private_folders import private_folder
from region.batch.definitions import features_of
from region.batch.parity import check_parity
from region.batch.tables import MOMENTS, SCHEMA, read_lines, write_features, write_rows


class About(msgspec.Struct, frozen=True):
    """What an export says of itself (`region.events.exporting.ExportReport`)."""

    history_max: int
    behaviour_life_ms: int


class BatchReport(RegionalMessage, frozen=True, kw_only=True):
    """What a batch run wrote."""

    engine: Global[str]
    events: Global[int]
    rows: Global[dict[str, int]]
    seconds: Global[float]


def connect(engine: str) -> Any:
    """An Ibis backend.

    Raises:
        InvalidInputError: the engine is not installed here.
    """
    if engine == "duckdb":
        return ibis.duckdb.connect()
    try:
        sql = importlib.import_module("pyspark.sql")
    except ImportError as error:
        raise InvalidInputError("Spark is not installed here.", fix="Install pyspark 4.0.5 beside this.") from error
    session = sql.SparkSession.builder.appName("atoll-batch").config("spark.sql.session.timeZone", "UTC").getOrCreate()
    return ibis.pyspark.connect(session)


def compute(export: Path, to: Path, engine: str) -> BatchReport:
    """Every feature of every user of an export, as Parquet files in `to`."""
    clock = SystemClock()
    started_s, about = clock.monotonic_s(), read_about(export)
    connection = connect(engine)
    with private_folder() as work:
        events = work / "events.parquet"
        count = write_rows(read_lines(export / "events.ndjson"), events, SCHEMA)
        table = connection.read_parquet(str(events))
        now_ms = clock.now_ms()
        moments = work / "moments.parquet"
        keys = table.key.as_table().distinct().to_pyarrow().column(0).to_pylist()
        write_rows(({"key": key, "now_ms": now_ms} for key in keys), moments, MOMENTS)
        features = features_of(
            table, connection.read_parquet(str(moments)), history_max=about.history_max,
            behaviour_life_ms=about.behaviour_life_ms,
        )  # fmt: skip
        rows = write_features(features, to)
    return BatchReport(engine=engine, events=count, rows=rows, seconds=round(clock.monotonic_s() - started_s, 3))


def read_about(export: Path) -> About:
    """What the export says of itself.

    Raises:
        InvalidInputError: it is no export.
    """
    try:
        return msgspec.json.decode((export / "about.json").read_bytes(), type=About)
    except (OSError, msgspec.DecodeError) as error:
        raise InvalidInputError(f"{export} is not an export of a log: {error}.", fix="Export the log first.") from error


def parity(export: Path) -> object:
    """Served features against batch features."""
    about = read_about(export)
    with private_folder() as work:
        return check_parity(
            export, connection=connect("duckdb"), history_max=about.history_max,
            behaviour_life_ms=about.behaviour_life_ms, work=work,
        )  # fmt: skip


def main(arguments: list[str]) -> int:
    """Read the command line and run; prints one JSON object, returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m region.batch",
        description="Features of all users of a region from its exported log.",
        epilog="example: python -m region.batch features --export export --out features",
    )
    parser.add_argument("verb", choices=("features", "parity"))
    parser.add_argument("--export", type=Path, required=True, help="a folder that `region.events export` wrote")
    parser.add_argument("--out", type=Path, default=Path("features"), help="features: where the Parquet files go")
    parser.add_argument("--engine", choices=("duckdb", "spark"), default="duckdb")
    given = parser.parse_args(arguments)
    if given.verb == "features":
        return print_report(lambda: compute(given.export, given.out, given.engine))
    return print_report(lambda: parity(given.export))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
