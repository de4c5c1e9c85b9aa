"""Candidates that somebody chose: the subject by following, the region's editors by their lists."""

from collections.abc import Sequence

import numpy as np

from infra.contracts.events import followed
from infra.contracts.features import IntArray
from infra.contracts.messages import Source
from region.funnel.sources import Candidates, nothing
from region.funnel.tables import ReleaseTables
from region.rules.binding import NO_ROWS, Binding
from region.rules.ruleset import Active
from region.rules.schema import EditorialList

PER_TARGET_MAX = 100
"""Candidates that one thing followed brings, new ones first and then the most popular."""


def of_followed(tables: ReleaseTables, follows: Sequence[str], *, limit: int) -> Candidates:
    """Items of what the subject follows, in turn from each target, the one followed last first."""
    groups = [_rows_of(tables, target) for target in reversed(follows)]
    return _in_turn(Source.FOLLOWS, groups, limit)


def of_editors(bound: Binding, active: Active, *, limit: int) -> Candidates:
    """Items of the editors' lists that hold for the call, in turn from each list."""
    groups = [bound.named.get(one.rule.id, NO_ROWS) for one in active.editorial]
    return _in_turn(Source.EDITORIAL, groups, limit)


def followed_by(tables: ReleaseTables, row: int, follows: Sequence[str]) -> str:
    """The name of what the subject follows that the item is of; empty when it is of none of it."""
    item = tables.items[row]
    for target in reversed(follows):
        kind, name = followed(target) or ("", "")
        if name and (name in item.categories if kind == "category" else getattr(item, kind) == name):
            return name
    return ""


def listed_by(bound: Binding, active: Active, row: int) -> EditorialList | None:
    """The first of the editors' lists that names the item."""
    return next((one.rule for one in active.editorial if row in bound.named.get(one.rule.id, NO_ROWS)), None)


def _rows_of(tables: ReleaseTables, target: str) -> IntArray:
    kind, name = followed(target) or ("", "")
    own = tables.category_rows.get(name, NO_ROWS) if kind == "category" else tables.maker_rows.get(target, NO_ROWS)
    return np.concatenate([tables.seats.followed_as(target), own])[:PER_TARGET_MAX]


def _in_turn(source: Source, groups: Sequence[IntArray], limit: int) -> Candidates:
    groups = [group for group in groups if group.size]
    if not groups:
        return nothing(source)
    places = np.concatenate([np.arange(group.size) for group in groups])
    order = np.argsort(places, kind="stable")
    rows = np.asarray(list(dict.fromkeys(np.concatenate(groups)[order].tolist()))[:limit], dtype=np.int32)
    return Candidates(source, rows, np.linspace(1.0, 0.0, rows.size, endpoint=False, dtype=np.float32))
