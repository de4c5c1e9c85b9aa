"""Parity of serving and training: the feature values that answered requests, against the batch definition of them.

Each sampled request says where in the log its row stood; the batch definition is evaluated over exactly those events,
at exactly that moment, and every value is compared. What cannot be compared fairly is left out and counted: rows that
began as an import (the log does not know it), kinds with more names than streaming keeps, sessions with late events.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ibis
import msgspec

from infra.contracts.features import AFFINITIES_MAX, AFFINITY_HALF_LIFE_MS, AFFINITY_KINDS, DecayedValue
from infra.contracts.residency import Global, Regional, RegionalMessage
from region.batch.definitions import EVENT_COLUMNS, features_of
from region.batch.tables import MOMENTS, SCHEMA, read_lines, write_rows
from region.sampling.served import ServedSample

SAMPLES_MAX = 2000
"""The latest ones are compared."""
TOLERANCE = 1e-6
"""Absolute; sums in another order differ by some 1e-15."""
SINGLE_TOLERANCE = 1e-5
"""Of what serving computes in single precision."""
_SAMPLE_COLUMNS = {"sample": "string", "subject": "string", "upto": "int64", "now_ms": "int64"}


class Skew(RegionalMessage, frozen=True, kw_only=True):
    """A feature whose served values are not what training would compute."""

    feature: Global[str]
    samples: Global[int]
    """In how many requests."""
    worst: Global[float]
    """The largest difference; for what is not a number, how many parts of it differ."""
    served: Regional[str]
    expected: Regional[str]


class ParityReport(RegionalMessage, frozen=True, kw_only=True):
    """What a parity check found."""

    samples: Global[int]
    compared: Global[dict[str, int]]
    """By feature, in how many requests it was compared."""
    left_out: Global[dict[str, int]]
    """By reason, how often something could not be compared fairly."""
    skews: Regional[tuple[Skew, ...]]


class _Findings:
    def __init__(self) -> None:
        self.compared: dict[str, int] = {}
        self.left_out: dict[str, int] = {}
        self._skews: dict[str, Skew] = {}

    def leave_out(self, why: str) -> None:
        self.left_out[why] = self.left_out.get(why, 0) + 1

    def numbers(
        self, feature: str, served: Mapping[str, float], expected: Mapping[str, float], tolerance: float
    ) -> None:
        """Compare values by name; a name that is missing counts as zero."""
        names = served.keys() | expected.keys()
        worst = max((abs(served.get(name, 0.0) - expected.get(name, 0.0)) for name in names), default=0.0)
        self._note(feature, worst, worst > tolerance, dict(served), dict(expected))

    def parts(self, feature: str, served: Iterable[object], expected: Iterable[object]) -> None:
        """Compare sequences place by place."""
        ours, theirs = list(served), list(expected)
        differ = sum(one != other for one, other in zip(ours, theirs, strict=False)) + abs(len(ours) - len(theirs))
        self._note(feature, float(differ), differ > 0, ours, theirs)

    def skews(self) -> tuple[Skew, ...]:
        return tuple(sorted(self._skews.values(), key=lambda one: (-one.samples, one.feature)))

    def _note(self, feature: str, worst: float, skewed: bool, served: object, expected: object) -> None:  # noqa: FBT001
        self.compared[feature] = self.compared.get(feature, 0) + 1
        if not skewed:
            return
        before = self._skews.get(feature)
        count = before.samples + 1 if before is not None else 1
        if before is None or worst > before.worst:
            before = Skew(
                feature=feature, samples=count, worst=worst, served=str(served)[:200], expected=str(expected)[:200]
            )
        self._skews[feature] = msgspec.structs.replace(before, samples=count)


def check_parity(
    folder: Path, *, connection: Any, history_max: int, behaviour_life_ms: int, work: Path
) -> ParityReport:  # fmt: skip
    """Compare the samples of an export with the batch definition.

    Args:
        folder: an export: `events.ndjson`, `samples.ndjson`.
        connection: an Ibis backend.
        history_max: as the region applies.
        behaviour_life_ms: as the region applies.
        work: for Parquet files.

    Raises:
        InvalidInputError: the export cannot be read.
    """
    samples = [msgspec.convert(line, ServedSample) for line in read_lines(folder / "samples.ndjson")][-SAMPLES_MAX:]
    found = _Findings()
    fair = [sample for sample in samples if not sample.imported]
    for _ in range(len(samples) - len(fair)):
        found.leave_out("rows that began as an import")
    if fair:
        expected = _expected(folder, fair, connection, history_max, behaviour_life_ms, work)
        for sample in fair:
            _compare(sample, {name: rows.get(sample.sample, []) for name, rows in expected.items()}, found)
    return ParityReport(
        samples=len(samples), compared=found.compared, left_out=found.left_out, skews=found.skews()
    )  # fmt: skip


def _expected(
    folder: Path, samples: list[ServedSample], connection: Any, history_max: int, behaviour_life_ms: int, work: Path
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """By feature and sample, the rows that the batch definition gives."""
    write_rows(read_lines(folder / "events.ndjson"), work / "events.parquet", SCHEMA)
    asked = [
        {"sample": one.sample, "subject": one.subject, "upto": one.offset, "now_ms": one.now_ms} for one in samples
    ]  # fmt: skip
    write_rows(asked, work / "samples.parquet", ibis.schema(_SAMPLE_COLUMNS).to_pyarrow())
    write_rows(({"key": one["sample"], "now_ms": one["now_ms"]} for one in asked), work / "moments.parquet", MOMENTS)
    events = connection.read_parquet(str(work / "events.parquet"))
    table = connection.read_parquet(str(work / "samples.parquet"))
    moments = connection.read_parquet(str(work / "moments.parquet"))
    seen = events.join(table, [events.key == table.subject, events.place <= table.upto])
    keyed = seen.drop("key").rename(key="sample").select(*EVENT_COLUMNS)
    features = features_of(keyed, moments, history_max=history_max, behaviour_life_ms=behaviour_life_ms)
    wanted = {"history", "affinities", "sessions", "counters", "leanings"}
    by_name: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name in sorted(wanted):
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in getattr(features, name).to_pyarrow().to_pylist():
            rows.setdefault(row["key"], []).append(row)
        by_name[name] = rows
    return by_name


def _compare(sample: ServedSample, expected: Mapping[str, list[dict[str, Any]]], found: _Findings) -> None:
    history = sorted(expected["history"], key=lambda row: -row["position"])
    found.parts("history.items", sample.items, [row["item"] for row in history])
    found.parts("history.strengths", sample.strengths, [row["strength"] for row in history])
    found.parts("history.times_ms", sample.times_ms, [row["at_ms"] for row in history])
    counters = dict(expected["counters"][0]) if expected["counters"] else {}
    counters.pop("key", None)
    served = {"impressions": sample.impressions, **msgspec.structs.asdict(sample.counters)}
    for name, value in served.items():
        found.numbers(f"counters.{name}", {name: value}, {name: counters.get(name, 0)}, 0.0)
    _compare_affinities(sample, expected["affinities"], found)
    _compare_session(sample, expected["sessions"], found)
    if sample.leanings is None:
        found.leave_out("histories with items that the release does not know")
    else:
        wanted = {row["name"]: row["leaning"] for row in expected["leanings"]}
        found.numbers("ranker.category_affinity", sample.leanings, wanted, SINGLE_TOLERANCE)


def _compare_affinities(sample: ServedSample, rows: list[dict[str, Any]], found: _Findings) -> None:
    for kind in AFFINITY_KINDS:
        of_kind = [row for row in rows if row["kind"] == kind]
        if of_kind and of_kind[0]["names"] > AFFINITIES_MAX:
            found.leave_out(f"more names of {kind} than streaming keeps")
            continue
        expected = {
            row["name"]: DecayedValue(row["value"], row["at_ms"]).at(sample.now_ms, AFFINITY_HALF_LIFE_MS)
            for row in of_kind
        }
        found.numbers(f"affinity.{kind}", sample.affinities.get(kind, {}), expected, TOLERANCE)


def _compare_session(sample: ServedSample, rows: list[dict[str, Any]], found: _Findings) -> None:
    if rows and not rows[0]["ordered"]:
        found.leave_out("sessions with events that came late")
        return
    served = {} if sample.session is None else msgspec.structs.asdict(sample.session)
    expected = {name: rows[0][name] for name in ("started_ms", "last_ms", "events")} if rows else {}
    found.numbers("session", served, expected, 0.0)
