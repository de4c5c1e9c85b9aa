"""What a region's store says of a stream, against what the stream's acknowledgements promise: lost, and doubled."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from infra.bench.intake.stream import Stream, event_of, subject_of
from infra.contracts.events import DEFAULT_WEIGHTS, EventType, enters_history
from infra.contracts.features import INTEREST_STRENGTH
from region.events.port import Log
from region.store.port import Store, UserRow

APPLIED_WITHIN_S = 240.0
_POLL_S = 0.2
_SUBJECT_COUNTERS = {
    "clicks": EventType.CLICK, "skips": EventType.SKIP, "searches": EventType.SEARCH, "carts": EventType.CART,
    "purchases": EventType.PURCHASE,
}  # fmt: skip


@dataclass
class Account:
    """Differences, by what was counted."""

    lost: Counter[str] = field(default_factory=Counter)
    doubled: Counter[str] = field(default_factory=Counter)

    def compare(self, what: str, expected: int, found: int) -> None:
        """Note a count that is not what it must be."""
        self.lost[what] += max(0, expected - found)
        self.doubled[what] += max(0, found - expected)

    @property
    def worst(self) -> tuple[int, int]:
        """The largest loss and the largest excess of any count: one event shows in several of them."""
        return max(self.lost.values(), default=0), max(self.doubled.values(), default=0)


async def applied(log: Log, store: Store) -> bool:
    """Wait until the store has taken in the whole log; whether it did in time."""
    try:
        async with asyncio.timeout(APPLIED_WITHIN_S):
            while True:
                ends = {partition: end for partition, end in (await log.last_offsets()).items() if end}
                if await store.applied_offsets() == ends:
                    return True
                await asyncio.sleep(_POLL_S)  # the store tells nobody
    except TimeoutError:
        return False


async def account_of(stream: Stream, store: Store) -> Account:
    """Hold every row and every count over items against the stream. The store must keep whole histories."""
    account, items, trend = Account(), dict[str, Counter[str]](), 0
    for subject in range(stream.subjects):
        row = await store.read(subject_of(subject))
        _compare_row(account, stream, subject, row if row is not None else UserRow(subject=subject_of(subject)))
        for kind, item, value in _events(stream, subject):
            effect = DEFAULT_WEIGHTS.of(kind, value)
            trend += effect.trend * enters_history(kind)
            counts = items.setdefault(item, Counter())
            counts["impressions"] += kind is EventType.IMPRESSION
            counts["clicks"] += kind is EventType.CLICK
            counts["purchases"] += kind is EventType.PURCHASE
            counts["interactions"] += enters_history(kind) and effect.strength >= INTEREST_STRENGTH
    since_ms = stream.first_ms - 3_600_000
    for counted in await store.item_counters(since_ms=since_ms, limit=len(items)):
        expected = items.pop(counted.item, Counter())
        for name in ("impressions", "clicks", "purchases", "interactions"):
            account.compare(f"items' {name}", expected[name], getattr(counted, name))
    for name in ("impressions", "clicks", "purchases", "interactions"):
        account.compare(f"items' {name}", sum(counts[name] for counts in items.values()), 0)
    points = await store.trending(since_ms=since_ms, limit=stream.per_subject)
    account.compare("trending points", trend, round(sum(one.count for one in points)))
    return account


def _events(stream: Stream, subject: int) -> Iterator[tuple[EventType, str, float | None]]:
    for number in range(stream.per_subject):
        event = event_of(subject, number, stream.first_ms)
        yield event.type, event.item, event.value


def _followed(stream: Stream, subject: int) -> list[str]:
    """What the subject follows in the end, by the events alone."""
    following: dict[str, None] = {}
    for number in range(stream.per_subject):
        event = event_of(subject, number, stream.first_ms)
        if event.follows is not None:
            following.pop(event.follows, None)
            if event.type is EventType.FOLLOW:
                following[event.follows] = None
    return list(following)


def _compare_row(account: Account, stream: Stream, subject: int, row: UserRow) -> None:
    kinds = Counter(kind for kind, _, _ in _events(stream, subject))
    expected = [item for kind, item, _ in _events(stream, subject) if enters_history(kind)]
    found = Counter(entry.item for entry in row.history)
    account.lost["history"] += sum((Counter(expected) - found).values())
    account.doubled["history"] += sum((found - Counter(expected)).values())
    account.compare("interactions", len(expected), row.counters.interactions)
    account.compare("impressions", kinds[EventType.IMPRESSION], row.impressions)
    for name, kind in _SUBJECT_COUNTERS.items():
        account.compare(name, kinds[kind], getattr(row.counters, name))
    followed = _followed(stream, subject)
    account.lost["follows"] += len(set(followed) - set(row.follows))
    account.doubled["follows"] += len(set(row.follows) - set(followed))
    # Every event but impressions and searches raises the version by one.
    changes = stream.per_subject - kinds[EventType.IMPRESSION] - kinds[EventType.SEARCH]
    account.compare("versions", changes, row.version)
