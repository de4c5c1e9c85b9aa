"""Which item an exploration slot shows: the chance of every arm, as a table. Pure but for the generator handed in.

The item is drawn from the very table that is logged, so a logged propensity is no estimate, whatever the table was
made of. Two policies (Sutton and Barto, Reinforcement Learning, 2018, ch. 2; Chapelle and Li, "An empirical evaluation
of Thompson sampling", 2011):

* epsilon-greedy: the arm that ranking puts first, but for a share `epsilon` that is drawn evenly;
* Thompson: the share of posterior draws in which an arm's click rate is the largest, mixed with the same even share.

Then the chance of new items together is brought between the bounds that the rules set.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from region.rules.schema import Exploration

Chances = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
POSTERIOR_DRAWS = 256
"""Of a slot that is served: a chance is a multiple of 1/256, mixed with the even share."""
PRIOR_IMPRESSIONS = 20.0
"""An item is taken to have been shown so often already, at the region's usual click rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arms:
    """What may stand in a slot, best by ranking first, and what was known of each.

    `clicks`, `impressions`: `[arms] float64`, decayed counts of the region; `new`: `[arms] bool`.
    """

    clicks: Chances
    impressions: Chances
    new: BoolArray
    prior_rate: float

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.new.size)

    def rates(self) -> Chances:
        """Click rates, drawn towards the region's usual one."""
        rates: Chances = (self.clicks + self.prior_rate * PRIOR_IMPRESSIONS) / (
            np.maximum(self.impressions, self.clicks) + PRIOR_IMPRESSIONS
        )
        return rates


def chances(arms: Arms, rules: Exploration, generator: np.random.Generator, *, draws: int = POSTERIOR_DRAWS) -> Chances:
    """The chance of every arm, `[arms] float64`: each at least what `epsilon` guarantees, all together 1."""
    even = np.full(arms.count, 1.0 / arms.count)
    mixed = (1.0 - rules.epsilon) * _preferred(arms, rules, generator, draws) + rules.epsilon * even
    bounded = _within_bounds(mixed, arms.new, rules.new_share_min, rules.new_share_max)
    table: Chances = bounded / bounded.sum()
    return table


def _preferred(arms: Arms, rules: Exploration, generator: np.random.Generator, draws: int) -> Chances:
    if rules.method == "epsilon-greedy":
        first = np.zeros(arms.count)
        first[0] = 1.0
        return first
    alpha = arms.clicks + arms.prior_rate * PRIOR_IMPRESSIONS
    beta = np.maximum(arms.impressions - arms.clicks, 0.0) + (1.0 - arms.prior_rate) * PRIOR_IMPRESSIONS
    best = generator.beta(alpha, beta, size=(draws, arms.count)).argmax(axis=1)
    won: Chances = np.bincount(best, minlength=arms.count) / draws
    return won


def _within_bounds(chances: Chances, new: BoolArray, low: float, high: float) -> Chances:
    """`chances` with the mass of the new arms between `low` and `high`, as far as there are arms of both kinds."""
    mass = float(chances[new].sum())
    wanted = min(max(mass, low), high)
    if not new.any() or new.all() or wanted == mass:
        return chances
    # A kind without any chance of its own (epsilon 0) gets what it is owed evenly.
    own = chances[new] if mass > 0.0 else np.ones(int(new.sum()))
    others = chances[~new] if mass < 1.0 else np.ones(int((~new).sum()))
    bounded = np.empty_like(chances)
    bounded[new] = wanted * own / own.sum()
    bounded[~new] = (1.0 - wanted) * others / others.sum()
    return bounded
