"""The store on Cassandra: one keyspace in the region's own cluster, replicated inside it only.

Cassandra has no transaction over several partitions. Applying a batch is exactly once in effect all the same:

1. Aggregates are written first, then rows, then the position in the log. Each value knows the offset of the last
   event in it (`region.store.applying`), so whatever was written before a kill passes the repeated events over.
2. A row is written by a conditional update (Paxos) on the revision that was read. So it may be written by the worker,
   by the API (an opt-out) and, by mistake, by a second worker at once, and none undoes another's work:

   * worker reads revision 7; the API writes the opt-out as revision 8; the worker's update finds 8 instead of 7, has no
     effect, and the worker applies the subject's events again to what is there now;
   * two workers apply the same events: the second finds the first's revision, reads the row, and its offset says that
     the events are in;
   * an update whose answer is lost may have happened or not: the call fails, the batch is repeated, the offset in the
     row tells.
3. Aggregates and the position have one writer per partition of the log. Should there be two by mistake, a value is a
   function of the log up to its offset, and the offset is the write's timestamp: the one that comes late loses.

What has a life carries it as time to live: rows of sessions and users, counts. Of a user who opted out the bare choice
stays, in columns without one.

What a row says lies under its subject's key (`region.store.sealed`), which is kept in tables beside it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry

from infra.contracts.features import ITEM_BUCKET_MS, TREND_BUCKET_MS
from infra.plumbing.addresses import PartAddress
from infra.plumbing.clock import Clock
from infra.plumbing.http.tls import ClientTls
from region.keeping.deposits import Deposit
from region.keeping.sealing import Seals
from region.store.aggregates import (
    EVERYTHING,
    ITEM,
    AggregateKey,
    bucket_of,
    counted_anew,
    keys_of,
    merge_trends,
    offset_of,
    sum_counters,
)
from region.store.applying import COUNTS_LIFE_MS, ApplyRules, apply_events, choose, replace_state
from region.store.cassandra_deposits import read_facts, row_deposits
from region.store.cassandra_link import CassandraLink, Row
from region.store.cassandra_rows import FIRST_REVISION, CassandraRows, Loaded
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
from region.store.sealed import RowSeals
from region.store.state import (
    SubjectState,
    begin_state,
    decode_erasure,
    encode_erasure,
    to_row,
)
from region.store.subjects import erasure_mark

T = TypeVar("T")
A = TypeVar("A")
Change = Callable[[SubjectState | None, Erasure | None], SubjectState | None]
"""From a subject's state and erasure to its new state; None: nothing is written."""
AT_ONCE_MAX = 64
"""Rows loaded or written at the same time by one `apply`."""
CONFLICTS_MAX = 16
"""So often a row is tried again because somebody else wrote it meanwhile."""
ERASURE_LIFE_S = 730 * 86_400
"""As long as a log, or a copy of it, may hold what was erased, and a phone tell of it."""
_WRITE_TIMEOUT_S = 10.0
_SEAL_PAGE = 500


