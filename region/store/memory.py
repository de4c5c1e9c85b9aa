"""The store in memory: what tests and other packages use in place of a database. Same rules, nothing durable."""

from collections.abc import Sequence

from infra.plumbing.clock import Clock
from region.store.applying import BUCKET_MS, SubjectState, apply_events, replace_state, state_of
from region.store.port import AppliedChange, ItemCount, OffsetEvent, StoreUnavailableError, UserRow
from region.store.subjects import is_session


class MemoryStore:
    """`region.store.port.Store` over dictionaries. Set `available` to False to see how callers bear its loss."""

    def __init__(self, *, clock: Clock, history_max: int = 200) -> None:
        self.available = True
        self._clock = clock
        self._history_max = history_max
        self._states: dict[str, SubjectState] = {}
        self._counts: dict[tuple[int, str], int] = {}
        self._applied: dict[int, int] = {}

    async def read(self, subject: str) -> UserRow | None:
        """The subject's row, or None."""
        self._require()
        state = self._states.get(subject)
        return state.to_row(subject) if state is not None else None

    async def apply(self, events: Sequence[OffsetEvent]) -> list[AppliedChange]:
        """Apply events behind the applied offset."""
        self._require()
        outcome = apply_events(events, applied=self._applied, load=self._states.get, history_max=self._history_max)
        self._states.update(outcome.states)
        for key, count in outcome.counts.items():
            self._counts[key] = self._counts.get(key, 0) + count
        self._applied.update(outcome.offsets)
        return outcome.changes

    async def applied_offsets(self) -> dict[int, int]:
        """The offset up to which each partition's events are applied."""
        self._require()
        return dict(self._applied)

    async def set_opt_out(self, subject: str, *, opted_out: bool) -> int:
        """Set the subject's choice; returns the new version."""
        self._require()
        state = self._states.setdefault(subject, SubjectState())
        state.opted_out = opted_out
        state.version += 1
        state.touched_ms = self._clock.now_ms()
        return state.version

    async def write_rows(self, rows: Sequence[UserRow]) -> None:
        """Put whole rows."""
        self._require()
        for row in rows:
            self._states[row.subject] = replace_state(
                self._states.get(row.subject), state_of(row), history_max=self._history_max
            )

    async def trending(self, *, since_ms: int, limit: int) -> list[ItemCount]:
        """Items by interactions since a moment (to the bucket), most first."""
        self._require()
        totals: dict[str, int] = {}
        for (bucket_ms, item), count in self._counts.items():
            if bucket_ms + BUCKET_MS > since_ms:
                totals[item] = totals.get(item, 0) + count
        ranked = sorted(totals.items(), key=lambda pair: (-pair[1], pair[0]))[:limit]
        return [ItemCount(item=item, count=float(count)) for item, count in ranked]

    async def expire(self, *, sessions_before_ms: int, counts_before_ms: int) -> int:
        """Forget old sessions and counts; returns how many."""
        self._require()
        sessions = [
            subject
            for subject, state in self._states.items()
            if is_session(subject) and state.touched_ms < sessions_before_ms
        ]
        buckets = [key for key in self._counts if key[0] + BUCKET_MS <= counts_before_ms]
        for subject in sessions:
            del self._states[subject]
        for key in buckets:
            del self._counts[key]
        return len(sessions) + len(buckets)

    async def close(self) -> None:
        """Nothing to let go of."""

    def _require(self) -> None:
        if not self.available:
            raise StoreUnavailableError("the store does not answer.")
