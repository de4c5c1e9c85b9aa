"""The rules of one call, applied to rows of its release: what may be shown, and how the slate is to be laid out."""

import math
from dataclasses import dataclass, field

import numpy as np

from infra.contracts.features import FloatArray, IntArray
from infra.contracts.release import CatalogueItem
from region.rules.arranging import BoolArray, Explorer, Floors, Layout, Promoted, Quotas
from region.rules.binding import NO_ROWS, Ground
from region.rules.conditions import age_days
from region.rules.filters import outside, union, without
from region.rules.ruleset import Active, Compiled, R
from region.rules.schema import Boost, Diversity, Floor, HardRule, Quota

SCAN_ROWS_MAX = 4096
"""How far down the list of favourites is looked for what a floor or a promotion asks for."""
BACKFILL_ROWS_MAX = 20_000
"""How far down it is looked for items that hard rules allow, before a slate stays short."""
NO_DIVERSITY = Diversity(strength=0.0)
RELEVANCE_BOUND = 10.0
"""However many boosts add up, a candidate stays in front of backfill."""
CATEGORY_SHARE = "category-share"
SCAN_CHUNK = 256


@dataclass(slots=True)
class RuleCounts:
    """What rules did in one call, for the trace and the counters: rows kept out, by rule."""

    blocked: dict[str, int] = field(default_factory=dict)

    def add(self, rule: str, count: int) -> None:
        """`count` more rows were kept out by `rule`."""
        if count:
            self.blocked[rule] = self.blocked.get(rule, 0) + count


class Guard:
    """The hard rules of one call. Every row that is to be shown passes here, last of all filters."""

    def __init__(self, active: Active, ground: Ground, *, counts: RuleCounts) -> None:
        self._ground = ground
        self._counts = counts
        self._rules = active.hard

    def allowed(self, rows: IntArray) -> BoolArray:
        """Which of `rows` may be shown. `[rows] bool`."""
        allowed = np.ones(rows.shape, dtype=np.bool_)
        for compiled in self._rules:
            allowed &= ~self._kept_out(compiled, rows, allowed)
        return allowed

    def first_allowed(self, rows: IntArray, blocked: IntArray, limit: int, *, chunk: int = SCAN_CHUNK) -> IntArray:
        """The first `limit` of `rows` that are neither in `blocked` (ascending) nor kept out by a rule.

        Looks at no more than BACKFILL_ROWS_MAX rows where there are hard rules.
        """
        found: list[IntArray] = []
        count = 0
        end = min(rows.size, BACKFILL_ROWS_MAX) if self._rules else rows.size
        for start in range(0, end, chunk):
            part = rows[start : start + chunk]
            part = part[outside(part, blocked)]
            part = part[self.allowed(part)] if self._rules else part
            found.append(part)
            count += part.size
            if count >= limit:
                break
        return np.concatenate(found)[:limit] if found else rows[:0]

    def _kept_out(self, compiled: Compiled[HardRule], rows: IntArray, allowed: BoolArray) -> BoolArray:
        ground = self._ground
        out = ~outside(rows, ground.bound.blocked.get(compiled.rule.id, NO_ROWS))
        if compiled.match is not None:
            judge = ground.bound.judge
            out = out | judge.holds(compiled.match, rows, ground.request, now_s=ground.now_s, if_fails=True)
        self._counts.add(compiled.rule.id, int((out & allowed).sum()))
        return out


def selected(compiled: Compiled[R], rows: IntArray, ground: Ground) -> BoolArray:
    """Which of `rows` a soft rule is about: all of them where it has no `match`; not those where it fails."""
    if compiled.match is None:
        return np.ones(rows.shape, dtype=np.bool_)
    return ground.bound.judge.holds(compiled.match, rows, ground.request, now_s=ground.now_s, if_fails=False)


def boosted(
    active: Active, rows: IntArray, relevance: FloatArray, ground: Ground
) -> tuple[FloatArray, list[tuple[str, BoolArray]]]:
    """Relevance with boosts and stability on it; and which rows each of them moved."""
    touched: list[tuple[str, BoolArray]] = []
    total = relevance.astype(np.float32, copy=True)
    for compiled in active.boosts:
        added = _boost(compiled, rows, ground)
        total += added
        touched.append((compiled.rule.id, added != 0.0))
    weight = active.settings.stability.weight
    if weight and ground.previous is not None and ground.previous.size:
        stood = np.isin(rows, ground.previous)
        total += np.float32(weight) * stood
        touched.append(("stability", stood))
    return np.clip(total, -RELEVANCE_BOUND, RELEVANCE_BOUND), touched


def supply(active: Active, reserve: IntArray, present: IntArray, page: int, ground: Ground) -> IntArray:
    """Rows beside those `present` that promotions name, and that floors and promotions need in order to be met.

    `reserve`: favourites, best first; no more than SCAN_ROWS_MAX of them are looked at.
    """
    named = ground.bound.named
    wanted = [named[one.rule.id] for one in active.promotions if one.rule.id in named]
    wanted += [_missing(one, _needed(one.rule, page), reserve, present, ground) for one in active.floors]
    wanted += [
        _missing(one, len(one.rule.positions), reserve, present, ground)
        for one in active.promotions
        if one.match is not None
    ]
    return without(union(*wanted), present) if wanted else NO_ROWS


