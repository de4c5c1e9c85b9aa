"""What is asked of a region for a query: pure. An `AwayRequest` is built here only, from nothing that says who asks."""

from dataclasses import replace

from edge.calls import ListQuery
from infra.contracts.messages import AwayRequest, HomeRequest, ItemFilters, RecommendationType


def home_request(
    query: ListQuery,
    *,
    subject: str | None,
    timeout_ms: float | None = None,
    explain: bool = False,
    with_vector: bool = False,
    among: tuple[str, ...] = (),
) -> HomeRequest:
    """The request to this edge's own region, or (sealed, without a subject) to a traveller's home.

    `exclude` stays at the edge: lists are shared by callers who exclude different things.
    """
    return HomeRequest(
        type=query.type, surface=query.surface, n=query.asked, subject=subject, recent=query.recent, item=query.item,
        category=query.category, filters=query.filters or ItemFilters(), among=among,
        vector=query.vector if with_vector else None,
        vector_release=query.vector_release if with_vector else None, context=query.context, arm=query.arm,
        timeout_ms=timeout_ms, explain=explain,
    )  # fmt: skip


def away_request(query: ListQuery, *, with_vector: bool = False) -> AwayRequest:
    """The request to another region: no subject, no recent items, no exclusions."""
    return AwayRequest(
        type=query.type, surface=query.surface, n=query.asked, item=query.item, category=query.category,
        filters=query.filters or ItemFilters(), vector=query.vector if with_vector else None,
        vector_release=query.vector_release if with_vector else None, context=query.context,
    )  # fmt: skip


def audience_query(query: ListQuery) -> ListQuery:
    """The same call with nothing personal in it: what belongs to one visitor becomes what is popular."""
    if query.type in (RecommendationType.PERSONAL, RecommendationType.SESSION):
        return replace(query, type=RecommendationType.POPULAR, recent=(), vector=None, vector_release=None)
    return replace(query, vector=None, vector_release=None)


def can_use_vector(query: ListQuery) -> bool:
    """Whether ranking with the caller's own vector makes sense."""
    return query.vector is not None and query.type in (RecommendationType.PERSONAL, RecommendationType.SESSION)
