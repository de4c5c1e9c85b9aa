"""The second half of the funnel, in one computation: merge, hard filters, L1, L2, re-ranking, slate.

Pure but for the models and the clock of its recorder: the same draft gives the same slate.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np

from infra.contracts.features import FloatArray, IntArray, ranking_features, scaled
from infra.contracts.messages import SlateItem, Source
from region.exploration.exposures import DrawnItems
from region.funnel.chosen import listed_by
from region.funnel.exploring import Exploring, drawn_items
from region.funnel.merging import SOURCES, Pool, best_first, light_scores, merge
from region.funnel.plans import Budget, Plan
from region.funnel.query import History, query_state
from region.funnel.recording import Recorder
from region.funnel.release import LoadedRelease
from region.funnel.ruling import Ruling
from region.funnel.slate import ReasonContext, build_slate
from region.funnel.sources import Candidates, passing_of_category
from region.funnel.tables import ReleaseTables, unit_rows
from region.rules.applying import Guard, RuleCounts, boosted, layout, supply
from region.rules.arranging import BoolArray, Offer, Placed, arrange
from region.rules.binding import NO_ROWS
from region.rules.facets import Allowed
from region.rules.filters import outside, row_set, union, without

POPULAR_PLACE, RULE_PLACE = SOURCES.index(Source.POPULAR), SOURCES.index(Source.RULE)
NEW_PLACE = SOURCES.index(Source.NEW)
PROPENSITY = "propensity"
"""Among the stages of an explained item: the chance with which an exploration slot shows it."""


class RankerError(ValueError):
    """The ranker gave numbers that cannot be ranked by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Everything that the second half needs. `vector` is None where there is no query to rank by."""

    release: LoadedRelease
    plan: Plan
    ruling: Ruling
    groups: tuple[Candidates, ...]
    history: History
    vector: FloatArray | None
    anchor: int | None
    category: str | None
    seen: tuple[int, ...]
    excluded: tuple[int, ...]
    withdrawn: frozenset[int]
    page: int
    slots: int
    now_s: float
    budget: Budget
    allowed: Allowed | None = None
    """Which rows pass the caller's filters; None when there is none."""
    explain: bool = False
    locale: str = "en"
    exploring: Exploring | None = None
    """None: nothing is drawn."""
    follows: tuple[str, ...] = ()
    without_turn: Callable[[], AbstractContextManager[None]] = nullcontext
    """Entered while the ranker runs: others compute meanwhile."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A slate, its rows in the same order, how many candidates each hard rule kept out, and what was drawn."""

    slate: tuple[SlateItem, ...]
    rows: IntArray
    blocked: Mapping[str, int]
    drawn: tuple[DrawnItems, ...] = ()


@dataclass(frozen=True, slots=True)
class _Choice:
    """What may be placed under one level of filters: candidates, and where backfill comes from, best first."""

    pool: Pool
    blocked: IntArray
    reserve: IntArray
    level: "_Level"

    def keep(self, rows: IntArray, tables: ReleaseTables) -> IntArray:
        """Those of `rows` that may stand under this level."""
        rows = rows[outside(rows, self.blocked)]
        if self.level.category is not None:
            rows = rows[tables.is_of_category(rows, self.level.category)]
        return rows if self.level.allowed is None else rows[self.level.allowed[rows]]


@dataclass(frozen=True, slots=True)
class _Level:
    """One level of filters: blocked rows, the category and the rows that the caller's filters allow, or None.

    `asked`: all that the caller asked for still holds.
    """

    blocked: IntArray
    category: str | None = None
    allowed: Allowed | None = None
    asked: bool = True


@dataclass(frozen=True, slots=True)
class _Slots:
    """What fills the slate: rows in order, who put them up, their scores, which rules moved them."""

    rows: IntArray
    sources: list[Source]
    scores: FloatArray
    rules: list[tuple[str, ...]]
    stages: list[dict[str, float]]
    drawn: tuple[DrawnItems, ...] = ()