def layout(
    active: Active, rows: IntArray, page: int, ground: Ground, *, arranged: bool, explorer: Explorer | None = None
) -> Layout:
    """What the rules ask of a slate that is made of `rows`, best first.

    Lists that are not `arranged` are shown in the order of their source, but for the rules that name something.
    """
    share_max = active.settings.category_share_max if arranged else 1.0
    return Layout(
        diversity=active.settings.diversity if arranged else NO_DIVERSITY,
        quotas=_quotas(active, rows, page, ground, share_max=share_max),
        floors=_floors(active, rows, page, ground),
        promoted=_promoted(active, rows, ground),
        explorer=explorer,
    )


def _boost(compiled: Compiled[Boost], rows: IntArray, ground: Ground) -> FloatArray:
    rule = compiled.rule
    added = np.where(selected(compiled, rows, ground), np.float32(rule.weight), np.float32(0.0))
    if compiled.by is not None:
        added = added * ground.bound.judge.numbers(compiled.by, rows, ground.request, now_s=ground.now_s)
    if rule.half_life_days is not None:
        items, now_s = ground.bound.items, ground.now_s
        ages = np.fromiter((age_days(items[row], now_s) for row in rows.tolist()), dtype=np.float64, count=rows.size)
        added = added * np.exp2(-ages / rule.half_life_days)
    return np.asarray(added, dtype=np.float32)


def _quotas(active: Active, rows: IntArray, page: int, ground: Ground, *, share_max: float) -> Quotas | None:
    members: list[BoolArray] = []
    shares: list[float] = []
    names: list[str] = []
    if share_max < 1.0:
        matrix, categories = ground.bound.membership[rows] > 0.0, ground.bound.categories
        held = np.flatnonzero(matrix.any(axis=0)).tolist()
        counted = [column for column in held if categories[column] != ground.asked_category]
        members.append(matrix[:, counted])
        shares += [share_max] * len(counted)
        names += [CATEGORY_SHARE] * len(counted)
    for compiled in active.quotas:
        rule = compiled.rule
        share = rule.share_max if rule.share_max is not None else (rule.count_max or 1) / page
        for member in _groups(compiled, rows, ground):
            if member.any():
                members.append(member[:, None])
                shares.append(share)
                names.append(rule.id)
    if not names:
        return None
    return Quotas(members=np.concatenate(members, axis=1), share_max=np.asarray(shares), names=tuple(names))


def _groups(compiled: Compiled[Quota], rows: IntArray, ground: Ground) -> list[BoolArray]:
    """Members of each value that the quota counts apart. The category asked for is not held back."""
    rule = compiled.rule
    if rule.of is None:
        return [selected(compiled, rows, ground)]
    held = [_values_of(ground.bound.items[row], rule.of) for row in rows.tolist()]
    found = dict.fromkeys(value for values in held for value in values)
    wanted = [value for value in found if (not rule.values or value in rule.values) and value != ground.asked_category]
    return [np.fromiter((value in values for values in held), dtype=np.bool_, count=rows.size) for value in wanted]


def _values_of(item: CatalogueItem, of: str) -> tuple[str, ...]:
    if of == "category":
        return item.categories
    value = item.brand if of == "brand" else item.creator
    return (value,) if value else ()


def _floors(active: Active, rows: IntArray, page: int, ground: Ground) -> Floors | None:
    if not active.floors:
        return None
    members = np.stack([selected(compiled, rows, ground) for compiled in active.floors], axis=1)
    needed = np.asarray([_needed(compiled.rule, page) for compiled in active.floors], dtype=np.int64)
    # What is not there cannot be waited for.
    needed = np.minimum(needed, members.sum(axis=0))
    return Floors(members=members, needed=needed, names=tuple(compiled.rule.id for compiled in active.floors))


def _needed(rule: Floor, page: int) -> int:
    return math.ceil(rule.share_min * page - 1e-9)


def _promoted(active: Active, rows: IntArray, ground: Ground) -> dict[int, Promoted]:
    promoted: dict[int, Promoted] = {}
    if not active.promotions:
        return promoted
    place_of = {row: place for place, row in enumerate(rows.tolist())}
    for compiled in active.promotions:
        rule = compiled.rule
        named = [place_of[row] for row in ground.bound.named.get(rule.id, NO_ROWS).tolist() if row in place_of]
        if compiled.match is not None:
            named += np.flatnonzero(selected(compiled, rows, ground)).tolist()
        choices = np.asarray(list(dict.fromkeys(named)), dtype=np.int32)
        for position in rule.positions:
            if choices.size and position not in promoted:
                promoted[position] = Promoted(choices=choices, name=rule.id)
    return promoted


def _missing(
    compiled: Compiled[R], needed: int, reserve: IntArray, present: IntArray, ground: Ground
) -> IntArray:  # fmt: skip
    """The first of `reserve` that the rule is about, as many as are missing among `present`."""
    limit = needed - int(selected(compiled, present, ground).sum())
    found: list[IntArray] = []
    count, held, end = 0, union(present), min(reserve.size, SCAN_ROWS_MAX)
    for start in range(0, end if limit > 0 else 0, SCAN_CHUNK):
        part = reserve[start : min(start + SCAN_CHUNK, end)]
        part = part[outside(part, held)]
        part = part[selected(compiled, part, ground)]
        found.append(part)
        count += part.size
        if count >= limit:
            break
    return np.concatenate(found)[:limit] if found else NO_ROWS
