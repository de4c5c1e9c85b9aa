"""What an event does to its subject's row and to the region's counts: pure, and shared by every adapter of the store.

Rules, in this order, for each event in log order:

1. An event at or below the applied offset of its partition has no effect; nor has it on a row or a count that has
   taken it in already. A broken record has none either: the offset moves over it.
2. An opted-out subject's events have no effect on its row or on any count.
3. A session that the region has not heard of for longer than its life begins anew, as if its row had expired.
4. An event whose id is among the subject's last `EVENT_IDS_MAX` has no effect.
5. An impression is counted and changes no list; nor does a search.
6. An event that enters the history is put where its time belongs; the oldest beyond the bound leave, and so do those
   that the region received longer ago than behaviour may be kept.
7. Such an event, and a skip, raises the version by one, whatever the batch it came in: the version is a function of
   the log (and of the subject's choices) alone.
8. Session, counters, affinities and what is followed go by every event; `infra.contracts.features` defines them, the
   labels come with the event. Counts over items: see `region.store.aggregates`.

9. What an erasure covers (`region.store.port.Erasure`) has no effect: an erased subject begins anew or not at all.

Exactly once without a transaction over several keys: an adapter writes the aggregates first, then the rows, then the
offsets. Whatever was written before a kill knows the offset of what it took in, and is passed over when the batch, or
a longer one, is applied again; whoever's row was written is told of again. With one transaction the order is free.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from infra.contracts.events import DEFAULT_WEIGHTS, Event, EventType, EventWeights, LoggedEvent, enters_history
from infra.contracts.features import AFFINITIES_MAX, SESSION_GAP_MS, TREND_BUCKET_MS, DecayedValue
from region.store.aggregates import AggregateKey, Aggregates, Load
from region.store.port import AppliedChange, Erasure, OffsetEvent, Position, Session, SubjectCounters, UserRow
from region.store.state import DAY_MS, RowContent, SubjectState, WriterNotes, begin_state, from_row
from region.store.subjects import is_session

BUCKET_MS = TREND_BUCKET_MS
EVENT_IDS_MAX = 1024
"""How many event ids are remembered per subject: two of the largest batches, so a repeated batch is recognised."""
FOLLOWS_MAX = 100
"""What one subject may follow; beyond it the oldest are let go."""
IGNORED_SPANS_MAX = 32
"""Spans of ignored events that are remembered, the latest ones."""
COUNTS_LIFE_MS = 14 * DAY_MS
"""How long counts over items are kept: twice the longest window anything asks `trending` for."""
_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyRules:
    """The region's numbers."""

    history_max: int = 200
    session_life_ms: int = SESSION_GAP_MS
    behaviour_life_ms: int = 365 * DAY_MS
    """How long after its receipt an interaction may stand in a history."""
    weights: EventWeights = DEFAULT_WEIGHTS


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a batch comes to."""

    offsets: dict[int, int]
    """The last offset of every partition that had an event to apply."""
    states: dict[str, SubjectState]
    aggregates: dict[AggregateKey, bytes]
    changes: list[AppliedChange]


def apply_events(
    events: Iterable[OffsetEvent], *, applied: Position, load: Callable[[str], SubjectState | None],
    load_aggregate: Load = lambda _key: None, load_erasure: Callable[[str], Erasure | None] = lambda _subject: None,
    rules: ApplyRules,
) -> Outcome:  # fmt: skip
    """Apply `events` behind the position `applied` to what `load` and `load_aggregate` give (None: never heard of)."""
    offsets: dict[int, int] = {}
    states: dict[str, SubjectState] = {}
    erasures = _Erasures(load_erasure)
    aggregates = Aggregates(load_aggregate)
    consumed: dict[str, list[str]] = {}
    for record in sorted(events, key=lambda event: (event.partition, event.offset)):
        if record.offset <= max(applied.get(record.partition, 0), offsets.get(record.partition, 0)):
            continue
        offsets[record.partition] = record.offset
        if record.broken or erasures.cover(record):
            continue
        subject = record.logged.subject
        state = states.get(subject)
        if state is None:
            state = states[subject] = load(subject) or begin_state(erasures.of(subject))
        if record.offset <= state.row.offset:
            _tell_again(state, record.logged, consumed)
            continue
        version = state.row.version
        counts = apply_event(state, record, rules=rules)
        if counts:
            aggregates.add(record, weights=rules.weights)
        if state.row.version != version:
            entered = counts and enters_history(record.logged.event.type)
            consumed.setdefault(subject, []).extend([record.logged.event.item] if entered else [])
    changes = [
        AppliedChange(subject=subject, version=states[subject].row.version, consumed=tuple(dict.fromkeys(items)))
        for subject, items in consumed.items()
    ]
    return Outcome(offsets=offsets, states=states, aggregates=aggregates.encoded(), changes=changes)


class _Erasures:
    """The erasures of a batch's subjects, each loaded once."""

    def __init__(self, load: Callable[[str], Erasure | None]) -> None:
        self._load = load
        self._known: dict[str, Erasure | None] = {}

    def of(self, subject: str) -> Erasure | None:
        if subject not in self._known:
            self._known[subject] = self._load(subject)
        return self._known[subject]

    def cover(self, record: OffsetEvent) -> bool:
        """Whether the event is of before its subject's erasure."""
        erasure = self.of(record.logged.subject)
        return erasure is not None and erasure.covers(record)


