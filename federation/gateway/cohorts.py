"""The secure sums of one round: its phones divided at random, each part a sum of its own."""

from collections.abc import Mapping, Sequence

import numpy as np

from federation.messages import CohortSum, RoundPlan, to_bytes
from federation.privacy.noise import Entropy, noised_sum
from federation.secure_aggregation.messages import COHORT_MIN, Advert
from federation.secure_aggregation.ring import COHORT_MAX, from_ring
from federation.secure_aggregation.server import BelowThresholdError, SecureSum
from federation.settings import CohortSettings

TOO_LONG = "a phone in it sent more than the clipping norm"
TOO_FEW = "fewer than half of the cohorts can be summed, and those left would decide alone"


class Cohorts:
    """Secure sums, and where each ticket stands in them."""

    def __init__(self, sums: Sequence[SecureSum], places: Mapping[str, tuple[int, int]]) -> None:
        self._sums = tuple(sums)
        self._places = dict(places)
        """Ticket -> (which sum, position in it)."""

    def sum_of(self, ticket: str) -> SecureSum:
        """The sum that a ticket belongs to."""
        return self._sums[self._places[ticket][0]]

    def position(self, ticket: str) -> int:
        """Where the ticket stands in it."""
        return self._places[ticket][1]

    @property
    def agreed(self) -> bool:
        """Whether in every sum those who signed can do without the others."""
        return all(one.agreed for one in self._sums)

    @property
    def complete(self) -> bool:
        """Whether every sum can be unmasked."""
        return all(one.complete for one in self._sums)

    @property
    def partly_complete(self) -> bool:
        """Whether at least one can."""
        return any(one.complete for one in self._sums)

    def noised(
        self, plan: RoundPlan, *, weight: int, sampled: bool, entropy: Entropy
    ) -> tuple[list[CohortSum], list[str]]:
        """The sums that can be unmasked, each with the region's noise in full, and why the others are lost.

        With sampling, `weight` (fixed beforehand) is divided evenly; without, each sum counts its own phones. With
        fewer than half of them there are none: who spoils most cohorts must not choose whose updates remain.
        """
        sums, lost = [], []
        for one in self._sums:
            try:
                total = from_ring(one.total(), clipping_norm=plan.clipping_norm)
            except BelowThresholdError as error:
                lost.append(str(error))
                continue
            # Honest phones stay below the norm, so their sum does too: a longer one tells of a phone that cheated.
            if np.linalg.norm(total) > len(one.survivors) * plan.clipping_norm * (1.0 + 1e-9):
                lost.append(TOO_LONG)
                continue
            noised = noised_sum(
                total, clipping_norm=plan.clipping_norm, noise_multiplier=plan.noise_multiplier, entropy=entropy
            )
            share = max(1, weight // len(self._sums)) if sampled else len(one.survivors)
            sums.append(CohortSum(total=to_bytes(noised.reshape(plan.shape)), weight=share))
        if 2 * len(sums) < len(self._sums):
            return [], [*lost, *[TOO_FEW] * len(sums)]
        return sums, lost


def divide(
    adverts: Mapping[str, Advert], *, session: str, plan: RoundPlan, policy: CohortSettings, rng: np.random.Generator
) -> Cohorts | None:
    """The cohorts over `adverts` (by ticket), in random order; None when they are too few, or too many, for one."""
    selected = list(adverts)
    tickets = [selected[at] for at in rng.permutation(len(selected))]
    # With sampling the number of cohorts must not tell how many the coins took.
    crowd = policy.expected_count if policy.sampling_probability < 1.0 else len(tickets)
    parts = max(1, min(policy.cohorts, crowd // max(policy.count_min, COHORT_MIN)))
    if not COHORT_MIN * parts <= len(tickets) <= COHORT_MAX * parts:
        return None
    places, sums, task = {}, [], plan.digest()
    for which in range(parts):
        own = tickets[which::parts]
        places.update({ticket: (which, position) for position, ticket in enumerate(own)})
        sums.append(
            SecureSum(
                round_id=session, adverts=[adverts[ticket] for ticket in own], length=plan.length, task=task
            )
        )  # fmt: skip
    return Cohorts(sums, places)
