"""The features of `region.store.applying` as Ibis expressions over a table of events: one definition, two engines.

Constants come from `infra.contracts.features`, weights and strengths came with the events (the region's own reviewed
file decided them when they were exported). Nothing here is DuckDB's or Spark's own.

A table of events has one row per event and key. A key is whoever's features are made: a subject, or a recorded
request, whose events are those of its subject up to the place in the log that its row stood at.
"""

from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from infra.contracts.features import (
    AFFINITY_HALF_LIFE_MS,
    AFFINITY_KINDS,
    INTEREST_STRENGTH,
    ITEM_BUCKET_MS,
    SESSION_GAP_MS,
    TREND_BUCKET_MS,
)

EVENT_COLUMNS = {
    "key": "string", "event_id": "string", "place": "int64", "at_ms": "int64", "received_ms": "int64",
    "type": "string", "item": "string", "strength": "int64", "weight": "float64", "points": "int64",
    "in_history": "boolean", "categories": "array<string>", "brand": "string", "creator": "string",
}  # fmt: skip
"""`place`: offset in the log; `weight`, `points`: affinity and trend of `infra/contracts/event_weights.toml`."""
COUNTED = {
    "clicks": "click", "skips": "skip", "searches": "search", "carts": "cart", "purchases": "purchase",
}  # fmt: skip
"""Counter of a subject -> the type of event that it counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Unevaluated tables. All are keyed by `key`, but for the two about items."""

    history: ir.Table
    """`position` (0: the latest), `item`, `strength`, `at_ms`."""
    affinities: ir.Table
    """`kind`, `name`, `value` as of `at_ms`, `names`: how many names the key has of that kind."""
    sessions: ir.Table
    """`started_ms`, `last_ms`, `events` of the latest session; `ordered`: whether no event came late."""
    counters: ir.Table
    """`impressions`, `interactions` and those of COUNTED."""
    leanings: ir.Table
    """`name`, `leaning`: the ranker's category affinity, `infra.contracts.features.category_affinity`."""
    trending: ir.Table
    """`category` (empty: all), `bucket_ms`, `item`, `points`."""
    items: ir.Table
    """`bucket_ms` (a day), `item`, `impressions`, `clicks`, `interactions`, `purchases`."""


def features_of(events: ir.Table, moments: ir.Table, *, history_max: int, behaviour_life_ms: int) -> Features:
    """Every feature of every key.

    Args:
        events: EVENT_COLUMNS; an event that is there twice counts once.
        moments: `key`, `now_ms`: when the ranker's leanings are asked for.
        history_max: entries of a history.
        behaviour_life_ms: how long after its receipt an interaction may stand in one.
    """
    once = _once(events)
    history = _history(once, history_max, behaviour_life_ms)
    return Features(
        history=history.select("key", "position", "item", "strength", "at_ms"),
        affinities=_affinities(once),
        sessions=_sessions(once),
        counters=_counters(once),
        leanings=_leanings(history, moments),
        trending=_trending(once),
        items=_items(once),
    )


def _once(events: ir.Table) -> ir.Table:
    first = ibis.row_number().over(group_by=[events.key, events.event_id], order_by=events.place)
    return events.mutate(again=first).filter(lambda t: t.again == 0).drop("again")