def apply_event(state: SubjectState, record: OffsetEvent, *, rules: ApplyRules) -> bool:
    """Apply one event (rules 2 to 8). Returns whether it counts: whether it had any effect on the row."""
    logged, event = record.logged, record.logged.event
    if state.row.opted_out:
        _ignore(state.row, record.offset)
        return False
    if is_session(logged.subject) and _is_over(state.row, logged.received_ms, rules):
        state.row, state.notes = RowContent(), WriterNotes()
    row = state.row
    row.offset = record.offset
    row.touched_ms = max(row.touched_ms, logged.received_ms)
    if not _remember(state.notes, event.event_id):
        return False
    row.last_event_ms = max(row.last_event_ms, event.at_ms)
    row.session = _in_session(row.session, event.at_ms)
    row.impressions += event.type is EventType.IMPRESSION
    row.counters = _counted(row.counters, event.type)
    _lean(row, logged, rules.weights)
    _follow(row, event)
    if event.type in (EventType.IMPRESSION, EventType.SEARCH):
        return True
    row.version += 1
    if enters_history(event.type):
        _insert(row, event, logged.received_ms, rules)
    return True


def choose(state: SubjectState, *, opted_out: bool, now_ms: int) -> int:
    """Set the subject's choice; returns the new version."""
    state.row.opted_out = opted_out
    state.row.version += 1
    state.row.touched_ms = now_ms
    state.row.choices += 1
    return state.row.version


def replace_state(old: SubjectState | None, row: UserRow, *, now_ms: int, rules: ApplyRules) -> SubjectState:
    """What stands after an imported row replaces another state.

    A version never goes down (an edge would take its old list for the newer one), and an import does not undo an
    opt-out.
    """
    new = from_row(row, now_ms=now_ms)
    if old is not None:
        new.row.version = max(new.row.version, old.row.version + 1)
        new.row.opted_out = new.row.opted_out or old.row.opted_out
        new.row.touched_ms = max(new.row.touched_ms, old.row.touched_ms)
        new.row.offset = old.row.offset
        new.row.ignored, new.row.choices = old.row.ignored, old.row.choices
        new.row.follows = new.row.follows or old.row.follows
        new.notes = old.notes
    _trim(new.row, now_ms, replace(rules, behaviour_life_ms=now_ms))
    return new


def bare_state(state: SubjectState, *, now_ms: int) -> SubjectState:
    """What stays of a user who opted out and was not heard of for as long as behaviour may be kept: the choice."""
    row = RowContent(
        version=state.row.version, opted_out=True, offset=state.row.offset, touched_ms=now_ms,
        ignored=state.row.ignored, choices=state.row.choices,
    )  # fmt: skip
    return SubjectState(row, WriterNotes())


def _is_over(row: RowContent, received_ms: int, rules: ApplyRules) -> bool:
    return row.touched_ms > 0 and received_ms - row.touched_ms > rules.session_life_ms


def _tell_again(state: SubjectState, logged: LoggedEvent, consumed: dict[str, list[str]]) -> None:
    """An interrupted attempt wrote this row but not the offset: nobody was told."""
    event = logged.event
    if not state.row.opted_out and event.type not in (EventType.IMPRESSION, EventType.SEARCH):
        consumed.setdefault(logged.subject, []).extend([event.item] if enters_history(event.type) else [])


