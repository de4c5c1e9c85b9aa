"""What somebody new chooses from: popular items by category, each once, categories that share little first."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from infra.contracts.discovery import ChoiceCategory, ChoiceItem
from infra.contracts.features import IntArray
from region.funnel.tables import ReleaseTables

HEAD = 40
"""Items of a category, the most popular first, that say how popular it is and what it shares with others."""
CATEGORIES_LOOKED_AT_MAX = 200


@dataclass(frozen=True, slots=True)
class _Head:
    name: str
    rows: IntArray
    weight: float


def choices_of(
    tables: ReleaseTables, permitted: Callable[[IntArray], IntArray], *, categories: int, items: int
) -> tuple[ChoiceCategory, ...]:
    """At most `categories`, each with at most `items` that `permitted` lets through; categories without any left out.

    Greedy: the next category is the one whose head brings most popularity that those before do not cover.
    """
    heads = _heads(tables)
    popularity, covered = tables.arrays.popularity, np.zeros(0, dtype=np.int32)
    chosen: list[ChoiceCategory] = []
    while heads and len(chosen) < categories:
        gains = [float(popularity[head.rows[~np.isin(head.rows, covered)]].sum()) for head in heads]
        head = heads.pop(int(np.argmax(gains)))
        fresh = permitted(head.rows[~np.isin(head.rows, covered)])[:items]
        covered = np.union1d(covered, head.rows).astype(np.int32)
        if fresh.size:
            found = [tables.items[row] for row in fresh.tolist()]
            chosen.append(
                ChoiceCategory(
                    category=head.name, items=tuple(ChoiceItem(item=one.item, title=one.title) for one in found)
                )
            )
    return tuple(chosen)


def _heads(tables: ReleaseTables) -> list[_Head]:
    popularity = tables.arrays.popularity
    heads = [
        _Head(name, rows[:HEAD], float(popularity[rows[:HEAD]].sum())) for name, rows in tables.category_rows.items()
    ]
    heads.sort(key=lambda head: (-head.weight, head.name))
    return heads[:CATEGORIES_LOOKED_AT_MAX]
