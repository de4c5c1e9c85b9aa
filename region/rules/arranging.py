"""Arranging a slate: diversity by maximal marginal relevance, a cap on categories, and backfill, in one greedy pass.

MMR is Carbonell and Goldstein (1998): the next item is the one with the largest
``(1 - diversity) * relevance - diversity * (largest cosine similarity to an item already placed)``.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from infra.contracts.features import FloatArray, IntArray

BoolArray = npt.NDArray[np.bool_]

BACKFILL_RELEVANCE = -10.0
"""Below anything that MMR can give a candidate, so that backfill comes in only when nothing else fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What may be placed, best first: candidates and, behind them, backfill.

    `relevance`: `[count] float32`, 0 to 1, backfill below 0; `unit_vectors`: `[count, dim] float32`, length one;
    `membership`: `[count, num_categories] bool`.
    """

    relevance: FloatArray
    unit_vectors: FloatArray
    membership: BoolArray


def category_limit(position: int, *, page: int, share_max: float) -> int:
    """How many of the first `position` items one category may hold.

    Counted over the whole page on the first page, and over everything up to `position` behind it, so that the share
    holds for the page and for every longer part of the slate.
    """
    return max(1, int(share_max * max(position, page) + 1e-9))


def arrange(
    offer: Offer, *, slots: int, page: int, diversity: float, share_max: float, exempt: BoolArray | None = None
) -> IntArray:
    """Positions of `offer` in the order of the slate, at most `slots`.

    An item over the cap is placed only when nothing under it is left. `exempt`, `[num_categories] bool`, marks
    categories without a cap (the one that the caller asked for).
    """
    count = offer.relevance.size
    capped = offer.membership if exempt is None else offer.membership & ~exempt
    # Backfill keeps its distance below the candidates, however much diversity weighs.
    value = np.where(offer.relevance < 0.0, offer.relevance, (1.0 - diversity) * offer.relevance)
    closest = np.zeros(count, dtype=np.float32)
    taken = np.zeros(count, dtype=np.bool_)
    held = np.zeros(offer.membership.shape[1], dtype=np.int64)
    placed: list[int] = []
    for position in range(1, min(slots, count) + 1):
        full = held >= category_limit(position, page=page, share_max=share_max)
        choice = _choose(value - diversity * closest, taken, capped, full)
        placed.append(choice)
        taken[choice] = True
        held += capped[choice]
        if diversity:
            np.maximum(closest, offer.unit_vectors @ offer.unit_vectors[choice], out=closest)
    return np.asarray(placed, dtype=np.int32)


def _choose(value: FloatArray, taken: BoolArray, capped: BoolArray, full: BoolArray) -> int:
    open_value = np.where(taken, -np.inf, value)
    if full.any():
        under = np.where(capped[:, full].any(axis=1), -np.inf, open_value)
        choice = int(under.argmax())
        if under[choice] > -np.inf:
            return choice
    return int(open_value.argmax())


def backfill_relevance(count: int) -> FloatArray:
    """Relevance of `count` items of backfill, best first: below every candidate, in falling order."""
    return np.float32(BACKFILL_RELEVANCE) - np.arange(count, dtype=np.float32)