def _ignore(row: RowContent, offset: int) -> None:
    """Note the place of an ignored event; what follows on an ignored one belongs to the same span."""
    spans = row.ignored
    if spans and spans[-1][1] == row.offset:
        spans[-1] = (spans[-1][0], offset)
    else:
        spans.append((offset, offset))
        del spans[:-IGNORED_SPANS_MAX]
    row.offset = offset


def _in_session(session: Session | None, at_ms: int) -> Session:
    """The session with one more event; an event from before it, later than a pause, belongs to an older one."""
    if session is None or at_ms - session.last_ms > SESSION_GAP_MS:
        return Session(at_ms, at_ms, 1)
    if session.started_ms - at_ms > SESSION_GAP_MS:
        return session
    return Session(min(session.started_ms, at_ms), max(session.last_ms, at_ms), session.events + 1)


def _counted(counters: SubjectCounters, kind: EventType) -> SubjectCounters:
    if kind is EventType.IMPRESSION:
        return counters
    return SubjectCounters(
        counters.interactions + enters_history(kind),
        counters.clicks + (kind is EventType.CLICK),
        counters.skips + (kind is EventType.SKIP),
        counters.searches + (kind is EventType.SEARCH),
        counters.carts + (kind is EventType.CART),
        counters.purchases + (kind is EventType.PURCHASE),
    )


def _follow(row: RowContent, event: Event) -> None:
    """In the order of the log: who follows again comes last, and the oldest beyond the bound are let go."""
    if event.follows is None or event.type not in (EventType.FOLLOW, EventType.UNFOLLOW):
        return
    row.follows = [target for target in row.follows if target != event.follows]
    if event.type is EventType.FOLLOW:
        row.follows = [*row.follows, event.follows][-FOLLOWS_MAX:]


def _lean(row: RowContent, logged: LoggedEvent, weights: EventWeights) -> None:
    """Move the affinities by one event: a weight is shared among the categories of its item."""
    labels, at_ms = logged.labels, logged.event.at_ms
    weight = weights.of(logged.event.type, logged.event.value).affinity
    if not weight:
        return
    categories = tuple(filter(None, labels.categories))
    for kind, names in (("category", categories), ("brand", (labels.brand,)), ("creator", (labels.creator,))):
        for name in filter(None, names):
            values = row.affinities.setdefault(kind, {})
            share = weight / len(names)
            before = values.get(name)
            values[name] = DecayedValue(share, at_ms) if before is None else before.plus(share, at_ms)
            if len(values) > AFFINITIES_MAX:
                del values[_weakest(values)]


def _weakest(values: dict[str, DecayedValue]) -> str:
    """The name whose value is nearest to zero, at whatever moment: all of them fade alike."""
    latest_ms = max(value.at_ms for value in values.values())
    return min(values, key=lambda name: (abs(values[name].at(latest_ms)), name))


def _remember(notes: WriterNotes, event_id: str) -> bool:
    """Note an event id; False when it is there already."""
    digest = hashlib.blake2b(event_id.encode(), digest_size=_DIGEST_BYTES).digest()
    place = notes.event_ids.find(digest)
    while place >= 0 and place % _DIGEST_BYTES:  # a match across two digests is none
        place = notes.event_ids.find(digest, place + 1)
    if place >= 0:
        return False
    notes.event_ids = (notes.event_ids + digest)[-EVENT_IDS_MAX * _DIGEST_BYTES :]
    return True


def _insert(row: RowContent, event: Event, received_ms: int, rules: ApplyRules) -> None:
    # Phones report late: the history is ordered by when things happened, ties by arrival.
    place = bisect_right(row.times_ms, event.at_ms)
    row.items.insert(place, event.item)
    row.strengths.insert(place, rules.weights.of(event.type, event.value).strength)
    row.times_ms.insert(place, event.at_ms)
    row.received_days.insert(place, received_ms // DAY_MS)
    _trim(row, received_ms, rules)


def _trim(row: RowContent, now_ms: int, rules: ApplyRules) -> None:
    excess = len(row.items) - rules.history_max
    if excess > 0:
        for column in (row.items, row.strengths, row.times_ms, row.received_days):
            del column[:excess]
    oldest_day = (now_ms - rules.behaviour_life_ms) // DAY_MS
    if row.received_days and min(row.received_days) < oldest_day:
        kept = [place for place, day in enumerate(row.received_days) if day >= oldest_day]
        row.items = [row.items[place] for place in kept]
        row.strengths = [row.strengths[place] for place in kept]
        row.times_ms = [row.times_ms[place] for place in kept]
        row.received_days = [row.received_days[place] for place in kept]
