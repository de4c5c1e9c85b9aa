"""Arranging a slate in one greedy pass: promotions, exploration, floors, quotas, diversity, backfill.

At each position: a promotion that is due, else what an explorer draws for it, else among the members of floors that can
no longer wait, else among everything, the item of the largest value whose quotas are not full. What is not possible
gives way in the reverse order: a page is never left short for a quota or a floor.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from infra.contracts.features import FloatArray, IntArray
from region.rules.diversity import diversifier
from region.rules.schema import Diversity

BoolArray = npt.NDArray[np.bool_]

EXPLORED = "exploration"
"""The name, beside those of rules, for what a draw put where it stands."""
BACKFILL_VALUE = -100.0
"""Below anything that a candidate can come to, so that backfill comes in only when nothing else fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What may be placed, best first: candidates and, behind them, backfill.

    `relevance`: `[count] float32`, about 0 to 1; `unit_vectors`: `[count, dim] float32`, length one; `backfill`: how
    many at the end come in only when nothing else fits.
    """

    relevance: FloatArray
    unit_vectors: FloatArray
    backfill: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """`members [count, quotas] bool`, which items each quota counts; `share_max [quotas]`, of a page; `names`."""

    members: BoolArray
    share_max: npt.NDArray[np.float64]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Floors:
    """`members [count, floors] bool`; `needed [floors] int`, how many of the first page; `names`."""

    members: BoolArray
    needed: npt.NDArray[np.int64]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Promoted:
    """Items (places in the offer, best first) that may take a position by the rule of this name."""

    choices: IntArray
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """The place in the offer that was drawn for a position."""

    choice: int


class Explorer(Protocol):
    """What fills the exploration slots of one slate (`region.exploration.drawing`)."""

    def draw(self, position: int, values: FloatArray, allowed: BoolArray) -> Draw | None:
        """What to show at `position`; None where it is no exploration slot, or nothing may be drawn.

        Args:
            position: 1 for the first.
            values: `[count]`, what each place of the offer is worth here.
            allowed: `[count] bool`, what may stand here: not placed yet, within quotas, of a floor that is due.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the rules ask of one slate."""

    diversity: Diversity
    explorer: Explorer | None = None
    """Asked for every position of the first page that no promotion takes."""
    quotas: Quotas | None = None
    floors: Floors | None = None
    promoted: Mapping[int, Promoted] = field(default_factory=dict)
    """By position, 1 for the first."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Places in the offer in the order of the slate, and for each the names of what moved it."""

    order: IntArray
    touched: tuple[tuple[str, ...], ...]


