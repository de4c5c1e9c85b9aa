"""From placed rows to slate items: titles, scores, and a reason for each that a person understands."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from infra.contracts.features import RECENT_EVENTS, FloatArray, IntArray
from infra.contracts.messages import Reason, ReasonCode, SlateItem, Source
from infra.contracts.reasons import language_of, reason
from region.funnel.chosen import followed_by
from region.funnel.query import History
from region.funnel.sources import STRENGTH_LIKED_MIN
from region.funnel.tables import ReleaseTables
from region.rules.filters import outside, row_set
from region.rules.schema import EditorialList

NAMED_NEIGHBOURS = 10


_OF_AUDIENCES = {
    Source.TRENDING: (ReasonCode.TRENDING_REGION, ReasonCode.TRENDING_CATEGORY),
    Source.POPULAR: (ReasonCode.POPULAR, ReasonCode.POPULAR_IN_CATEGORY),
    Source.RULE: (ReasonCode.POPULAR, ReasonCode.POPULAR_IN_CATEGORY),
    Source.NEW: (ReasonCode.NEW_ITEM, ReasonCode.NEW_ITEM),
    Source.CONTEXT: (ReasonCode.POPULAR_IN_CONTEXT, ReasonCode.POPULAR_IN_CONTEXT),
}
"""What is said of an item that nothing about the caller put up: in all lists, and in those of one category."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonContext:
    """What reasons may name: the history, the item that a similar list is about, the category asked for."""

    tables: ReleaseTables
    history: History
    anchor: int | None = None
    category: str | None = None
    locale: str = "en"
    promotions: frozenset[str] = frozenset()
    """Names of the rules that promote."""
    drawn: Mapping[int, bool] = field(default_factory=dict)
    """Positions that were drawn, and whether what stands there is new."""
    follows: tuple[str, ...] = ()
    editorial: Callable[[int], EditorialList | None] = lambda _row: None
    """The editors' list that a row is on."""


def build_slate(
    rows: IntArray, sources: Sequence[Source], scores: FloatArray, context: ReasonContext,
    *, rules: Sequence[tuple[str, ...]] = (), stages: Sequence[dict[str, float]] = (),
) -> tuple[SlateItem, ...]:  # fmt: skip
    """Slate items for `rows` in their order; `rules` and `stages` are of the same length, or left out."""
    because = _recent_anchors(rows, sources, context)
    shown = [context.tables.items[row] for row in rows.tolist()]
    # Most items of a slate are there for one of a few reasons: each sentence is made once.
    said: dict[tuple[ReasonCode, str], Reason] = {}

    def reason_for(placed: tuple[int, int, Source], moved: tuple[str, ...]) -> Reason:
        why = _reason_for(placed, context, because.get(placed[1]), moved)
        found = said.get(why)
        if found is None:
            found = said[why] = reason(*why, locale=context.locale)
        return found

    return tuple(
        SlateItem(
            item=item.item,
            score=round(score, 6),
            source=source,
            reason=reason_for((place, row, source), moved),
            title=item.title,
            rules=moved,
            stages=by_stage,
        )
        for place, item, row, source, score, moved, by_stage in zip(
            range(1, rows.size + 1),
            shown,
            rows.tolist(),
            sources,
            scores.tolist(),
            rules or [()] * rows.size,
            stages or [{}] * rows.size,
            strict=True,
        )
    )


def _reason_for(
    placed: tuple[int, int, Source], context: ReasonContext, recent: int | None, moved: tuple[str, ...]
) -> tuple[ReasonCode, str]:
    """The code of what was placed (position, row and source), and what its sentence names."""
    position, row, source = placed
    if position in context.drawn:
        return ReasonCode.NEW_ITEM if context.drawn[position] else ReasonCode.DISCOVER, ""
    return _why(row, source, context, recent, moved)


def _why(
    row: int, source: Source, context: ReasonContext, recent: int | None, moved: tuple[str, ...]
) -> tuple[ReasonCode, str]:  # fmt: skip
    """The code, and what its sentence names."""
    category = context.category
    if context.promotions and not context.promotions.isdisjoint(moved):
        return ReasonCode.PROMOTED, ""
    chosen = _chosen(row, source, context)
    if chosen is not None:
        return chosen
    if recent is not None:
        return ReasonCode.BECAUSE_RECENT, _title(context.tables, recent)
    if source in _OF_AUDIENCES:
        everywhere, inside = _OF_AUDIENCES[source]
        return (everywhere, "") if category is None else (inside, category)
    if context.anchor is not None:
        code = ReasonCode.TOGETHER if source is Source.TOGETHER else ReasonCode.SIMILAR_ITEM
        return code, _title(context.tables, context.anchor)
    return ReasonCode.FOR_YOU, ""


def _chosen(row: int, source: Source, context: ReasonContext) -> tuple[ReasonCode, str] | None:
    """Of what somebody chose: whom the subject follows, or on which list of the editors it is."""
    if source is Source.FOLLOWS:
        return ReasonCode.FOLLOWED, followed_by(context.tables, row, context.follows)
    if source is Source.EDITORIAL:
        listed = context.editorial(row)
        return ReasonCode.EDITORIAL, "" if listed is None else listed.title_in(language_of(context.locale))
    return None


def _recent_anchors(rows: IntArray, sources: Sequence[Source], context: ReasonContext) -> dict[int, int]:
    """For each row with something recent to thank for it: the recent row that speaks for it most.

    That is said of every row that came up as similar to something recent, and of rows that other sources put up
    higher when they are among the NAMED_NEIGHBOURS nearest of a recent item: the more telling reason wins.
    """
    history = context.history
    liked = history.rows[history.strengths >= STRENGTH_LIKED_MIN][-RECENT_EVENTS:][::-1]
    if not liked.size:
        return {}
    arrays = context.tables.arrays
    neighbours = arrays.similar_rows[liked]
    weighted = arrays.similar_scores[liked] / (1.0 + np.arange(liked.size, dtype=np.float32))[:, None]
    near = set(neighbours[:, :NAMED_NEIGHBOURS].ravel().tolist())
    asked = [
        row
        for row, source in zip(rows.tolist(), sources, strict=True)
        if row in near or source is Source.SIMILAR_TO_RECENT
    ]
    strongest = {row: (int(liked[0]), -1.0) for row in asked}
    flat = neighbours.ravel()
    for place in np.flatnonzero(~outside(flat, row_set(asked))).tolist():
        row, weight = int(flat[place]), float(weighted.flat[place])
        # The first of equals wins: what was liked last stands first.
        if weight > strongest[row][1]:
            strongest[row] = int(liked[place // neighbours.shape[1]]), weight
    return {row: anchor for row, (anchor, _) in strongest.items()}


def _title(tables: ReleaseTables, row: int) -> str:
    return tables.items[row].title or tables.items[row].item
