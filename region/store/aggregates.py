"""What a region counts about items: trending by category in sketches, and exact counters per item and day.

An adapter keeps one value (bytes) per `AggregateKey` and looks into none. Every value knows the offset of the last
event in it, so an event is never added twice, whatever the adapter's transactions can do.

Trending: one frequent-items sketch per bucket of TREND_BUCKET_MS and category (Apache DataSketches; Anderson et al.,
"A High-Performance Algorithm for Identifying Frequent Items in Data Streams", 2017). A sketch is exact until it
holds 3/4 of 2^lg items; beyond that a count is low by at most its epsilon times the bucket's points. Sketches of
buckets merge, and so would sketches of two workers.
"""

import heapq
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec
from datasketches import frequent_items_error_type, frequent_strings_sketch

from infra.contracts.events import EventType, EventWeights, enters_history
from infra.contracts.features import INTEREST_STRENGTH, ITEM_BUCKET_MS, TREND_BUCKET_MS
from region.store.port import ItemCount, ItemCounters, OffsetEvent

TREND, ITEM = "trend", "item"
EVERYTHING = ""
"""The scope of the trend over all categories."""
IMPORTED = -1
"""The partition of events that came with an import and stand in no log."""
CATEGORIES_PER_EVENT_MAX = 8
_LG_EVERYTHING, _LG_CATEGORY, _LG_MERGED = 11, 9, 14
"""2^lg slots, 3/4 of them used: 1,536 items a bucket, 384 of a category (at most 45 and 12 KB), 12,288 merged."""


class AggregateKey(NamedTuple):
    """`kind` is TREND (scope: a category, or EVERYTHING) or ITEM (scope: an item)."""

    kind: str
    scope: str
    bucket_ms: int
    """First millisecond of the bucket."""
    partition: int
    """The log's partition whose events are counted: whoever works off a partition is the only writer of its keys."""


class _Sketched(msgspec.Struct, array_like=True, frozen=True):
    offset: int
    sketch: bytes


class _Counted(msgspec.Struct, array_like=True):
    offset: int = 0
    impressions: int = 0
    clicks: int = 0
    interactions: int = 0
    purchases: int = 0


_ENCODER = msgspec.msgpack.Encoder()
_SKETCHED = msgspec.msgpack.Decoder(_Sketched)
_COUNTED = msgspec.msgpack.Decoder(_Counted)
Load = Callable[[AggregateKey], bytes | None]


def bucket_of(at_ms: int, width_ms: int = TREND_BUCKET_MS) -> int:
    """First millisecond of the bucket that a moment falls into."""
    return at_ms - at_ms % width_ms


def keys_of(record: OffsetEvent, weights: EventWeights) -> list[AggregateKey]:
    """The aggregates that an event may change: for adapters that fetch before they apply."""
    event, partition = record.logged.event, record.partition
    keys = [AggregateKey(ITEM, event.item, bucket_of(event.at_ms, ITEM_BUCKET_MS), partition)] if event.item else []
    if enters_history(event.type) and weights.of(event.type, event.value).trend:
        bucket_ms = bucket_of(event.at_ms)
        scopes = (EVERYTHING, *dict.fromkeys(filter(None, record.logged.labels.categories[:CATEGORIES_PER_EVENT_MAX])))
        keys += [AggregateKey(TREND, scope, bucket_ms, partition) for scope in scopes]
    return keys


class Aggregates:
    """The aggregates that a batch touches, while it is applied."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._trends: dict[AggregateKey, tuple[int, frequent_strings_sketch]] = {}
        self._items: dict[AggregateKey, _Counted] = {}
        self._changed: set[AggregateKey] = set()

    def add(self, record: OffsetEvent, *, weights: EventWeights) -> None:
        """Count an event that counts for its subject."""
        event = record.logged.event
        effect = weights.of(event.type, event.value)
        for key in keys_of(record, weights):
            if key.kind == ITEM:
                self._add_item(key, event.type, effect.strength, record.offset)
            else:
                self._add_trend(key, event.item, effect.trend, record.offset)

    def encoded(self) -> dict[AggregateKey, bytes]:
        """What changed, to be written."""
        return {
            key: _ENCODER.encode(
                self._items[key]
                if key.kind == ITEM
                else _Sketched(self._trends[key][0], self._trends[key][1].serialize())
            )
            for key in self._changed
        }

    def _add_item(self, key: AggregateKey, kind: EventType, strength: int, offset: int) -> None:
        counted = self._items.get(key)
        if counted is None:
            content = self._load(key)
            counted = self._items[key] = _Counted() if content is None else _COUNTED.decode(content)
        interacts = enters_history(kind) and strength >= INTEREST_STRENGTH
        if offset <= counted.offset or not (interacts or kind in (EventType.IMPRESSION, EventType.CLICK)):
            return
        counted.impressions += kind is EventType.IMPRESSION
        counted.clicks += kind is EventType.CLICK
        counted.interactions += interacts
        counted.purchases += kind is EventType.PURCHASE
        counted.offset = offset
        self._changed.add(key)

    def _add_trend(self, key: AggregateKey, item: str, points: int, offset: int) -> None:
        found = self._trends.get(key)
        if found is None:
            content = self._load(key)
            if content is None:
                found = (0, frequent_strings_sketch(_LG_CATEGORY if key.scope else _LG_EVERYTHING))
            else:
                kept = _SKETCHED.decode(content)
                found = (kept.offset, frequent_strings_sketch.deserialize(kept.sketch))
        if offset > found[0]:
            found[1].update(item, points)
            found = (offset, found[1])
            self._changed.add(key)
        self._trends[key] = found


def counted_anew(events: Iterable[OffsetEvent], load: Load, *, weights: EventWeights) -> dict[AggregateKey, bytes]:
    """What the aggregates that `events` touch come to, all of which count."""
    aggregates = Aggregates(load)
    for event in events:
        aggregates.add(event, weights=weights)
    return aggregates.encoded()


def offset_of(content: bytes) -> int:
    """The offset of the last event in an aggregate's value."""
    decoder = msgspec.msgpack.decode(content)
    return int(decoder[0])


def merge_trends(contents: Iterable[bytes], *, limit: int) -> list[ItemCount]:
    """The `limit` items with the most points over several keys' sketches, most first, ties by name."""
    merged = frequent_strings_sketch(_LG_MERGED)
    for content in contents:
        merged.merge(frequent_strings_sketch.deserialize(_SKETCHED.decode(content).sketch))
    found = merged.get_frequent_items(frequent_items_error_type.NO_FALSE_NEGATIVES)
    best = heapq.nsmallest(limit, ((-estimate, item) for item, estimate, _low, _high in found))
    return [ItemCount(item=item, count=float(-estimate)) for estimate, item in best]


def sum_counters(contents: Iterable[tuple[str, bytes]], *, limit: int) -> list[ItemCounters]:
    """The `limit` items most shown or interacted with, from `(item, content)` of several keys, ties by name."""
    totals: dict[str, _Counted] = {}
    for item, content in contents:
        day = _COUNTED.decode(content)
        total = totals.setdefault(item, _Counted())
        total.impressions += day.impressions
        total.clicks += day.clicks
        total.interactions += day.interactions
        total.purchases += day.purchases
    best = heapq.nsmallest(
        limit, totals.items(), key=lambda pair: (-pair[1].impressions - pair[1].interactions, pair[0])
    )
    return [
        ItemCounters(
            item=item, impressions=one.impressions, clicks=one.clicks, interactions=one.interactions,
            purchases=one.purchases,
        )
        for item, one in best
    ]  # fmt: skip
