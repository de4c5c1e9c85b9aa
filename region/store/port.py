"""The store's port: what the region needs from whatever keeps its users' data (MISSION C1).

SQLite fills it on one machine, Cassandra in production; one contract suite holds both to it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from infra.contracts.events import LoggedEvent
from infra.contracts.features import SESSION_GAP_MS, DecayedValue
from infra.contracts.residency import Regional, RegionalMessage
from infra.plumbing.errors import UnavailableError
from region.keeping.deposits import Deposit
from region.store.subjects import is_session


class StoreUnavailableError(UnavailableError):
    """The store did not answer in time; the funnel goes on without the user's row and says so."""


class HistoryEntry(RegionalMessage, frozen=True, gc=False):
    """One interaction: which item, how strong (`infra.contracts.events.event_strength`), when."""

    item: Regional[str]
    strength: Regional[int]
    at_ms: Regional[int]


class Interactions(RegionalMessage, frozen=True, gc=False):
    """Interactions, oldest first, in columns of one length.

    A request reads columns; an object for each entry would cost it as much as decoding the row. They hold nothing
    that could lead back to them, so the collector of cycles need not look at any.
    """

    items: Regional[tuple[str, ...]] = ()
    strengths: Regional[tuple[int, ...]] = ()
    times_ms: Regional[tuple[int, ...]] = ()

    @classmethod
    def of(cls, entries: Iterable[HistoryEntry]) -> "Interactions":
        """These entries, in their order."""
        kept = tuple(entries)
        return cls(
            tuple(one.item for one in kept), tuple(one.strength for one in kept), tuple(one.at_ms for one in kept)
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[HistoryEntry]:
        return map(HistoryEntry, self.items, self.strengths, self.times_ms)


class Affinity(RegionalMessage, frozen=True, array_like=True):
    """How much a subject leans towards a category, brand or creator (below zero: away from it), as of `at_ms`.

    It halves every `infra.contracts.features.AFFINITY_HALF_LIFE_MS`; `DecayedValue` does the sums.
    """

    name: Regional[str]
    value: Regional[float]
    at_ms: Regional[int]


class Session(RegionalMessage, frozen=True, array_like=True):
    """The run of events of any type without a pause longer than `SESSION_GAP_MS`, the latest one."""

    started_ms: Regional[int]
    last_ms: Regional[int]
    events: Regional[int]

    def is_over(self, now_ms: int) -> bool:
        """Whether the pause since the last event has ended it."""
        return now_ms - self.last_ms > SESSION_GAP_MS


class SubjectCounters(RegionalMessage, frozen=True, array_like=True):
    """How many events of a kind the subject's row has seen. Interactions are what entered the history."""

    interactions: Regional[int] = 0
    clicks: Regional[int] = 0
    skips: Regional[int] = 0
    searches: Regional[int] = 0
    carts: Regional[int] = 0
    purchases: Regional[int] = 0


class RowFacts(RegionalMessage, frozen=True, kw_only=True):
    """What a row says of a subject beside history and affinities.

    `version` goes up by one whenever the subject's lists must change.
    """

    subject: Regional[str]
    version: Regional[int] = 0
    impressions: Regional[int] = 0
    opted_out: Regional[bool] = False
    last_event_ms: Regional[int] = 0
    offset: Regional[int] = 0
    """The offset, in the subject's partition of the log, of the last event that the row has taken in; 0: none."""
    counters: Regional[SubjectCounters] = SubjectCounters()
    session: Regional[Session | None] = None
    ignored: Regional[tuple[tuple[int, int], ...]] = ()
    """Spans of the log (offsets, first and last) whose events were ignored because the subject had opted out."""
    choices: Regional[int] = 0
    """How often the subject opted out or in; each raised the version."""
    imported: Regional[bool] = False
    """Whether the row began as an import, of which the log knows nothing."""
    follows: Regional[tuple[str, ...]] = ()
    """What the subject follows (`Event.follows`), the latest last; at most `FOLLOWS_MAX`."""


class UserRow(RowFacts, frozen=True, kw_only=True):
    """Everything a request needs to know of a subject, in one partition read; the history is bounded."""

    history: Regional[Interactions] = Interactions()
    affinities_packed: Regional[bytes] = b""
    """`affinities` as `pack_affinities` writes them: most lists are made without looking into them."""

    @property
    def affinities(self) -> dict[str, tuple[Affinity, ...]]:
        """By kind (`AFFINITY_KINDS`), at most `AFFINITIES_MAX` of each, in no order; a kind without any is left out."""
        found = _AFFINITIES.decode(self.affinities_packed) if self.affinities_packed else {}
        return {
            kind: tuple(Affinity(name, value.value, value.at_ms) for name, value in values.items())
            for kind, values in found.items()
        }

    def leanings(self, kind: str, now_ms: int) -> dict[str, float]:
        """The affinities of one kind as they stand at a moment, by name."""
        return {
            one.name: DecayedValue(one.value, one.at_ms).at(now_ms) for one in self.affinities.get(kind, ())
        }  # fmt: skip


class ExportedRow(RowFacts, frozen=True, kw_only=True):
    """A row as people read it: entry by entry. No request does."""

    history: Regional[tuple[HistoryEntry, ...]] = ()
    affinities: Regional[dict[str, tuple[Affinity, ...]]] = msgspec.field(default_factory=dict)

    @classmethod
    def of(cls, row: UserRow) -> "ExportedRow":
        """The same row."""
        facts = {name: getattr(row, name) for name in RowFacts.__struct_fields__}
        return cls(**facts, history=tuple(row.history), affinities=row.affinities)


_AFFINITIES = msgspec.msgpack.Decoder(dict[str, dict[str, DecayedValue]])


def pack_affinities(affinities: Mapping[str, Mapping[str, DecayedValue]]) -> bytes:
    """Affinities by kind and name as a row carries them; nothing where there are none."""
    return msgspec.msgpack.encode(affinities) if affinities else b""


class OffsetEvent(RegionalMessage, frozen=True, kw_only=True):
    """A logged event with its place in the log."""

    offset: Regional[int]
    """From 1 upwards inside its partition."""
    logged: Regional[LoggedEvent]
    partition: Regional[int] = 0
    """The log's partition; all events of a subject are in the same one."""
    broken: Regional[str] = ""
    """Why the record cannot be applied; then `logged` stands for nothing and `content` holds the record's bytes."""
    content: Regional[bytes] = b""


class AppliedChange(RegionalMessage, frozen=True, kw_only=True):
    """What applying a batch changed for one subject."""

    subject: Regional[str]
    version: Regional[int]
    consumed: Regional[tuple[str, ...]]
    """Items that entered the subject's history."""


class ItemCount(RegionalMessage, frozen=True, kw_only=True):
    """How an item trends inside a window of time, in this region: points as the event weights say (`trend`)."""

    item: Regional[str]
    count: Regional[float]


class ItemCounters(RegionalMessage, frozen=True, kw_only=True):
    """What happened to an item in this region inside a window of time, counted exactly.

    Interactions are events that enter a history with a strength of at least `INTEREST_STRENGTH`.
    """

    item: Regional[str]
    impressions: Regional[int] = 0
    clicks: Regional[int] = 0
    interactions: Regional[int] = 0
    purchases: Regional[int] = 0

    def click_rate(self, *, prior_rate: float, prior_impressions: float) -> float:
        """Clicks per impression, drawn towards `prior_rate` as if `prior_impressions` had been seen before."""
        shown = self.impressions + prior_impressions
        return (self.clicks + prior_rate * prior_impressions) / shown if shown > 0.0 else 0.0


Position = Mapping[int, int]
"""A place in the log: partition -> offset of the last event in front of it; 0 stands before a partition's first."""


class Erasure(RegionalMessage, frozen=True, kw_only=True):
    """That a subject was erased, so that nothing of before comes back. Kept under its `erasure_mark`, not its name."""

    erased_ms: Regional[int]
    through: Regional[dict[int, int]]
    """Where each partition of the log ended when the subject's records left it."""
    version: Regional[int] = 0
    """What the subject's row begins with, should it come back: an edge takes lists below for older ones."""

    def covers(self, record: OffsetEvent) -> bool:
        """Whether an event is of before: logged by then, or told late of a moment before."""
        logged_before = record.offset <= self.through.get(record.partition, 0)
        return logged_before or record.logged.event.at_ms <= self.erased_ms

    def after(self, earlier: "Erasure | None", *, version: int) -> "Erasure":
        """This one on top of an earlier one of the same subject, whose row had reached `version`."""
        if earlier is None:
            return Erasure(
                erased_ms=self.erased_ms, through=self.through, version=max(self.version, version + 1)
            )  # fmt: skip
        partitions = earlier.through.keys() | self.through.keys()
        return Erasure(
            erased_ms=max(self.erased_ms, earlier.erased_ms),
            through={one: max(earlier.through.get(one, 0), self.through.get(one, 0)) for one in sorted(partitions)},
            version=max(self.version, earlier.version + 1, version + 1),
        )


class Forgotten(RegionalMessage, frozen=True, kw_only=True):
    """What a store had of a subject that it forgot."""

    rows: Regional[int]
    erasure: Regional[Erasure]
    """As it is kept; its version is what edges are told."""


class Walk(RegionalMessage, frozen=True, kw_only=True):
    """Some users' rows, and where to go on; `after` is empty when there are no more."""

    rows: Regional[tuple[UserRow, ...]]
    after: Regional[str] = ""


def walked(found: Sequence[UserRow], *, limit: int) -> Walk:
    """The walk's step over rows that a store found behind a place, sessions and opted-out users among them."""
    users = tuple(row for row in found if row.history and not row.opted_out and not is_session(row.subject))
    return Walk(rows=users, after=found[-1].subject if len(found) == limit else "")


class Store(Protocol):
    """One writer (the worker) applies events; many readers. Every call may raise `StoreUnavailableError`."""

    async def read(self, subject: str) -> UserRow | None:
        """The subject's row; one partition read. None for a subject never heard of."""
        ...

    async def apply(self, events: Sequence[OffsetEvent]) -> list[AppliedChange]:
        """Apply events, each partition's in log order, and remember the last offset of each: exactly once in effect.

        An event that was applied before has no effect, so a worker killed in between may simply repeat, from any
        offset that it had reached and in batches of any size.
        """
        ...

    async def applied_offsets(self) -> dict[int, int]:
        """The offset up to which each partition's events are applied; partitions of which none is are left out."""
        ...

    async def set_opt_out(self, subject: str, *, opted_out: bool) -> int:
        """Set the subject's choice; returns the new version."""
        ...

    async def write_rows(self, rows: Sequence[UserRow]) -> None:
        """Put whole rows (import of an existing history); replaces what is there."""
        ...

    async def walk(self, *, after: str, limit: int) -> Walk:
        """Rows of users with a history who have not opted out, at most `limit`, behind the subject `after`.

        A walk from the start (empty) meets each row that is there throughout exactly once, in the store's own order.
        """
        ...

    async def write_counts(self, events: Sequence[OffsetEvent]) -> None:
        """Count imported events over items (trends and counters); no row is changed and no offset moves.

        Their partition is `region.store.aggregates.IMPORTED`, which no log has, and their offsets rise: an import that
        broke off is run again and counts nothing twice.
        """
        ...

    async def trending(self, *, since_ms: int, limit: int, category: str | None = None) -> list[ItemCount]:
        """Items by points since a moment (to the bucket), most first; of one category when it is given.

        Exact while a bucket holds few items, else as exact as its sketch (`region.store.aggregates`).
        """
        ...

    async def item_counters(self, *, since_ms: int, limit: int) -> list[ItemCounters]:
        """Counters of the items most shown or interacted with since a moment (to the day), most first."""
        ...

    async def forget(self, subject: str, erasure: Erasure) -> Forgotten:
        """Erase the subject's row and keep the erasure: no event that it covers and no import brings the row back.

        The choice about personal lists goes with the row. Until the subject is heard of again `read` gives an empty
        row that only has a version. Forgetting twice is forgetting once, later.
        """
        ...

    async def erasure(self, subject: str) -> Erasure | None:
        """The erasure kept of a subject."""
        ...

    async def holds(self, subject: str) -> int:
        """Rows kept of a subject: 0 or 1."""
        ...

    async def scrub(self) -> str:
        """Have the bytes of what was forgotten leave the store's files too; returns what cannot, "" if all did."""
        ...

    async def deposits(self, *, erased_ms: int) -> tuple[Deposit, ...]:
        """Where bytes of the row of a subject that was erased at a moment may still lie, and what they are good for."""
        ...

    async def renew(self) -> None:
        """Let go of what connections hold in memory of before; the next calls open them anew."""
        ...

    async def expire(
        self, *, sessions_before_ms: int, counts_before_ms: int, users_before_ms: int = 0, erasures_before_ms: int = 0
    ) -> int:  # fmt: skip
        """Forget sessions, counts and users' rows that were not touched since, and older erasures; says how many went.

        Of a user who opted out the choice stays, and nothing else. A store whose rows carry a time to live forgets by
        itself what has one.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
