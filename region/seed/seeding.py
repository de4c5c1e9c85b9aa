"""An existing history becomes rows of the store, with every feature that the events would have made.

What each user of the region did is applied event by event under the user's pseudonym, as if it had come by the log.
Everything is read and checked before anything is written; the writing is idempotent, so a seed that was killed may
simply run again.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import msgspec

from infra.contracts.events import Event, LoggedEvent, enters_history
from infra.plumbing.clock import Clock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.keys import RegionKeys
from infra.plumbing.progress import Progress
from region.seed.reading import has_regions, read_interactions, read_items, read_residents
from region.seed.sorting import Interaction, Sorter, open_sorter
from region.store.aggregates import IMPORTED
from region.store.applying import COUNTS_LIFE_MS, ApplyRules, apply_event
from region.store.port import OffsetEvent, Store, UserRow
from region.store.state import SubjectState, to_row
from region.store.subjects import user_subject

ROWS_TOGETHER = 250
"""Rows written in one transaction."""
_PROGRESS_EVERY = 50_000


class SeedReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a seed did: counts only."""

    subjects: int
    events_read: int
    events_kept: int
    """Entries that stand in histories now."""
    held_out: int
    events_counted: int = 0
    """Events young enough to count in trends and counters over items."""


async def seed(
    dataset: Path, *, region: str, keys: RegionKeys, store: Store, rules: ApplyRules, clock: Clock,
    hold_out_last: bool, progress: Progress,
) -> SeedReport:  # fmt: skip
    """Write the rows of the users of `region`, and count what they did lately.

    Where `users.csv` has a `region` column it says whose home the region is; else the `region` column of
    `interactions.csv` does. Categories, brands and creators come from `items.csv`.

    Raises:
        InvalidInputError: the dataset cannot be used; nothing was written.
        StoreUnavailableError: the store did not take the rows; run it again.
    """
    with open_sorter() as sorter:
        events_read, residents_only = _read(dataset, region, sorter, progress)
        writer = _Writer(store, counts_since_ms=clock.now_ms() - COUNTS_LIFE_MS)
        for user, interactions in groupby(sorter.ordered(residents_only=residents_only), key=lambda one: one.user):
            await writer.add(user_subject(keys, user), list(interactions), rules=rules, hold_out_last=hold_out_last)
        await writer.flush()
    return SeedReport(
        subjects=writer.subjects, events_read=events_read, events_kept=writer.kept, held_out=writer.held_out,
        events_counted=writer.counted,
    )  # fmt: skip


class _Writer:
    """Turns users into rows and writes them a few at a time."""

    def __init__(self, store: Store, *, counts_since_ms: int) -> None:
        self._store = store
        self._counts_since_ms = counts_since_ms
        self._rows: list[UserRow] = []
        self._counts: list[OffsetEvent] = []
        self._events = self.subjects = self.kept = self.held_out = self.counted = 0

    async def add(
        self, subject: str, interactions: Sequence[Interaction], *, rules: ApplyRules, hold_out_last: bool
    ) -> None:
        """Take in one user."""
        known, held = without_last(interactions) if hold_out_last else (interactions, 0)
        # Numbered over the whole dataset, whatever is young enough by now: run again, the same event has its number.
        records = list(_records(subject, known, first=self._events + 1))
        self._events += len(interactions)
        row = build_row(subject, records, rules=rules)
        young = [record for record in records if record.logged.event.at_ms >= self._counts_since_ms]
        self._rows.append(row)
        self._counts += young
        self.subjects += 1
        self.kept += len(row.history)
        self.held_out += held
        self.counted += len(young)
        if len(self._rows) == ROWS_TOGETHER:
            await self.flush()

    async def flush(self) -> None:
        """Write what waits."""
        await self._store.write_rows(self._rows)
        if self._counts:
            await self._store.write_counts(self._counts)
        self._rows, self._counts = [], []


def without_last(interactions: Sequence[Interaction]) -> tuple[Sequence[Interaction], int]:
    """What a row may know that is to predict the last entry of the history: neither it nor anything behind it.

    Returns also how many entries were held out (0 or 1).
    """
    places = [place for place, one in enumerate(interactions) if enters_history(one.kind)]
    return (interactions[: places[-1]], 1) if places else (interactions, 0)


def build_row(subject: str, records: Iterable[OffsetEvent], *, rules: ApplyRules) -> UserRow:
    """The row of one user's events, given in order: history, affinities, session and counters."""
    # An import is as old as it is: what it says of the past is not forgotten for being told late.
    rules = replace(rules, behaviour_life_ms=_FOR_EVER_MS)
    state = SubjectState()
    for record in records:
        apply_event(state, record, rules=rules)
    return msgspec.structs.replace(to_row(subject, state.row), version=1, offset=0)


_FOR_EVER_MS = 1 << 60


def _records(subject: str, interactions: Iterable[Interaction], *, first: int) -> Iterator[OffsetEvent]:
    for number, one in enumerate(interactions, first):
        event = Event(event_id=f"import-{number}", type=one.kind, item=one.item, at_ms=one.at_ms, value=one.value)
        logged = LoggedEvent(subject=subject, event=event, received_ms=one.at_ms, labels=one.labels)
        yield OffsetEvent(offset=number, logged=logged, partition=IMPORTED)


def _read(dataset: Path, region: str, sorter: Sorter, progress: Progress) -> tuple[int, bool]:
    """Bring the dataset into the sorter. Returns the rows read and whether residents are known by `users.csv`."""
    users, path = dataset / "users.csv", dataset / "interactions.csv"
    residents_only = has_regions(users)
    if residents_only:
        sorter.add_residents(read_residents(users, region=region))
    sorter.add_items(read_items(dataset / "items.csv"))
    interactions = read_interactions(path, region=None if residents_only else region)
    meter = _Meter(progress)
    sorter.add_interactions(meter.pass_on(interactions))
    if not meter.rows:
        raise InvalidInputError("interactions.csv holds no row behind its first line.", fix="Check the dataset.")
    return meter.rows, residents_only


class _Meter:
    """Counts rows on their way, and says so; leaves out those of other regions."""

    def __init__(self, progress: Progress) -> None:
        self.rows = 0
        self._progress = progress

    def pass_on(self, interactions: Iterable[Interaction | None]) -> Iterator[Interaction]:
        for one in interactions:
            self.rows += 1
            if self.rows % _PROGRESS_EVERY == 0:
                self._progress.advance(self.rows, 0, "interactions read")
            if one is not None:
                yield one
        self._progress.advance(self.rows, self.rows, "interactions read")
