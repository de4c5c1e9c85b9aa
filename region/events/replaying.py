"""Every feature once more from the log, into a fresh store; and whether that is what the live store says.

The log is the only source, with two exceptions that the live row itself tells of: a subject's choices (spans of
events that were ignored, and the versions that the choices took), and an import, which has to be imported again first.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec

from infra.plumbing.clock import Clock
from infra.plumbing.progress import Progress
from region.events.port import Log
from region.events.records import SHREDDED
from region.events.streaming import BATCH_MAX
from region.privacy.bulk import Touch, untouched
from region.store.port import (
    Erasure,
    Interactions,
    ItemCount,
    ItemCounters,
    OffsetEvent,
    Position,
    RowFacts,
    Store,
    UserRow,
)
from region.store.subjects import is_session

ROUNDS_MAX = 5
"""How often the replay catches up with a worker that goes on meanwhile, before it says so."""
ITEMS_MAX = 100_000
WINDOW_MS = 6 * 3_600_000
_EXAMPLES_MAX = 3
_CHOICES = ("version", "offset", "opted_out", "ignored", "choices", "imported")
"""Fields that hold or reflect what is not in the log; versions are compared with the choices added."""


class ReplayReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay found."""

    events: int
    broken: int
    """Records that could not be read."""
    subjects: int
    imported: int
    """Subjects whose live row began as an import."""
    differences: dict[str, int]
    """By field, how many rows (or items) say something else; empty: replay equals live."""
    examples: tuple[str, ...] = ()
    behind: int = 0
    """Rows that the live worker had moved on while the replay looked, in every round."""
    seconds: float = 0.0


@dataclass(slots=True)
class _Found:
    differences: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)
    behind: int = 0

    def note(self, name: str, live: object, replayed: object) -> None:
        self.differences[name] = self.differences.get(name, 0) + 1
        if len(self.examples) < _EXAMPLES_MAX:
            self.examples.append(f"{name}: live {_short(live)}, replayed {_short(replayed)}")


class Replayer:
    """Replays one region's log.

    Args:
        log: read from its beginning.
        live: compared with; only read.
        fresh: written; empty, or freshly seeded.
        clock: for windows and durations.
        progress: told how far it is.
        touch: told of every record that is read.
    """

    def __init__(
        self, *, log: Log, live: Store, fresh: Store, clock: Clock, progress: Progress, touch: Touch = untouched
    ) -> None:  # fmt: skip
        self._touch = touch
        self._log = log
        self._live = live
        self._fresh = fresh
        self._clock = clock
        self._progress = progress
        self._position: dict[int, int] = {}
        self._subjects: dict[str, UserRow | None] = {}
        self._partitions: dict[str, int] = {}
        self._erasures: dict[str, Erasure | None] = {}
        self._events = self._broken = self._done = 0

    async def run(self) -> ReplayReport:
        """Replay up to where the live store stands, and compare.

        Raises:
            UnavailableError: the log or a store does not answer.
        """
        started_s = self._clock.monotonic_s()
        found = _Found()
        for _ in range(ROUNDS_MAX):
            await self._catch_up(await self._live.applied_offsets())
            found = await self._compare()
            if not found.behind:
                break
        return ReplayReport(
            events=self._events,
            broken=self._broken,
            subjects=len(self._subjects),
            imported=sum(row is not None and row.imported for row in self._subjects.values()),
            differences=found.differences,
            examples=tuple(found.examples),
            behind=found.behind,
            seconds=round(self._clock.monotonic_s() - started_s, 3),
        )

    async def _catch_up(self, target: Position) -> None:
        for partition, end in target.items():
            after = self._position.get(partition, 0)
            while after < end:
                events = await self._log.read(after={partition: after}, limit=BATCH_MAX)
                events = [event for event in events if event.offset <= end]
                if not events:
                    break
                await self._fresh.apply([event for event in events if await self._counts(event)])
                after = events[-1].offset
                self._events += len(events)
                self._done += len(events)
                self._progress.advance(self._done, sum(target.values()), "events replayed")
            self._position[partition] = end

    async def _counts(self, event: OffsetEvent) -> bool:
        """Whether the live store took the event in: its subject had not opted out then."""
        if event.broken:
            self._broken += event.broken != SHREDDED
            return False
        subject = event.logged.subject
        self._touch("events", subject)
        if await self._is_erased(event):
            return False
        self._partitions[subject] = event.partition
        row = self._subjects.get(subject)
        if row is None or row.offset < event.offset:
            row = self._subjects[subject] = await self._live.read(subject)
        return row is None or not any(first <= event.offset <= last for first, last in row.ignored)

    async def _is_erased(self, event: OffsetEvent) -> bool:
        """Whether the event is of before its subject's erasure: a log brought back from a copy may hold such."""
        subject = event.logged.subject
        if subject not in self._erasures:
            erasure = self._erasures[subject] = await self._live.erasure(subject)
            if erasure is not None:
                await self._fresh.forget(subject, erasure)
        erasure = self._erasures[subject]
        return erasure is not None and erasure.covers(event)

    async def _compare(self) -> _Found:
        found = _Found()
        for subject in list(self._subjects):
            live, replayed = await self._live.read(subject), await self._fresh.read(subject)
            self._subjects[subject] = live
            if live is not None and live.offset > self._position[self._partitions[subject]]:
                found.behind += 1  # the live row has moved on: it is looked at again
            else:
                compare_rows(subject, live, replayed, found.note)
        now_ms = self._clock.now_ms()
        if not found.behind:
            await self._compare_counts(now_ms, found)
        return found

    async def _compare_counts(self, now_ms: int, found: _Found) -> None:
        since_ms = now_ms - WINDOW_MS

        async def trend(store: Store) -> dict[str, object]:
            counts: list[ItemCount] = await store.trending(since_ms=since_ms, limit=ITEMS_MAX)
            return {one.item: one.count for one in counts}

        async def items(store: Store) -> dict[str, object]:
            counters: list[ItemCounters] = await store.item_counters(since_ms=since_ms, limit=ITEMS_MAX)
            return {one.item: one for one in counters}

        readers: tuple[tuple[str, Callable[[Store], Awaitable[dict[str, object]]]], ...] = (
            ("trending", trend), ("item_counters", items)
        )  # fmt: skip
        for name, read in readers:
            live, replayed = await asyncio.gather(read(self._live), read(self._fresh))
            for item in sorted(live.keys() | replayed.keys()):
                if live.get(item) != replayed.get(item):
                    found.note(name, live.get(item), replayed.get(item))


def compare_rows(
    subject: str, live: UserRow | None, replayed: UserRow | None, note: Callable[[str, object, object], None]
) -> None:  # fmt: skip
    """Note every field in which the two rows differ."""
    if live is None and (replayed is None or is_session(subject)):
        return  # a session's row may have run out already; it began anew in the replay
    if live is None:
        note("row", "none", replayed)
        return
    if live.opted_out and not live.last_event_ms:
        return  # nothing but the choice is left of it
    # A row whose every event was ignored is there because of a choice only.
    replayed = replayed if replayed is not None else UserRow(subject=subject)
    if live.version != replayed.version + live.choices and not (is_session(subject) and live.choices):
        note("version", live.version, replayed.version + live.choices)
    for name in ("history", "affinities", *RowFacts.__struct_fields__):
        if name not in _CHOICES and getattr(live, name) != getattr(replayed, name):
            note(name, _told(getattr(live, name)), _told(getattr(replayed, name)))


def _told(value: object) -> object:
    return tuple(value) if isinstance(value, Interactions) else value


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
