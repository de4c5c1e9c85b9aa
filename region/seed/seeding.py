"""An existing history becomes rows of the store: what each user of the region did, bounded, under its pseudonym.

Everything is read and checked before anything is written; the writing is idempotent, so a seed that was killed may
simply run again.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import msgspec

from infra.plumbing.errors import InvalidInputError
from infra.plumbing.keys import RegionKeys
from infra.plumbing.progress import Progress
from region.seed.reading import has_regions, read_interactions, read_residents
from region.seed.sorting import IMPRESSION, SKIP, Interaction, Sorter, open_sorter
from region.store.port import HistoryEntry, Store, UserRow
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


async def seed(
    dataset: Path, *, region: str, keys: RegionKeys, store: Store, history_max: int, hold_out_last: bool,
    progress: Progress,
) -> SeedReport:  # fmt: skip
    """Write the rows of the users of `region`.

    Where `users.csv` has a `region` column it says whose home the region is; else the `region` column of
    `interactions.csv` does.

    Raises:
        InvalidInputError: the dataset cannot be used; nothing was written.
        StoreUnavailableError: the store did not take the rows; run it again.
    """
    with open_sorter() as sorter:
        events_read, residents_only = _read(dataset, region, sorter, progress)
        subjects = kept = held_out = 0
        batch: list[UserRow] = []
        for user, interactions in groupby(sorter.ordered(residents_only=residents_only), key=lambda one: one.user):
            row, held = build_row(
                user_subject(keys, user), interactions, history_max=history_max, hold_out_last=hold_out_last
            )
            batch.append(row)
            subjects, kept, held_out = subjects + 1, kept + len(row.history), held_out + held
            if len(batch) == ROWS_TOGETHER:
                await store.write_rows(batch)
                batch.clear()
        await store.write_rows(batch)
    return SeedReport(subjects=subjects, events_read=events_read, events_kept=kept, held_out=held_out)


def build_row(
    subject: str, interactions: Iterable[Interaction], *, history_max: int, hold_out_last: bool
) -> tuple[UserRow, int]:
    """The row of one user's interactions, given in order; and how many history entries were held out (0 or 1).

    With `hold_out_last` the last entry of the history is left out, and whatever was shown or skipped behind it: a
    row that is to predict it may not know what came later.
    """
    history: deque[Interaction] = deque(maxlen=history_max + 1)
    impressions = before_last = last_ms = before_last_ms = 0
    for one in interactions:
        if one.strength not in (IMPRESSION, SKIP):
            before_last, before_last_ms = impressions, last_ms
            history.append(one)
        impressions += one.strength == IMPRESSION
        last_ms = max(last_ms, one.at_ms)
    held = int(hold_out_last and bool(history))
    if held:
        history.pop()
        impressions, last_ms = before_last, before_last_ms
    entries = list(history)[-history_max:]
    row = UserRow(
        subject=subject,
        version=1,
        history=tuple(HistoryEntry(item=one.item, strength=one.strength, at_ms=one.at_ms) for one in entries),
        impressions=impressions,
        last_event_ms=last_ms,
    )
    return row, held


def _read(dataset: Path, region: str, sorter: Sorter, progress: Progress) -> tuple[int, bool]:
    """Bring the dataset into the sorter. Returns the rows read and whether residents are known by `users.csv`."""
    users, path = dataset / "users.csv", dataset / "interactions.csv"
    residents_only = has_regions(users)
    if residents_only:
        sorter.add_residents(read_residents(users, region=region))
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
