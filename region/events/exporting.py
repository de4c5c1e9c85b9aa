"""The log as flat rows for batch features: users only, without what an opted-out user did, without search texts.

A file in the region for the region's own batch job; every line holds personal data, and nothing but the region's own
processes reads it.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from infra.contracts.events import enters_history
from infra.contracts.residency import Global, RegionalMessage
from infra.plumbing.private_files import open_private, write_private
from infra.plumbing.progress import Progress
from region.events.port import Log
from region.events.streaming import BATCH_MAX
from region.privacy.bulk import Touch
from region.sampling.served import ServedSample
from region.store.aggregates import CATEGORIES_PER_EVENT_MAX
from region.store.applying import ApplyRules
from region.store.port import OffsetEvent, Store
from region.store.subjects import is_session

EVENTS_FILE, SAMPLES_FILE, ABOUT_FILE = "events.ndjson", "samples.ndjson", "about.json"


class ExportReport(RegionalMessage, frozen=True, kw_only=True):
    """What an export holds."""

    events: Global[int]
    samples: Global[int]
    history_max: Global[int]
    behaviour_life_ms: Global[int]


def flat_row(record: OffsetEvent, rules: ApplyRules) -> dict[str, Any]:
    """One event as `region.batch.definitions.EVENT_COLUMNS` says."""
    logged, event = record.logged, record.logged.event
    effect = rules.weights.of(event.type, event.value)
    return {
        "key": logged.subject, "event_id": event.event_id, "place": record.offset, "at_ms": event.at_ms,
        "received_ms": logged.received_ms, "type": event.type.value, "item": event.item, "strength": effect.strength,
        "weight": effect.affinity, "points": effect.trend, "in_history": enters_history(event.type),
        "categories": [name for name in logged.labels.categories if name][:CATEGORIES_PER_EVENT_MAX],
        "brand": logged.labels.brand, "creator": logged.labels.creator,
    }  # fmt: skip


async def export_events(
    *, log: Log, store: Store, rules: ApplyRules, samples: Sequence[ServedSample], to: Path, progress: Progress,
    touch: Touch,
) -> ExportReport:  # fmt: skip
    """Write what the store has applied of the log, and the samples, into the folder `to`; `touch` is told of each.

    Raises:
        UnavailableError: the log or the store does not answer.
        OSError: the disk does not take it.
    """
    written = done = 0
    target = await store.applied_offsets()
    ignored: dict[str, tuple[tuple[int, int], ...]] = {}
    with _open(to) as file:
        for partition, end in target.items():
            after = 0
            while after < end:
                records = await log.read(after={partition: after}, limit=BATCH_MAX)
                records = [record for record in records if record.offset <= end]
                if not records:
                    break
                after = records[-1].offset
                for record in records:
                    if not record.broken:
                        touch("events", record.logged.subject)
                lines = [
                    msgspec.json.encode(flat_row(record, rules))
                    for record in await _wanted(records, store, ignored)
                ]  # fmt: skip
                file.write(b"".join(line + b"\n" for line in lines))
                written, done = written + len(lines), done + len(records)
                progress.advance(done, sum(target.values()), "records read")
    for sample in samples:
        touch("samples", sample.subject)
    _write_samples(to / SAMPLES_FILE, samples)
    report = ExportReport(
        events=written, samples=len(samples), history_max=rules.history_max, behaviour_life_ms=rules.behaviour_life_ms
    )
    _write_about(to, report)
    return report


async def _wanted(
    records: Iterable[OffsetEvent], store: Store, ignored: dict[str, tuple[tuple[int, int], ...]]
) -> list[OffsetEvent]:  # fmt: skip
    """Records of users, but for those that the store ignored."""
    wanted = []
    for record in records:
        subject = record.logged.subject
        if record.broken or is_session(subject):
            continue
        if subject not in ignored:
            row = await store.read(subject)
            ignored[subject] = row.ignored if row is not None else ()
        if not any(first <= record.offset <= last for first, last in ignored[subject]):
            wanted.append(record)
    return wanted


def _open(to: Path) -> BinaryIO:
    to.mkdir(parents=True, exist_ok=True)
    return os.fdopen(open_private(to / EVENTS_FILE), "wb")


def _write_about(to: Path, report: ExportReport) -> None:
    (to / ABOUT_FILE).write_bytes(msgspec.json.encode(report))


def _write_samples(path: Path, samples: Sequence[ServedSample]) -> None:
    write_private(path, b"".join(msgspec.json.encode(sample) + b"\n" for sample in samples))