def quota_limit(
    position: "int | npt.NDArray[np.int64]", *, page: int, share_max: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """How many of the first `position` items each quota may hold, at least one. `position` and `share_max` broadcast.

    Counted over the whole page on the first page, and over everything up to `position` behind it, so that the share
    holds for the page and for every longer part of the slate.
    """
    limit: npt.NDArray[np.int64] = np.maximum(1, (share_max * np.maximum(position, page) + 1e-9).astype(np.int64))
    return limit


def arrange(offer: Offer, layout: Layout, *, slots: int, page: int) -> Placed:
    """The slate of an offer, at most `slots` long; shorter only when the offer is."""
    pass_ = _Pass(offer, layout, slots=slots, page=page)
    for position in range(1, min(slots, offer.relevance.size) + 1):
        pass_.step(position)
    return Placed(np.asarray(pass_.order, dtype=np.int32), tuple(pass_.touched))


class _Pass:
    """The state of one arrangement."""

    def __init__(self, offer: Offer, layout: Layout, *, slots: int, page: int) -> None:
        count = offer.relevance.size
        self._layout = layout
        self._page = min(page, slots, count)
        self._diversifier = diversifier(layout.diversity, offer.relevance, offer.unit_vectors, slots=slots)
        # What is added to a value: what keeps backfill behind, and what keeps out what is placed.
        self._open = np.zeros(count, dtype=np.float32)
        if offer.backfill:
            self._open[count - offer.backfill :] = BACKFILL_VALUE - np.arange(offer.backfill)
        relevance = offer.relevance + self._open
        self._relevance = relevance
        self._by_relevance: list[int] = np.argsort(-relevance, kind="stable").tolist()
        self._next_relevant = 0
        self._values = np.empty(count, dtype=np.float32)
        self._taken = np.zeros(count, dtype=np.bool_)
        if layout.quotas is not None:
            # Once for all positions, and a row for each quota: a slate asks for them thirty times.
            positions = np.arange(1, slots + 1)[:, None]
            self._limits = quota_limit(positions, page=page, share_max=layout.quotas.share_max)
            self._limit_of: list[list[int]] = self._limits.tolist()
            self._members_of = np.ascontiguousarray(layout.quotas.members.T)
        self._held = [0] * (len(layout.quotas.names) if layout.quotas else 0)
        self._met = np.zeros(len(layout.floors.names) if layout.floors else 0, dtype=np.int64)
        self.order: list[int] = []
        self.touched: list[tuple[str, ...]] = []

    def step(self, position: int) -> None:
        """Fill one position."""
        promoted = self._layout.promoted.get(position)
        if promoted is not None:
            open_ = promoted.choices[~self._taken[promoted.choices]]
            if open_.size:
                self._take(int(open_[0]), (promoted.name,))
                return
        due = self._floors_due(position)
        values = np.add(self._diversifier.values(), self._open, out=self._values)
        if self._layout.explorer is not None and position <= self._page:
            drawn = self._layout.explorer.draw(position, values, self._may_stand(values, position, due))
            if drawn is not None:
                self._take(drawn.choice, (EXPLORED,))
                return
        choice, names = self._choose(values, position, due)
        if self._layout.diversity.strength and not names and not self._is_most_relevant(choice):
            names = ("diversity",)
        self._take(choice, names)

    def _masks(self, position: int, due: BoolArray | None) -> list[BoolArray]:
        """What may stand here by floors and quotas, strictest first; empty: anything."""
        within = self._within_quotas(position)
        masks = [within] if within is not None else []
        if due is not None and bool((due & ~self._taken).any()):
            masks = [due if within is None else due & within, due, *masks]
        return masks

    def _may_stand(self, values: FloatArray, position: int, due: BoolArray | None) -> BoolArray:
        """What may stand here, under the strictest mask that leaves anything."""
        open_ = ~self._taken & np.isfinite(values)
        for mask in self._masks(position, due):
            if (mask & open_).any():
                return mask & open_
        return open_

    def _choose(self, values: FloatArray, position: int, due: BoolArray | None) -> tuple[int, tuple[str, ...]]:
        free = int(values.argmax())
        if due is None and not self._is_full_for(free, position):
            return free, ()
        floored = due is not None and bool((due & ~self._taken).any())
        for mask in self._masks(position, due):
            restricted = np.where(mask, values, -np.inf)
            choice = int(restricted.argmax())
            if restricted[choice] > -np.inf:
                return choice, self._why(choice, free, floored=floored)
        return free, ()

    def _why(self, choice: int, free: int, *, floored: bool) -> tuple[str, ...]:
        """Names of the rules for which `choice` stands here and not `free`."""
        if choice == free:
            return ()
        floors, quotas = self._layout.floors, self._layout.quotas
        if floored and floors is not None:
            own = np.flatnonzero(floors.members[choice] & (self._met < floors.needed))
            if own.size:
                return tuple(floors.names[index] for index in own.tolist())
        if quotas is None:
            return ()
        full = np.flatnonzero(quotas.members[free] & ~quotas.members[choice])
        return tuple(dict.fromkeys(quotas.names[index] for index in full.tolist()))[:3]

    def _floors_due(self, position: int) -> BoolArray | None:
        """Which items may stand here when floors can wait no longer; None while they can, and behind the page."""
        floors = self._layout.floors
        if floors is None or position > self._page:
            return None
        missing = np.maximum(floors.needed - self._met, 0)
        if not missing.any():
            return None
        # Positions that promotions will take are not to be had.
        left = sum(1 for later in range(position, self._page + 1) if later not in self._layout.promoted)
        if left > int(missing.sum()):
            return None
        return _any_of(floors.members[:, missing > 0])

    def _within_quotas(self, position: int) -> BoolArray | None:
        quotas = self._layout.quotas
        if quotas is None:
            return None
        full = np.asarray(self._held) >= self._limits[position - 1]
        if not np.logical_or.reduce(full):
            return None
        within: BoolArray = ~np.logical_or.reduce(self._members_of[full], axis=0)
        return within

    def _is_full_for(self, choice: int, position: int) -> bool:
        """Whether a quota that `choice` counts for takes no more here."""
        held, limit = self._held, self._limit_of[position - 1] if self._held else self._held
        return any(held[quota] >= limit[quota] for quota in self._quotas_of(choice))

    def _quotas_of(self, choice: int) -> list[int]:
        """Places of the quotas that count `choice`."""
        quotas = self._layout.quotas
        found: list[int] = [] if quotas is None else quotas.members[choice].nonzero()[0].tolist()
        return found

    def _is_most_relevant(self, choice: int) -> bool:
        """Whether nothing that is not placed yet, `choice` aside, is more relevant."""
        order, taken = self._by_relevance, self._taken
        while taken[order[self._next_relevant]]:
            self._next_relevant += 1
        return bool(self._relevance[order[self._next_relevant]] <= self._relevance[choice])

    def _take(self, choice: int, names: tuple[str, ...]) -> None:
        self.order.append(choice)
        self.touched.append(names)
        self._taken[choice] = True
        self._open[choice] = -np.inf
        self._diversifier.place(choice)
        for quota in self._quotas_of(choice):
            self._held[quota] += 1
        if self._layout.floors is not None:
            self._met += self._layout.floors.members[choice]


def _any_of(members: BoolArray) -> BoolArray:
    """Rows with any column set. `[count, columns] bool` to `[count] bool`."""
    found: BoolArray = np.any(members, axis=1)
    return found