def finish(draft: Draft, recorder: Recorder) -> Finished:
    """The slate of a draft; empty only when every item of the catalogue is kept out by rules or withdrawn."""
    counts = RuleCounts()
    guard = Guard(draft.ruling.active, draft.ruling.ground, counts=counts)
    with recorder.stage("merge", candidates_in=sum(group.rows.size for group in draft.groups)) as note:
        pool = merge(draft.groups, draft.plan.weights)
        note.candidates_out = pool.rows.size
    with recorder.stage("filters", candidates_in=pool.rows.size) as note:
        choice = _filtered(draft, pool.keep(guard.allowed(pool.rows)), guard, recorder)
        note.candidates_out = choice.pool.rows.size
    scored = _ranked(draft, choice.pool, recorder)
    with recorder.stage("re-ranking", candidates_in=scored.pool.rows.size) as note:
        slots = _arranged(draft, scored, choice, guard)
        note.candidates_out = slots.rows.size
    with recorder.stage("slate", candidates_in=slots.rows.size) as note:
        context = ReasonContext(
            tables=draft.release.tables, history=draft.history, anchor=draft.anchor, category=choice.level.category,
            locale=draft.locale, promotions=frozenset(one.rule.id for one in draft.ruling.active.promotions),
            drawn={one.drawn.position: one.is_new for one in slots.drawn}, follows=draft.follows,
            editorial=partial(listed_by, draft.ruling.ground.bound, draft.ruling.active),
        )  # fmt: skip
        slate = build_slate(slots.rows, slots.sources, slots.scores, context, rules=slots.rules, stages=slots.stages)
        note.candidates_out = len(slate)
    return Finished(slate, slots.rows, counts.blocked, slots.drawn)


def _filter_levels(draft: Draft) -> Iterator[_Level]:
    """Strictest first: caps give way, then what the caller asked for, before an empty answer does.

    What is withdrawn never gives way; nor do hard rules, which stand outside of these levels.
    """
    anchor = () if draft.anchor is None else (draft.anchor,)
    strict = row_set(draft.seen, draft.excluded, draft.withdrawn, anchor)
    capped = draft.ruling.capped
    if capped.size:
        yield _Level(union(strict, capped), draft.category, draft.allowed)
    yield _Level(strict, draft.category, draft.allowed)
    if draft.category is not None and draft.allowed is not None:
        yield _Level(strict, None, draft.allowed, asked=False)
    if draft.category is not None:
        yield _Level(strict, draft.category, asked=False)
    yield _Level(strict, asked=False)
    yield _Level(row_set(draft.excluded, draft.withdrawn), asked=False)
    yield _Level(row_set(draft.withdrawn), asked=False)


def _filtered(draft: Draft, pool: Pool, guard: Guard, recorder: Recorder) -> _Choice:
    nothing = pool.rows[:0]
    choice = _Choice(pool.take(nothing), nothing, nothing, _Level(nothing))
    for level in _filter_levels(draft):
        choice = _choice_under(draft, pool, level)
        if choice.pool.rows.size or guard.first_allowed(choice.reserve, choice.blocked, 1).size:
            if not level.asked:
                recorder.degrade("filters-relaxed")
            break
    return choice


def _choice_under(draft: Draft, pool: Pool, level: _Level) -> _Choice:
    tables = draft.release.tables
    kept = pool.keep(outside(pool.rows, level.blocked))
    standing, allowed = draft.release.standing, level.allowed
    reserve = standing.popular if allowed is None else standing.passing(allowed)
    if level.category is not None:
        kept = kept.keep(tables.is_of_category(kept.rows, level.category))
        reserve = passing_of_category(tables, level.category, allowed)
    if allowed is not None:
        kept = kept.keep(allowed[kept.rows])
    return _Choice(kept, level.blocked, reserve, level)


@dataclass(frozen=True, slots=True)
class _Scored:
    """The pool behind the last stage that ran, that stage's scores, and every stage's by name."""

    pool: Pool
    scores: FloatArray
    stages: Mapping[str, FloatArray]


def _ranked(draft: Draft, pool: Pool, recorder: Recorder) -> _Scored:
    """The pool cut by L1 and scored by L2; by L1 alone without a ranker, by fused ranks without a vector.

    A vector that came without a history (another region's user, with what the phone computed) says by itself all that
    is known: both stages learned from histories, and rank worse than the vector where there is none.
    """
    if draft.vector is None or not pool.rows.size:
        return _Scored(pool, pool.fused, {"fused": pool.fused})
    shape = draft.release.tables.shape
    if not draft.history.size:
        near = draft.release.tables.arrays.vectors[pool.rows] @ draft.vector
        best = best_first(near, shape.ranker_batch)
        pool, near = pool.take(best), near[best]
        return _Scored(pool, near, {"fused": pool.fused, "vector": near})
    with recorder.stage("l1", candidates_in=pool.rows.size) as note:
        state = query_state(draft.history, draft.vector, now_s=draft.now_s)
        light = light_scores(pool, state, draft.release.tables)
        best = best_first(light, shape.ranker_batch)
        pool, light = pool.take(best), light[best]
        note.candidates_out = pool.rows.size
    stages = {"fused": pool.fused, "l1": light}
    if draft.budget.timeout_s("ranker", now_s=recorder.clock.monotonic_s()) <= 0.0:
        recorder.skip("ranker", why="deadline", candidates_in=pool.rows.size)
        return _Scored(pool, light, stages)
    try:
        with recorder.stage("ranker", candidates_in=pool.rows.size) as note:
            scores = _ranker_scores(draft, draft.vector, pool)
            note.candidates_out = pool.rows.size
    except Exception:
        # Whatever the model does, there is an order without it; the trace and the counters tell.
        recorder.degrade("ranker")
        return _Scored(pool, light, stages)
    return _Scored(pool, scores, {**stages, "ranker": scores})


