"""The second half of the funnel, in one computation: merge, hard filters, L1, L2, re-ranking, slate.

Pure but for the models and the clock of its recorder: the same draft gives the same slate.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from infra.contracts.features import FloatArray, IntArray, ranking_features
from infra.contracts.messages import SlateItem, Source
from infra.contracts.release import Rules
from region.funnel.merging import SOURCES, Pool, best_first, light_scores, merge, scaled
from region.funnel.plans import Budget, Plan
from region.funnel.query import History, query_state
from region.funnel.recording import Recorder
from region.funnel.release import LoadedRelease
from region.funnel.slate import ReasonContext, build_slate
from region.funnel.sources import Candidates
from region.funnel.tables import unit_rows
from region.rules.arranging import Offer, arrange, backfill_relevance
from region.rules.facets import BoolArray
from region.rules.filters import first_outside, outside, row_set


class RankerError(ValueError):
    """The ranker gave numbers that cannot be ranked by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Everything that the second half needs. `vector` is None where there is no query to rank by."""

    release: LoadedRelease
    plan: Plan
    rules: Rules
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
    allowed: BoolArray | None = None
    """Which rows pass the caller's filters, `[num_items] bool`; None when there is none."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """What may be placed under one level of filters: candidates, and where backfill comes from, best first."""

    pool: Pool
    blocked: IntArray
    reserve: IntArray
    category: str | None


def finish(draft: Draft, recorder: Recorder) -> tuple[SlateItem, ...]:
    """The slate of a draft; empty only when every item of the catalogue is withdrawn."""
    with recorder.stage("merge", candidates_in=sum(group.rows.size for group in draft.groups)) as note:
        pool = merge(draft.groups, draft.plan.weights)
        note.candidates_out = pool.rows.size
    with recorder.stage("filters", candidates_in=pool.rows.size) as note:
        choice = _filtered(draft, pool, recorder)
        note.candidates_out = choice.pool.rows.size
    pool, scores = _ranked(draft, choice.pool, recorder)
    with recorder.stage("re-ranking", candidates_in=pool.rows.size) as note:
        # What L1 let go may come back here as backfill: only what was ranked is left out.
        taken = np.union1d(choice.blocked, pool.rows)
        backfill = first_outside(choice.reserve, taken, draft.slots)
        rows, sources, shown = _arranged(draft, pool, scores, backfill, choice.category)
        note.candidates_out = rows.size
    with recorder.stage("slate", candidates_in=rows.size) as note:
        context = ReasonContext(
            tables=draft.release.tables, history=draft.history, anchor=draft.anchor, category=choice.category
        )
        slate = build_slate(rows, sources, shown, context)
        note.candidates_out = len(slate)
    return slate


@dataclass(frozen=True, slots=True)
class _Level:
    """One level of filters: blocked rows, the category and the rows that the caller's filters allow, or None."""

    blocked: IntArray
    category: str | None = None
    allowed: BoolArray | None = None


def _filter_levels(draft: Draft) -> Iterator[_Level]:
    """Strictest first: what a caller asked for gives way before an empty answer does.

    What is withdrawn never gives way.
    """
    anchor = () if draft.anchor is None else (draft.anchor,)
    strict = row_set(draft.seen, draft.excluded, draft.withdrawn, anchor)
    yield _Level(strict, draft.category, draft.allowed)
    if draft.category is not None and draft.allowed is not None:
        yield _Level(strict, None, draft.allowed)
    if draft.category is not None:
        yield _Level(strict, draft.category)
    yield _Level(strict)
    yield _Level(row_set(draft.excluded, draft.withdrawn))
    yield _Level(row_set(draft.withdrawn))


def _filtered(draft: Draft, pool: Pool, recorder: Recorder) -> _Choice:
    nothing = pool.rows[:0]
    choice = _Choice(pool.take(nothing), nothing, nothing, None)
    for number, level in enumerate(_filter_levels(draft)):
        choice = _choice_under(draft, pool, level)
        if choice.pool.rows.size or first_outside(choice.reserve, choice.blocked, 1).size:
            if number:
                recorder.degrade("filters-relaxed")
            break
    return choice


def _choice_under(draft: Draft, pool: Pool, level: _Level) -> _Choice:
    tables = draft.release.tables
    kept = pool.keep(outside(pool.rows, level.blocked))
    reserve = draft.release.standing.popular
    if level.category is not None:
        reserve = tables.category_rows[level.category]
        kept = kept.keep(np.isin(kept.rows, reserve))
    if level.allowed is not None:
        kept, reserve = kept.keep(level.allowed[kept.rows]), reserve[level.allowed[reserve]]
    return _Choice(kept, level.blocked, reserve, level.category)


def _ranked(draft: Draft, pool: Pool, recorder: Recorder) -> tuple[Pool, FloatArray]:
    """The pool cut by L1 and scored by L2; by L1 alone without a ranker, by fused ranks without a vector."""
    if draft.vector is None or not pool.rows.size:
        return pool, pool.fused
    shape = draft.release.tables.shape
    with recorder.stage("l1", candidates_in=pool.rows.size) as note:
        light = light_scores(pool, draft.vector, draft.release.tables)
        best = best_first(light, shape.ranker_batch)
        pool, light = pool.take(best), light[best]
        note.candidates_out = pool.rows.size
    if draft.budget.timeout_s("ranker", now_s=recorder.clock.monotonic_s()) <= 0.0:
        recorder.skip("ranker", why="deadline", candidates_in=pool.rows.size)
        return pool, light
    try:
        with recorder.stage("ranker", candidates_in=pool.rows.size) as note:
            scores = _ranker_scores(draft, draft.vector, pool)
            note.candidates_out = pool.rows.size
    except Exception:
        # Whatever the model does, there is an order without it; the trace and the counters tell.
        recorder.degrade("ranker")
        return pool, light
    return pool, scores


def _ranker_scores(draft: Draft, vector: FloatArray, pool: Pool) -> FloatArray:
    state = query_state(draft.history, vector, now_s=draft.now_s)
    features = ranking_features(state, pool.rows, draft.release.tables.arrays)
    scores = draft.release.towers.rank(features)
    if not np.isfinite(scores).all():
        raise RankerError("the ranker gave a score that is not finite.")
    return scores


def _arranged(
    draft: Draft, pool: Pool, scores: FloatArray, backfill: IntArray, category: str | None
) -> tuple[IntArray, list[Source], FloatArray]:
    order = np.argsort(-scores, kind="stable").astype(np.int32)
    pool, scores = pool.take(order), scores[order]
    tables = draft.release.tables
    rows = np.concatenate([pool.rows, backfill])
    offer = Offer(
        relevance=np.concatenate([scaled(scores), backfill_relevance(backfill.size)]),
        unit_vectors=unit_rows(tables.arrays.vectors[rows]),
        membership=tables.arrays.categories[rows] > 0.0,
    )
    arranged = draft.plan.arranged
    placed = arrange(
        offer,
        slots=draft.slots,
        page=draft.page,
        diversity=draft.rules.diversity if arranged else 0.0,
        share_max=draft.rules.category_share_max if arranged else 1.0,
        exempt=np.asarray([name == category for name in tables.shape.categories], dtype=np.bool_),
    )
    owners = np.concatenate([pool.owners, np.full(backfill.size, SOURCES.index(Source.POPULAR), dtype=np.int8)])
    shown = np.concatenate([scores, np.zeros(backfill.size, dtype=np.float32)])
    return rows[placed], [SOURCES[owner] for owner in owners[placed].tolist()], shown[placed]
