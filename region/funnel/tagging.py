"""The tags of a list: what it is about and what its items are, so that operators can purge by any of it."""

from infra.contracts.features import IntArray
from infra.contracts.messages import MORE_TAGS, TAGS_MAX, HomeRequest
from region.funnel.tables import ReleaseTables


def tags_of(request: HomeRequest, rows: IntArray | None, tables: ReleaseTables) -> tuple[str, ...]:
    """What was asked for first, then categories and brands in the order of the items; at most TAGS_MAX."""
    tags: dict[str, None] = {}
    if request.item is not None:
        tags[f"item:{request.item}"] = None
    if request.category is not None:
        tags[f"category:{request.category}"] = None
    for row in () if rows is None else rows.tolist():
        about = tables.items[row]
        for name in about.categories:
            tags[f"category:{name}"] = None
        if about.brand:
            tags[f"brand:{about.brand}"] = None
    return tuple(tags) if len(tags) <= TAGS_MAX else (*tuple(tags)[: TAGS_MAX - 1], MORE_TAGS)
