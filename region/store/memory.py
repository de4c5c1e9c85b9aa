"""The store in memory: what tests and other packages use in place of a database. Same rules, nothing durable."""

from collections.abc import Sequence

from infra.contracts.features import ITEM_BUCKET_MS, TREND_BUCKET_MS
from infra.plumbing.clock import Clock
from region.keeping.deposits import Deposit, in_memory
from region.store.aggregates import EVERYTHING, ITEM, TREND, AggregateKey, counted_anew, merge_trends, sum_counters
from region.store.applying import ApplyRules, apply_events, bare_state, choose, replace_state
from region.store.port import (
    AppliedChange,
    Erasure,
    Forgotten,
    ItemCount,
    ItemCounters,
    OffsetEvent,
    StoreUnavailableError,
    UserRow,
    Walk,
    walked,
)
from region.store.state import SubjectState, begin_state, decode_state, encode_content, encode_notes, row_of, to_row
from region.store.subjects import erasure_mark, is_session


class MemoryStore:
    """`region.store.port.Store` over dictionaries. Set `available` to False to see how callers bear its loss.

    It keeps encoded bytes as every adapter does, so that no state is shared with a caller.
    """

    def __init__(self, *, clock: Clock, history_max: int = 200, rules: ApplyRules | None = None) -> None:
        self.available = True
        self._clock = clock
        self._rules = rules if rules is not None else ApplyRules(history_max=history_max)
        self._rows: dict[str, tuple[bytes, bytes]] = {}
        self._aggregates: dict[AggregateKey, bytes] = {}
        self._applied: dict[int, int] = {}
        self._erasures: dict[str, Erasure] = {}

    async def read(self, subject: str) -> UserRow | None:
        """The subject's row, or None."""
        self._require()
        kept = self._rows.get(subject)
        if kept is not None:
            return row_of(subject, kept[0])
        erasure = self._erasure(subject)
        return to_row(subject, begin_state(erasure).row) if erasure is not None else None

    async def apply(self, events: Sequence[OffsetEvent]) -> list[AppliedChange]:
        """Apply events behind the applied offset."""
        self._require()
        outcome = apply_events(
            events, applied=self._applied, load=self._load, load_aggregate=self._aggregates.get,
            load_erasure=self._erasure, rules=self._rules,
        )  # fmt: skip
        self._aggregates.update(outcome.aggregates)
        self._save(outcome.states)
        self._applied.update(outcome.offsets)
        return outcome.changes

    async def applied_offsets(self) -> dict[int, int]:
        """The offset up to which each partition's events are applied."""
        self._require()
        return dict(self._applied)

    async def set_opt_out(self, subject: str, *, opted_out: bool) -> int:
        """Set the subject's choice; returns the new version."""
        self._require()
        state = self._load(subject) or begin_state(self._erasure(subject))
        version = choose(state, opted_out=opted_out, now_ms=self._clock.now_ms())
        self._save({subject: state})
        return version

    async def write_rows(self, rows: Sequence[UserRow]) -> None:
        """Put whole rows."""
        self._require()
        now_ms = self._clock.now_ms()
        for row in rows:
            if self._erasure(row.subject) is not None:
                continue
            state = replace_state(self._load(row.subject), row, now_ms=now_ms, rules=self._rules)
            self._save({row.subject: state})

    async def walk(self, *, after: str, limit: int) -> Walk:
        """Users' rows behind `after`, by subject."""
        self._require()
        behind = sorted(subject for subject in self._rows if subject > after)[:limit]
        return walked([row_of(subject, self._rows[subject][0]) for subject in behind], limit=limit)

    async def write_counts(self, events: Sequence[OffsetEvent]) -> None:
        """Count imported events over items."""
        self._require()
        self._aggregates.update(counted_anew(events, self._aggregates.get, weights=self._rules.weights))

    async def trending(self, *, since_ms: int, limit: int, category: str | None = None) -> list[ItemCount]:
        """Items by points since a moment (to the bucket), most first."""
        self._require()
        scope = EVERYTHING if category is None else category
        wanted = [
            content
            for key, content in sorted(self._aggregates.items())
            if key.kind == TREND and key.scope == scope and key.bucket_ms + TREND_BUCKET_MS > since_ms
        ]
        return merge_trends(wanted, limit=limit)

    async def item_counters(self, *, since_ms: int, limit: int) -> list[ItemCounters]:
        """Counters of the items most shown or interacted with since a moment (to the day)."""
        self._require()
        wanted = [
            (key.scope, content)
            for key, content in self._aggregates.items()
            if key.kind == ITEM and key.bucket_ms + ITEM_BUCKET_MS > since_ms
        ]
        return sum_counters(wanted, limit=limit)

    async def forget(self, subject: str, erasure: Erasure) -> Forgotten:
        """Erase the subject's row and keep the erasure."""
        self._require()
        state = self._load(subject)
        kept = erasure.after(self._erasure(subject), version=state.row.version if state is not None else 0)
        self._rows.pop(subject, None)
        self._erasures[erasure_mark(subject)] = kept
        return Forgotten(rows=int(state is not None), erasure=kept)

    async def erasure(self, subject: str) -> Erasure | None:
        """The erasure kept of a subject."""
        self._require()
        return self._erasure(subject)

    async def holds(self, subject: str) -> int:
        """Rows kept of a subject."""
        self._require()
        return int(subject in self._rows)

    async def scrub(self) -> str:
        """Nothing is on a disk."""
        return ""

    async def deposits(self, *, erased_ms: int) -> tuple[Deposit, ...]:  # noqa: ARG002
        """Nothing is on a disk."""
        return in_memory()

    async def expire(
        self, *, sessions_before_ms: int, counts_before_ms: int, users_before_ms: int = 0, erasures_before_ms: int = 0
    ) -> int:  # fmt: skip
        """Forget old sessions, counts and rows; returns how many."""
        self._require()
        now_ms, gone = max(self._clock.now_ms(), users_before_ms), 0
        for subject, kept in list(self._rows.items()):
            state = decode_state(*kept)
            if state.row.touched_ms >= (sessions_before_ms if is_session(subject) else users_before_ms):
                continue
            gone += 1
            if state.row.opted_out and not is_session(subject):
                self._save({subject: bare_state(state, now_ms=now_ms)})
            else:
                del self._rows[subject]
        buckets = [
            key
            for key in self._aggregates
            if key.bucket_ms + (ITEM_BUCKET_MS if key.kind == ITEM else TREND_BUCKET_MS) <= counts_before_ms
        ]
        for key in buckets:
            del self._aggregates[key]
        old = [mark for mark, erasure in self._erasures.items() if erasure.erased_ms < erasures_before_ms]
        for mark in old:
            del self._erasures[mark]
        return gone + len(buckets) + len(old)

    async def renew(self) -> None:
        """Nothing is held that could be let go of from here."""

    async def close(self) -> None:
        """Nothing to let go of."""

    def _erasure(self, subject: str) -> Erasure | None:
        return self._erasures.get(erasure_mark(subject))

    def _load(self, subject: str) -> SubjectState | None:
        kept = self._rows.get(subject)
        return decode_state(*kept) if kept is not None else None

    def _save(self, states: dict[str, SubjectState]) -> None:
        for subject, state in states.items():
            self._rows[subject] = (encode_content(state), encode_notes(state))

    def _require(self) -> None:
        if not self.available:
            raise StoreUnavailableError("the store does not answer.")
