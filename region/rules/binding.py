"""A rule set bound to one release: named items as rows, and the judge of its items. Made once, used by every call."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from infra.contracts.features import FloatArray, IntArray
from infra.contracts.release import CatalogueItem
from region.rules.conditions import Values
from region.rules.judging import ItemJudge
from region.rules.ruleset import RuleSet
from region.rules.schema import EditorialList, HardRule, Promotion

NO_ROWS: IntArray = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What rules are applied to.

    `membership`: `[num_items, num_categories] float32`, above 0 where an item is of a category; `named`: by rule, rows
    of the items that it names, in its order.
    """

    rules: RuleSet
    items: Sequence[CatalogueItem]
    membership: FloatArray
    categories: tuple[str, ...]
    judge: ItemJudge
    named: Mapping[str, IntArray]
    blocked: Mapping[str, IntArray]
    """`named` of the hard rules, ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A binding and one call. `previous`: rows of the subject's last page, or None."""

    bound: Binding
    request: Values
    now_s: float
    asked_category: str | None = None
    previous: IntArray | None = None


def bind(
    rules: RuleSet, *, items: Sequence[CatalogueItem], row_of: Mapping[str, int], membership: FloatArray,
    categories: tuple[str, ...], on_error: Callable[[str], None],
) -> Binding:  # fmt: skip
    """Bind `rules` to the items of a release.

    Args:
        rules: compiled.
        items: the catalogue, in row order.
        row_of: rows by item id; items that the release does not know are nobody's.
        membership: see `Binding`.
        categories: names of its columns.
        on_error: told the source of an expression each time that it fails for an item.
    """
    naming: list[HardRule | Promotion | EditorialList] = [
        *(one.rule for one in rules.hard), *(one.rule for one in rules.promotions),
        *(one.rule for one in rules.editorial),
    ]  # fmt: skip
    named = {
        rule.id: np.asarray([row_of[item] for item in rule.items if item in row_of], dtype=np.int32)
        for rule in naming
        if rule.items
    }
    hard = {one.rule.id for one in rules.hard}
    return Binding(
        rules=rules, items=items, membership=membership, categories=categories,
        judge=ItemJudge(items, on_error=on_error), named=named,
        blocked={name: np.unique(rows) for name, rows in named.items() if name in hard},
    )  # fmt: skip
