"""The batch features on Spark, by the same expressions, are those of DuckDB: differences 0."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ibis
import pytest
from pyspark.sql import SparkSession

from infra.local.packages import ensure_debian_package
from region.batch.definitions import Features, features_of
from region.batch.tables import FEATURE_TABLES, MOMENTS, SCHEMA, write_rows
from region.events.exporting import flat_row
from region.store.applying import ApplyRules
from region.store.port import OffsetEvent
from tests.unit.region_batch.test_batch_features import SUBJECTS, some_events

# What the engines and their drivers say of themselves is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
SMALL = {
    "spark.ui.enabled": "false",
    "spark.driver.memory": "512m",
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.session.timeZone": "UTC",
    # A few hundred rows: compiling every stage costs more than running it.
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.adaptive.enabled": "false",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto",
}
NOW_MS = 1_700_000_000_000
RULES = ApplyRules(history_max=20)


@pytest.fixture
def spark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Spark session of one core on loopback; ended with the test."""
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    if "JAVA_HOME" not in os.environ:
        ensure_debian_package("openjdk-17-jre-headless", program="java")
    builder = SparkSession.builder.master("local[1]").config("spark.sql.warehouse.dir", str(tmp_path / "warehouse"))
    for name, value in SMALL.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    yield session
    session.stop()


def features_on(connection: Any, folder: Path) -> Features:
    return features_of(
        connection.read_parquet(str(folder / "events.parquet")),
        connection.read_parquet(str(folder / "moments.parquet")),
        history_max=RULES.history_max, behaviour_life_ms=RULES.behaviour_life_ms,
    )  # fmt: skip


def rows_of(table: Any) -> list[tuple[Any, ...]]:
    """Rows by the order of their exact columns; numbers that are sums of fractions go last."""
    rows = table.to_pyarrow().to_pylist()
    return sorted(
        (tuple(sorted(row.items(), key=lambda item: (isinstance(item[1], float), item[0]))) for row in rows),
        key=lambda row: [str(value) for _, value in row if not isinstance(value, float)],
    )


def is_same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return len(one) == len(other) and all(
        name == also
        and (math.isclose(value, same, rel_tol=1e-9, abs_tol=1e-12) if isinstance(value, float) else value == same)
        for (name, value), (also, same) in zip(one, other, strict=True)
    )


def test_spark_computes_what_duckdb_computes(spark: Any, tmp_path: Path) -> None:
    events = [
        flat_row(OffsetEvent(offset=place, logged=logged), RULES)
        for place, logged in enumerate(some_events(200, seed=11, late=0.2), start=1)
    ]
    write_rows([*events, *events[:50]], tmp_path / "events.parquet", SCHEMA)  # some stand in the log twice
    write_rows(({"key": key, "now_ms": NOW_MS} for key in SUBJECTS), tmp_path / "moments.parquet", MOMENTS)
    here, there = features_on(ibis.duckdb.connect(), tmp_path), features_on(ibis.pyspark.connect(spark), tmp_path)
    for name in FEATURE_TABLES:
        ours, theirs = rows_of(getattr(here, name)), rows_of(getattr(there, name))
        assert len(ours) == len(theirs) > 0, name
        differing = [(one, other) for one, other in zip(ours, theirs, strict=True) if not is_same(one, other)]
        assert differing == [], name
