"""Drawing the item of an exploration slot while a slate is arranged."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from infra.contracts.features import FloatArray, IntArray
from region.exploration.policy import Arms, BoolArray, Chances, chances
from region.rules.arranging import Draw
from region.rules.schema import Exploration

NEW_SHARE_OF_ARMS = 0.5
"""At most this part of a slot's arms are new items; the others are those that ranking would show next."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One slot as it was drawn: what a log of exposures needs of it. `arms`: places in the offer."""

    position: int
    arms: IntArray
    known: Arms
    chances: Chances
    shown: int
    """Index of the arm that was drawn."""


@dataclass(slots=True, kw_only=True)
class Explorer:
    """Implements `region.rules.arranging.Explorer` for one slate.

    Args:
        rules: of the surface.
        generator: of this call, and of no other.
        new: which places of the offer hold new items, `[count] bool`.
        counts: clicks and impressions of the items at some places.
        prior_rate: the region's usual click rate.
    """

    rules: Exploration
    generator: np.random.Generator
    new: BoolArray
    counts: Callable[[IntArray], tuple[Chances, Chances]]
    prior_rate: float
    drawn: list[Drawn] = field(default_factory=list)

    def draw(self, position: int, values: FloatArray, allowed: BoolArray) -> Draw | None:
        """See `region.rules.arranging.Explorer.draw`."""
        if position not in self.rules.positions:
            return None
        arms = self._arms(values, allowed)
        if not arms.size:
            return None
        clicks, impressions = self.counts(arms)
        known = Arms(clicks=clicks, impressions=impressions, new=self.new[arms], prior_rate=self.prior_rate)
        table = chances(known, self.rules, self.generator)
        shown = int(self.generator.choice(arms.size, p=table))
        self.drawn.append(Drawn(position, arms, known, table, shown))
        return Draw(choice=int(arms[shown]))

    def _arms(self, values: FloatArray, allowed: BoolArray) -> IntArray:
        """Those that ranking would show next, and new items drawn evenly from all that there are; best first."""
        new, known = np.flatnonzero(allowed & self.new), np.flatnonzero(allowed & ~self.new)
        room = max(1, int(self.rules.arms * NEW_SHARE_OF_ARMS))
        if new.size > room:
            new = self.generator.choice(new, size=room, replace=False)
        limit = self.rules.arms - new.size
        if known.size > limit:
            known = known[np.argpartition(-values[known], limit - 1)[:limit]]
        arms = np.concatenate([known, new])
        return arms[np.argsort(-values[arms], kind="stable")].astype(np.int32)