def _ranker_scores(draft: Draft, vector: FloatArray, pool: Pool) -> FloatArray:
    state = query_state(draft.history, vector, now_s=draft.now_s)
    features = ranking_features(state, pool.rows, draft.release.tables.arrays)
    with draft.without_turn():
        scores = draft.release.towers.rank(features)
    if not np.isfinite(scores).all():
        raise RankerError("the ranker gave a score that is not finite.")
    return scores


def _arranged(draft: Draft, scored: _Scored, choice: _Choice, guard: Guard) -> _Slots:
    """The slate: candidates by score under the rules, backfill behind them, and what only rules ask for."""
    ruling, tables = draft.ruling, draft.release.tables
    active, ground = ruling.active, ruling.ground
    order = np.argsort(-scored.scores, kind="stable").astype(np.int32)
    pool, scores = scored.pool.take(order), scored.scores[order]
    new = NO_ROWS if draft.exploring is None else draft.exploring.new_rows(draft.release)
    asked = supply(active, choice.reserve, pool.rows, draft.page, ground)
    extra = union(asked, without(new, pool.rows))
    if extra.size:
        extra = choice.keep(extra, tables)
        extra = extra[guard.allowed(extra)]
    # What L1 let go may come back here as backfill: only what was ranked is left out.
    taken = union(choice.blocked, pool.rows, extra)
    backfill = guard.first_allowed(choice.reserve, taken, draft.slots)
    rows = np.concatenate([pool.rows, backfill, extra]).astype(np.int32)
    behind = backfill.size + extra.size
    relevance = np.concatenate([scaled(scores) + _advantage(draft, pool.rows), np.zeros(behind, dtype=np.float32)])
    relevance, touched = boosted(active, rows, relevance, ground)
    offer = Offer(relevance=relevance, unit_vectors=unit_rows(tables.arrays.vectors[rows]), backfill=behind)
    explorer = None if draft.exploring is None else draft.exploring.explorer(rows, new, tables)
    plan = layout(active, rows, draft.page, ground, arranged=draft.plan.arranged, explorer=explorer)
    placed = arrange(offer, plan, slots=draft.slots, page=draft.page)
    owners = np.concatenate(
        [
            pool.owners,
            np.full(backfill.size, POPULAR_PLACE, np.int8),
            np.where(outside(extra, asked), NEW_PLACE, RULE_PLACE).astype(np.int8),
        ]
    )
    drawn = () if explorer is None else drawn_items(explorer, rows, tables)
    shown = np.concatenate([scores, np.zeros(behind, dtype=np.float32)])
    return _Slots(
        rows=rows[placed.order],
        sources=[SOURCES[owner] for owner in owners[placed.order].tolist()],
        scores=shown[placed.order],
        rules=_names_of(placed, touched),
        stages=_stages_of(placed, order, scored.stages, drawn) if draft.explain else [],
        drawn=drawn,
    )


def _advantage(draft: Draft, rows: IntArray) -> FloatArray:
    """What the plan adds to the relevance (0 to 1) of `rows` for the sources that put them up."""
    added = np.zeros(rows.size, dtype=np.float32)
    for group in draft.groups:
        weight = draft.plan.advantage.get(group.source)
        if weight and group.rows.size:
            added += np.float32(weight) * np.isin(rows, group.rows)
    return added


def _names_of(placed: Placed, touched: list[tuple[str, BoolArray]]) -> list[tuple[str, ...]]:
    """For each placed item the names of the rules that moved it."""
    names = list(placed.touched)
    for rule, moved in touched:
        for place in np.flatnonzero(moved[placed.order]).tolist():
            names[place] = (*names[place], rule)
    return names


def _stages_of(
    placed: Placed, order: IntArray, stages: Mapping[str, FloatArray], drawn: Sequence[DrawnItems]
) -> list[dict[str, float]]:
    """For each placed item its score at each stage, and its chance where it was drawn; backfill has no scores."""
    found: list[dict[str, float]] = []
    for choice in placed.order.tolist():
        own = int(order[choice]) if choice < order.size else -1
        found.append({name: round(float(values[own]), 6) for name, values in stages.items()} if own >= 0 else {})
    for one in drawn:
        found[one.drawn.position - 1][PROPENSITY] = round(float(one.drawn.chances[one.drawn.shown]), 6)
    return found