def _history(events: ir.Table, history_max: int, behaviour_life_ms: int) -> ir.Table:
    """The last interactions by time, ties by place in the log."""
    newest = events.received_ms.max().over(group_by=events.key)
    oldest_day = (newest - behaviour_life_ms) // ITEM_BUCKET_MS
    kept = events.mutate(oldest_day=oldest_day).filter(
        lambda t: t.in_history & (t.received_ms // ITEM_BUCKET_MS >= t.oldest_day)
    )
    position = ibis.row_number().over(group_by=kept.key, order_by=[kept.at_ms.desc(), kept.place.desc()])
    return kept.mutate(position=position).filter(lambda t: t.position < history_max)


def _fading(elapsed_ms: ir.NumericValue) -> ir.NumericValue:
    half_lives = elapsed_ms.cast("float64") / float(AFFINITY_HALF_LIFE_MS)
    return ibis.literal(2.0) ** (-half_lives)


def _named(events: ir.Table, kind: str) -> ir.Table:
    """Shares of weights by name, of one kind: a weight is shared among the categories of its item."""
    if kind == "category":
        some = events.mutate(parts=events.categories.length()).filter(lambda t: t.parts > 0)
        named = some.mutate(name=some.categories.unnest())
        share = named.weight / named.parts.cast("float64")
        return named.select("key", "at_ms", name="name", share=share, kind=ibis.literal(kind))
    some = events.filter(events[kind] != "")
    return some.select("key", "at_ms", name=some[kind], share=some.weight, kind=ibis.literal(kind))


def _affinities(events: ir.Table) -> ir.Table:
    """Sums of shares, each faded to the latest event of its name: what streaming keeps, without its bound of names."""
    weighty = events.filter(events.weight != 0.0)
    named = ibis.union(*(_named(weighty, kind) for kind in AFFINITY_KINDS))
    latest = named.at_ms.max().over(group_by=[named.key, named.kind, named.name])
    faded = named.mutate(latest_ms=latest)
    faded = faded.mutate(faded=faded.share * _fading(faded.latest_ms - faded.at_ms))
    summed = faded.group_by(["key", "kind", "name"]).agg(value=faded.faded.sum(), at_ms=faded.at_ms.max())
    return summed.mutate(names=summed.count().over(group_by=[summed.key, summed.kind]))


def _sessions(events: ir.Table) -> ir.Table:
    """The latest run of events without a pause: gaps and islands."""
    by_time = ibis.window(group_by=events.key, order_by=[events.at_ms, events.place])
    by_place = ibis.window(group_by=events.key, order_by=events.place)
    marked = events.mutate(before_ms=events.at_ms.lag().over(by_time), earlier_ms=events.at_ms.lag().over(by_place))
    pause = marked.before_ms.isnull() | (marked.at_ms - marked.before_ms > SESSION_GAP_MS)
    late = marked.earlier_ms.notnull() & (marked.at_ms < marked.earlier_ms)
    marked = marked.mutate(begins=pause.ifelse(1, 0), late=late.ifelse(1, 0))
    running = ibis.cumulative_window(group_by=marked.key, order_by=[marked.at_ms, marked.place])
    numbered = marked.mutate(session=marked.begins.sum().over(running))
    per_session = numbered.group_by(["key", "session"]).agg(
        started_ms=numbered.at_ms.min(), last_ms=numbered.at_ms.max(), events=numbered.count(), late=numbered.late.sum()
    )
    last = per_session.mutate(
        newest=per_session.session.max().over(group_by=per_session.key),
        all_late=per_session.late.sum().over(group_by=per_session.key),
    )
    last = last.filter(last.session == last.newest)
    return last.select("key", "started_ms", "last_ms", "events", ordered=last.all_late == 0)


def _sum_where(condition: ir.BooleanValue) -> ir.IntegerScalar:
    return condition.ifelse(1, 0).sum()


def _counters(events: ir.Table) -> ir.Table:
    counted = {name: _sum_where(events.type == kind) for name, kind in COUNTED.items()}
    return events.group_by("key").agg(
        impressions=_sum_where(events.type == "impression"), interactions=_sum_where(events.in_history), **counted
    )


def _leanings(history: ir.Table, moments: ir.Table) -> ir.Table:
    """Category affinity as the ranker reads it: strengths over 5, dislikes against, faded to the request."""
    asked = history.join(moments, "key")
    sign = (asked.strength == 1).ifelse(-1.0, asked.strength.cast("float64") / 5.0)
    elapsed_ms = ibis.greatest(asked.now_ms - asked.at_ms, 0)
    asked = asked.mutate(lean=sign * _fading(elapsed_ms))
    asked = asked.mutate(total=asked.lean.abs().sum().over(group_by=asked.key))
    some = asked.mutate(parts=asked.categories.length()).filter(lambda t: t.parts > 0)
    named = some.mutate(name=some.categories.unnest())
    share = named.lean / ibis.greatest(named.total, 1e-9) / named.parts.cast("float64")
    return named.mutate(share=share).group_by(["key", "name"]).agg(leaning=lambda t: t.share.sum())


def _bucket(at_ms: ir.IntegerValue, width_ms: int) -> ir.IntegerValue:
    return at_ms - at_ms % width_ms


def _trending(events: ir.Table) -> ir.Table:
    counted = events.filter(events.in_history & (events.points > 0))
    counted = counted.mutate(bucket_ms=_bucket(counted.at_ms, TREND_BUCKET_MS))
    everything = counted.select("bucket_ms", "item", "points", category=ibis.literal(""))
    some = counted.filter(counted.categories.length() > 0)
    distinct = some.mutate(category=some.categories.unnest()).distinct(
        on=["key", "event_id", "category"], keep="first"
    )  # an item that names a category twice counts once in it
    by_category = distinct.select("bucket_ms", "item", "points", "category")
    both = ibis.union(everything, by_category)
    return both.group_by(["category", "bucket_ms", "item"]).agg(points=both.points.sum())


def _items(events: ir.Table) -> ir.Table:
    named = events.filter(events.item != "").mutate(bucket_ms=_bucket(events.at_ms, ITEM_BUCKET_MS))
    interested = named.in_history & (named.strength >= INTEREST_STRENGTH)
    counted = named.group_by(["bucket_ms", "item"]).agg(
        impressions=_sum_where(named.type == "impression"), clicks=_sum_where(named.type == "click"),
        interactions=_sum_where(interested), purchases=_sum_where(named.type == "purchase"),
    )  # fmt: skip
    return counted.filter(counted.impressions + counted.clicks + counted.interactions > 0)
