"""What an event does to its subject's row: pure, and shared by every adapter of the store.

Rules, in this order, for each event in log order:

1. An event at or below the applied offset of its partition has no effect.
2. An opted-out subject's events have no effect on its row or on any count.
3. An event whose id is among the subject's last `EVENT_IDS_MAX` has no effect.
4. An impression is counted and changes no list.
5. An event that enters the history is put where its time belongs; the oldest beyond the bound leave.
6. Such an event, and a skip, raises the version by one, whatever the batch it came in: the version is a function of
   the log alone.
7. An event of at least `INTEREST_STRENGTH` that enters the history counts for its item in the bucket of its time.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from infra.contracts.events import Event, EventType, LoggedEvent, enters_history, event_strength
from region.store.port import AppliedChange, HistoryEntry, OffsetEvent, Position, UserRow

BUCKET_MS = 600_000
"""Width of a bucket of item counts."""
EVENT_IDS_MAX = 1024
"""How many event ids are remembered per subject: two of the largest batches, so a repeated batch is recognised."""
INTEREST_STRENGTH = 3
"""Below it (dislike, skip, a film left at once) an event is no sign that an item is wanted."""
_DIGEST_BYTES = 8


@dataclass(slots=True)
class SubjectState:
    """One subject's row while events are applied to it; the history in columns, oldest first."""

    version: int = 0
    items: list[str] = field(default_factory=list)
    strengths: list[int] = field(default_factory=list)
    times_ms: list[int] = field(default_factory=list)
    impressions: int = 0
    opted_out: bool = False
    last_event_ms: int = 0
    touched_ms: int = 0
    """When the region last heard of the subject, by the region's own clock: what a session's life counts from."""
    event_ids: bytes = b""
    """Digests of the last event ids, `_DIGEST_BYTES` each."""

    def to_row(self, subject: str) -> UserRow:
        """The row as readers see it."""
        columns = zip(self.items, self.strengths, self.times_ms, strict=True)
        return UserRow(
            subject=subject,
            version=self.version,
            history=tuple(HistoryEntry(item=item, strength=strength, at_ms=at) for item, strength, at in columns),
            impressions=self.impressions,
            opted_out=self.opted_out,
            last_event_ms=self.last_event_ms,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a batch comes to: to be written in one transaction."""

    offsets: dict[int, int]
    """The last offset of every partition that had an event to apply."""
    states: dict[str, SubjectState]
    counts: dict[tuple[int, str], int]
    """Interactions to add, by (bucket's first millisecond, item)."""
    changes: list[AppliedChange]


def apply_events(
    events: Iterable[OffsetEvent], *, applied: Position, load: Callable[[str], SubjectState | None], history_max: int
) -> Outcome:
    """Apply `events` behind the position `applied` to the states that `load` gives (None: a subject never heard of)."""
    offsets: dict[int, int] = {}
    states: dict[str, SubjectState] = {}
    counts: dict[tuple[int, str], int] = {}
    consumed: dict[str, list[str]] = {}
    for record in sorted(events, key=lambda event: (event.partition, event.offset)):
        if record.offset <= max(applied.get(record.partition, 0), offsets.get(record.partition, 0)):
            continue
        offsets[record.partition] = record.offset
        subject = record.logged.subject
        state = states.get(subject)
        if state is None:
            state = states[subject] = load(subject) or SubjectState()
        version = state.version
        entered = apply_event(state, record.logged, history_max=history_max)
        if entered and event_strength(record.logged.event.type, record.logged.event.value) >= INTEREST_STRENGTH:
            key = (bucket_of(record.logged.event.at_ms), record.logged.event.item)
            counts[key] = counts.get(key, 0) + 1
        if state.version != version:
            consumed.setdefault(subject, []).extend([record.logged.event.item] if entered else [])
    changes = [
        AppliedChange(subject=subject, version=states[subject].version, consumed=tuple(dict.fromkeys(items)))
        for subject, items in consumed.items()
    ]
    return Outcome(offsets=offsets, states=states, counts=counts, changes=changes)


def apply_event(state: SubjectState, logged: LoggedEvent, *, history_max: int) -> bool:
    """Apply one event (rules 2 to 6). Returns whether it entered the history."""
    state.touched_ms = max(state.touched_ms, logged.received_ms)
    event = logged.event
    if state.opted_out or not _remember(state, event.event_id):
        return False
    state.last_event_ms = max(state.last_event_ms, event.at_ms)
    if event.type is EventType.IMPRESSION:
        state.impressions += 1
        return False
    state.version += 1
    if not enters_history(event.type):
        return False
    _insert(state, event, history_max)
    return True


def state_of(row: UserRow) -> SubjectState:
    """The state that an imported row stands for."""
    history = sorted(row.history, key=lambda entry: entry.at_ms)
    return SubjectState(
        version=row.version,
        items=[entry.item for entry in history],
        strengths=[entry.strength for entry in history],
        times_ms=[entry.at_ms for entry in history],
        impressions=row.impressions,
        opted_out=row.opted_out,
        last_event_ms=row.last_event_ms,
        touched_ms=row.last_event_ms,
    )


def replace_state(old: SubjectState | None, new: SubjectState, *, history_max: int) -> SubjectState:
    """What stands after an imported state replaces another.

    A version never goes down (an edge would take its old list for the newer one), and an import does not undo an
    opt-out.
    """
    if old is not None:
        new.version = max(new.version, old.version + 1)
        new.opted_out = new.opted_out or old.opted_out
        new.touched_ms = max(new.touched_ms, old.touched_ms)
        new.event_ids = old.event_ids
    _trim(new, history_max)
    return new


def bucket_of(at_ms: int) -> int:
    """First millisecond of the bucket that a moment falls into."""
    return at_ms - at_ms % BUCKET_MS


def _remember(state: SubjectState, event_id: str) -> bool:
    """Note an event id; False when it is there already."""
    digest = hashlib.blake2b(event_id.encode(), digest_size=_DIGEST_BYTES).digest()
    place = state.event_ids.find(digest)
    while place >= 0 and place % _DIGEST_BYTES:  # a match across two digests is none
        place = state.event_ids.find(digest, place + 1)
    if place >= 0:
        return False
    state.event_ids = (state.event_ids + digest)[-EVENT_IDS_MAX * _DIGEST_BYTES :]
    return True


def _insert(state: SubjectState, event: Event, history_max: int) -> None:
    # Phones report late: the history is ordered by when things happened, ties by arrival.
    place = bisect_right(state.times_ms, event.at_ms)
    state.items.insert(place, event.item)
    state.strengths.insert(place, event_strength(event.type, event.value))
    state.times_ms.insert(place, event.at_ms)
    _trim(state, history_max)


def _trim(state: SubjectState, history_max: int) -> None:
    excess = len(state.items) - history_max
    if excess > 0:
        del state.items[:excess], state.strengths[:excess], state.times_ms[:excess]