class CassandraStore:
    """`region.store.port.Store` over a keyspace. Connects by itself; until then calls say that it is unavailable.

    Args:
        address: see `CassandraLink`.
        clock: for what the store itself notes (opt-outs, imports).
        rules: how events are applied, and how long rows live.
        registry: where calls that could not be served are counted.
        read_timeout_s: how long a single-row read may take before `StoreUnavailableError`.
        scan_timeout_s: the same for `trending` and `item_counters`.
        write_timeout_s: the same for calls that no request waits for.
        seals: makes, over the store's own connections, the seals of rows (`region.store.sealed`); None: they lie in
            the clear.
        tls: how nodes are called; None: in plain.

    Raises:
        SettingsError: a name in the address, or a TLS file, cannot be used.
    """

    def __init__(
        self, address: PartAddress, *, clock: Clock, rules: ApplyRules, registry: CollectorRegistry | None = None,
        read_timeout_s: float = 0.1, scan_timeout_s: float = 2.0, write_timeout_s: float = _WRITE_TIMEOUT_S,
        seals: Callable[[CassandraLink], Seals] | None = None, tls: ClientTls | None = None,
    ) -> None:  # fmt: skip
        registry = registry if registry is not None else CollectorRegistry()
        self._link = CassandraLink(address, registry=registry, tls=tls)
        opened = RowSeals(seals(self._link) if seals is not None else None, registry=registry)
        self._rows = CassandraRows(self._link, opened, rules=rules, timeout_s=write_timeout_s)
        self._clock = clock
        self._rules = rules
        self._read_timeout_s = read_timeout_s
        self._scan_timeout_s = scan_timeout_s
        self._write_timeout_s = write_timeout_s

    async def read(self, subject: str) -> UserRow | None:
        """The subject's row, or None."""
        row = await self._rows.read(subject, timeout_s=self._read_timeout_s)
        if row is not None:
            return row
        erasure = await self._load_erasure(subject, timeout_s=self._read_timeout_s)
        return to_row(subject, begin_state(erasure).row) if erasure is not None else None

    async def apply(self, events: Sequence[OffsetEvent]) -> list[AppliedChange]:
        """Apply events behind the applied offsets: aggregates, then rows, then offsets."""
        whole = [event for event in events if not event.broken]
        keys = dict.fromkeys(key for event in whole for key in keys_of(event, self._rules.weights))
        # What was applied before is loaded in vain; that is rare, and everything at once saves the others two trips.
        applied, _, (loaded, erasures), aggregates = await asyncio.gather(
            self.applied_offsets(),
            self._rows.epoch(),
            self._load_rows(list(dict.fromkeys(event.logged.subject for event in whole))),
            _at_once(self._load_aggregate, keys),
        )
        pending = [event for event in events if event.offset > applied.get(event.partition, 0)]
        if not pending:
            return []
        outcome = apply_events(
            pending, applied=applied, load=lambda subject: loaded[subject][0], load_aggregate=dict(aggregates).get,
            load_erasure=erasures.get, rules=self._rules,
        )  # fmt: skip
        await _at_once(self._save_aggregate, outcome.aggregates.items())

        async def save(subject: str) -> list[AppliedChange] | None:
            if await self._write(subject, outcome.states[subject], loaded[subject][1], erasures[subject]):
                return None
            return await self._apply_again(subject, [one for one in whole if one.logged.subject == subject])

        saved = dict(zip(outcome.states, await _at_once(save, outcome.states), strict=True))
        changes = [change for change in outcome.changes if saved[change.subject] is None]
        changes += [change for again in saved.values() if again for change in again]
        await _at_once(self._save_offset, outcome.offsets.items())
        return changes

    async def applied_offsets(self) -> dict[int, int]:
        """The offset up to which each partition's events are applied."""
        found = await self._link.ask("read_offsets", (), timeout_s=self._scan_timeout_s)
        return dict(found)

    async def set_opt_out(self, subject: str, *, opted_out: bool) -> int:
        """Set the subject's choice; returns the new version."""
        chosen = 0

        def change(state: SubjectState | None, erasure: Erasure | None) -> SubjectState:
            nonlocal chosen
            state = state or begin_state(erasure)
            chosen = choose(state, opted_out=opted_out, now_ms=self._clock.now_ms())
            return state

        await self._change(subject, change)
        return chosen

    async def write_rows(self, rows: Sequence[UserRow]) -> None:
        """Put whole rows, each by itself: an import that broke off is run again."""

        async def write(row: UserRow) -> None:
            def change(old: SubjectState | None, erasure: Erasure | None) -> SubjectState | None:
                if erasure is not None:
                    return None
                return replace_state(old, row, now_ms=self._clock.now_ms(), rules=self._rules)

            await self._change(row.subject, change)

        await _at_once(write, rows)

    async def walk(self, *, after: str, limit: int) -> Walk:
        """Users' rows behind `after`, by its token: in the order in which Cassandra keeps partitions."""
        query, values = ("walk_on", (after, limit)) if after else ("walk_first", (limit,))
        found = await self._link.ask_all(query, values, timeout_s=self._scan_timeout_s)
        rows = await _at_once(lambda one: self._rows.row_of(*one, timeout_s=self._scan_timeout_s), found)
        return walked(rows, limit=limit)

    async def write_counts(self, events: Sequence[OffsetEvent]) -> None:
        """Count imported events over items; each value by itself, and none twice when it is run again."""
        keys = dict.fromkeys(key for event in events for key in keys_of(event, self._rules.weights))
        aggregates = dict(await _at_once(self._load_aggregate, keys))
        changed = counted_anew(events, aggregates.get, weights=self._rules.weights)
        await _at_once(self._save_aggregate, changed.items())

    async def trending(self, *, since_ms: int, limit: int, category: str | None = None) -> list[ItemCount]:
        """Items by points since a moment (to the bucket), most first."""
        scope = EVERYTHING if category is None else category
        found = await self._link.ask_all(
            "trending", (_scope(scope), since_ms - TREND_BUCKET_MS), timeout_s=self._scan_timeout_s
        )
        # Of a large region these are hundreds of thousands of values: requests go on meanwhile.
        return await asyncio.to_thread(merge_trends, (content for (content,) in found), limit=limit)

    async def item_counters(self, *, since_ms: int, limit: int) -> list[ItemCounters]:
        """Counters of the items most shown or interacted with since a moment (to the day)."""
        now_ms = self._clock.now_ms()
        first = bucket_of(max(since_ms, now_ms - COUNTS_LIFE_MS), ITEM_BUCKET_MS)
        # Phones' clocks may be minutes ahead: the day after today may have begun.
        days = range(first, bucket_of(now_ms, ITEM_BUCKET_MS) + 2 * ITEM_BUCKET_MS, ITEM_BUCKET_MS)

        async def day(bucket_ms: int) -> list[Row]:
            return await self._link.ask_all("item_days", (bucket_ms,), timeout_s=self._scan_timeout_s)

        found = await _at_once(day, days)
        pairs = ((item, content) for one in found for item, content in one)
        return await asyncio.to_thread(sum_counters, pairs, limit=limit)

    async def forget(self, subject: str, erasure: Erasure) -> Forgotten:
        """Keep the erasure, then delete the row: a worker that loads it meanwhile finds the one or misses the other."""
        found = await self._rows.kept(subject)
        version = await self._rows.version_of(found) if found is not None else 0
        kept = erasure.after(await self.erasure(subject), version=version)
        await self._link.ask(
            "save_erasure", (erasure_mark(subject), encode_erasure(kept), ERASURE_LIFE_S),
            timeout_s=self._write_timeout_s,
        )  # fmt: skip
        await self._link.ask("forget_subject", (subject,), timeout_s=self._write_timeout_s)
        return Forgotten(rows=int(found is not None), erasure=kept)

    async def erasure(self, subject: str) -> Erasure | None:
        """The erasure kept of a subject."""
        return await self._load_erasure(subject, timeout_s=self._write_timeout_s)

    async def holds(self, subject: str) -> int:
        """Rows kept of a subject."""
        return int(await self._rows.kept(subject) is not None)

    async def scrub(self) -> str:
        """Nothing can be done from here: what was deleted leaves the data files when Cassandra compacts them."""
        return (
            "deleted; what rows said opens no more without their keys; that there were rows leaves Cassandra's data "
            "files with compaction after gc_grace_seconds"
        )

    async def deposits(self, *, erased_ms: int) -> tuple[Deposit, ...]:
        """Data files, commit log, hints, Paxos and snapshots, by what the nodes say of themselves."""
        return row_deposits(await read_facts(self._link), erased_ms=erased_ms, sealed=self._rows.are_sealed)

    async def expire(
        self, *, sessions_before_ms: int, counts_before_ms: int, users_before_ms: int = 0, erasures_before_ms: int = 0  # noqa: ARG002
    ) -> int:  # fmt: skip
        """Nothing is left to do: everything that has a life carries it as time to live."""
        return 0

    async def renew(self) -> None:
        """Let go of the keys of rows."""
        await self._rows.renew()

    async def seal_rows(self) -> int:
        """Put every row of before there were keys under its subject's; returns how many. May be broken off."""
        await self._rows.epoch()
        sealed, after = 0, ""
        while True:
            query, values = ("walk_on", (after, _SEAL_PAGE)) if after else ("walk_first", (_SEAL_PAGE,))
            page = await self._link.ask_all(query, values, timeout_s=self._scan_timeout_s)
            sealed += sum(await _at_once(self._rows.seal, (subject for subject, _ in page)))
            if len(page) < _SEAL_PAGE:
                return sealed
            after = page[-1][0]

    async def close(self) -> None:
        """Let go of connections."""
        await self._link.close()

    async def _apply_again(self, subject: str, events: Sequence[OffsetEvent]) -> list[AppliedChange]:
        """Somebody else wrote the row meanwhile: apply to what is there now. What was counted stays counted."""
        changes: list[AppliedChange] = []

        def change(state: SubjectState | None, erasure: Erasure | None) -> SubjectState | None:
            outcome = apply_events(
                events, applied={}, load=lambda _: state, load_erasure=lambda _: erasure, rules=self._rules
            )
            changes[:] = outcome.changes
            return outcome.states.get(subject)  # None: an erasure covers all of them

        await self._change(subject, change)
        return changes

    async def _change(self, subject: str, change: Change) -> None:
        """Read, change, write if nobody else did meanwhile; else again.

        Raises:
            StoreUnavailableError: somebody else always did.
        """
        for _ in range(CONFLICTS_MAX):
            epoch = await self._rows.epoch()
            state, revision = await self._rows.load(subject)
            erasure = await self.erasure(subject)  # behind the row, as `_load_rows` says
            new = change(state, erasure)
            if new is None:
                return
            if await self._write(subject, new, revision, erasure) and await self._rows.stays(subject, epoch):
                return
        raise StoreUnavailableError("a row is written by too many at once.")

    async def _write(self, subject: str, state: SubjectState, revision: int | None, erasure: Erasure | None) -> bool:
        """Write a row that was made by what was read; whether it stands.

        A row that was there and went is a conflict. A first row is none, and would bring back what was erased::

            worker reads: no row, no erasure ............................ writes the first row: nothing hinders it
                                   erased: key, mark, row (there is none)

        so it is taken back when the subject's mark is another one by then.
        """
        if not await self._rows.save(subject, state, revision):
            return False
        if revision is not None or await self.erasure(subject) == erasure:
            return True
        await self._link.ask("forget_begun", (subject, FIRST_REVISION), timeout_s=self._write_timeout_s)
        return False

    async def _load_rows(self, subjects: list[str]) -> tuple[dict[str, Loaded], dict[str, Erasure | None]]:
        # The erasures last: a row of before one that was just kept is older than it, and its update has no effect.
        loaded = dict(await _at_once(self._rows.named, subjects))
        return loaded, dict(zip(subjects, await _at_once(self.erasure, subjects), strict=True))

    async def _save_offset(self, applied: tuple[int, int]) -> None:
        partition, offset = applied
        await self._link.ask("save_offset", (partition, offset, offset), timeout_s=self._write_timeout_s)

    async def _load_erasure(self, subject: str, *, timeout_s: float) -> Erasure | None:
        found = await self._link.ask("load_erasure", (erasure_mark(subject),), timeout_s=timeout_s)
        return decode_erasure(found[0][0]) if found else None

    async def _load_aggregate(self, key: AggregateKey) -> tuple[AggregateKey, bytes | None]:
        query = "load_item_day" if key.kind == ITEM else "load_trend"
        found = await self._link.ask(query, _place(key), timeout_s=self._write_timeout_s)
        return key, found[0][0] if found else None

    async def _save_aggregate(self, changed: tuple[AggregateKey, bytes]) -> None:
        key, content = changed
        query = "save_item_day" if key.kind == ITEM else "save_trend"
        values = (*_place(key), content, COUNTS_LIFE_MS // 1000, offset_of(content))
        await self._link.ask(query, values, timeout_s=self._write_timeout_s)


def _place(key: AggregateKey) -> tuple[str | int, ...]:
    """The primary key of an aggregate in its table."""
    if key.kind == ITEM:
        return key.bucket_ms, key.scope, key.partition
    return _scope(key.scope), key.bucket_ms, key.partition


def _scope(scope: str) -> str:
    """A partition key may not be empty."""
    return f"category:{scope}" if scope else "everything"


async def _at_once(work: Callable[[A], Awaitable[T]], given: Iterable[A]) -> list[T]:
    """`work` on everything given, a bounded number at a time, in order; the first failure ends the others."""
    room = asyncio.Semaphore(AT_ONCE_MAX)

    async def one(argument: A) -> T:
        async with room:
            return await work(argument)

    tasks = [asyncio.ensure_future(one(argument)) for argument in given]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
