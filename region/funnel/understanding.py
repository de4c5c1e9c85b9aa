"""A call understood: what it asks for in rows of the release that answers it, and by which plan."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from infra.contracts.features import FloatArray
from infra.contracts.messages import HomeRequest, RecommendationType, Source
from infra.plumbing.errors import InvalidInputError
from region.funnel.plans import (
    BEGINNER_PLAN,
    COLD_PLAN,
    FEW_EVENTS,
    PERSONAL_PLAN,
    POPULAR_PLAN,
    RANKING_PLAN,
    SIMILAR_PLAN,
    TOGETHER_PLAN,
    TRENDING_PLAN,
    Budget,
    Plan,
)
from region.funnel.query import History, read_history
from region.funnel.recording import Recorder
from region.funnel.release import LoadedRelease
from region.funnel.tables import ReleaseTables
from region.rules.facets import Allowed
from region.rules.filters import outside
from region.rules.schema import RuleFile
from region.store.port import Interactions, UserRow

ABOUT_AN_ITEM = frozenset({RecommendationType.SIMILAR, RecommendationType.TOGETHER})
PERSONAL_TYPES = frozenset({RecommendationType.PERSONAL, RecommendationType.SESSION})


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request as the funnel sees it. `row` is None for a subject that is not known, or when nobody is named."""

    request: HomeRequest
    row: UserRow | None
    release: LoadedRelease
    now_s: float
    budget: Budget
    recorder: Recorder
    proposed: tuple[str, RuleFile] | None = None
    """Edition and rules to try in place of the region's own (a dry run); nothing of such a call is remembered."""
    shown: bool = True
    """Whether the answer goes to whom it is about; nothing is remembered of one that does not (a shadow's)."""

    @property
    def may_remember(self) -> bool:
        """Whether the call is somebody's, and wants lists of their own."""
        opted_out = self.row is not None and self.row.opted_out
        return self.request.subject is not None and self.request.type in PERSONAL_TYPES and not opted_out

    @property
    def leaves_traces(self) -> bool:
        """Whether what it shows is kept in mind."""
        return self.may_remember and self.shown and not self.request.explain and self.proposed is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A call understood: which plan, over which history, with which vector.

    `allowed`: which rows pass the caller's filters; None when there is none.
    """

    plan: Plan
    history: History
    vector: FloatArray | None
    anchor: int | None
    category: str | None
    allowed: Allowed | None
    follows: tuple[str, ...] = ()
    """What the subject follows."""

    @property
    def wants_tower(self) -> bool:
        """Whether the user tower has to make the vector."""
        return self.vector is None and self.history.size > 0


def understand(call: Call, *, mix: Mapping[Source, float] | None = None) -> Query:
    """What a call asks for, in rows of the release; what it names and the release does not know is noted.

    Args:
        call: the call.
        mix: weights of the sources of personal lists, where the surface has its own.

    Raises:
        InvalidInputError: the call's vector does not fit the release that it names.
    """
    request, tables = call.request, call.release.tables
    opted_out = call.row is not None and call.row.opted_out
    personal = request.type in PERSONAL_TYPES and not opted_out
    past = call.row.history if call.row is not None and personal else Interactions()
    history = read_history(past, request.recent if personal else (), tables=tables, now_s=call.now_s)
    vector = _accepted_vector(call) if personal else None
    anchor = tables.row_of.get(request.item or "") if request.type in ABOUT_AN_ITEM else None
    category = request.category if request.category in tables.category_rows else None
    if category != request.category:
        call.recorder.degrade("unknown-category")
    if request.type in ABOUT_AN_ITEM and anchor is None:
        call.recorder.degrade("unknown-item")
    warm = history.size > 0 or vector is not None
    plan = choose_plan(request.type, opted_out=opted_out, warm=warm, anchored=anchor is not None)
    follows = call.row.follows if call.row is not None and personal else ()
    if plan is PERSONAL_PLAN and vector is None and history.size < FEW_EVENTS:
        plan = BEGINNER_PLAN
    if mix and plan in (PERSONAL_PLAN, BEGINNER_PLAN):
        plan = replace(plan, weights={source: weight for source, weight in mix.items() if weight > 0.0})
    allowed = None if request.filters.empty else tables.facets.allowed(request.filters)
    if request.among:
        allowed = _among(tables, request.among, allowed)
        plan = RANKING_PLAN if plan is not COLD_PLAN else plan
    return Query(
        plan=plan, history=history, vector=vector, anchor=anchor, category=category, allowed=allowed, follows=follows
    )


def _among(tables: ReleaseTables, items: tuple[str, ...], allowed: Allowed | None) -> Allowed:
    """Those of the named items that pass the filters too."""
    named = np.unique(np.asarray(tables.known_rows(items), dtype=np.int32))
    named = named if allowed is None else named[allowed[named]]
    own = named[named < tables.shape.num_items]
    best = own[np.argsort(-tables.arrays.popularity[own], kind="stable")]
    return Allowed(lambda rows: ~outside(rows, named), best, is_whole=True)


def choose_plan(kind: RecommendationType, *, opted_out: bool, warm: bool, anchored: bool) -> Plan:
    """The plan for a type of list. `warm`: something is known to rank by; `anchored`: the item asked about is known."""
    if kind in PERSONAL_TYPES and not opted_out:
        return PERSONAL_PLAN if warm else COLD_PLAN
    if kind in ABOUT_AN_ITEM and anchored:
        return SIMILAR_PLAN if kind is RecommendationType.SIMILAR else TOGETHER_PLAN
    return TRENDING_PLAN if kind is RecommendationType.TRENDING else POPULAR_PLAN


def _accepted_vector(call: Call) -> FloatArray | None:
    request, tables = call.request, call.release.tables
    if request.vector is None:
        return None
    if request.vector_release != tables.release_id:
        call.recorder.degrade("vector-release")
        return None
    if len(request.vector) != tables.shape.dim:
        raise InvalidInputError(
            f"vector has {len(request.vector)} numbers.",
            fix=f"Vectors of release {tables.release_id} have {tables.shape.dim}.",
        )
    return np.asarray(request.vector, dtype=np.float32)
