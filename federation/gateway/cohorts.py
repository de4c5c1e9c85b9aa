"""The secure sums of one round: its phones divided at random, each part a sum of its own."""

from collections.abc import Mapping, Sequence, Set

import numpy as np

from federation.messages import CohortSum, RoundPlan, to_bytes
from federation.privacy.noise import Entropy, noised_sum
from federation.rounds.machine import parts
from federation.secure_aggregation import seats
from federation.secure_aggregation.messages import COHORT_MIN, Advert, Gathering, Seat
from federation.secure_aggregation.ring import COHORT_MAX, from_ring
from federation.secure_aggregation.server import AggregationError, BelowThresholdError, SecureSum
from federation.settings import CohortSettings

TOO_LONG = "a phone in it sent more than the clipping norm"
TOO_FEW = "fewer than half of the cohorts can be summed, and those left would decide alone"


class Cohorts:
    """Secure sums, and where each ticket stands in them."""

    def __init__(self, sums: Sequence[SecureSum], places: Mapping[str, tuple[int, int]]) -> None:
        self._sums = tuple(sums)
        self._places = dict(places)
        """Ticket -> (which sum, position in it)."""

    def __contains__(self, ticket: str) -> bool:
        """Whether a ticket has a place: not when its phone left while seats were drawn."""
        return ticket in self._places

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


class Seating:
    """Phones divided into cohorts whose seats are still to be drawn (`federation.secure_aggregation.seats`)."""

    def __init__(
        self, divided: Sequence[Sequence[str]], adverts: Mapping[str, Advert], *, session: str, plan: RoundPlan
    ) -> None:  # fmt: skip
        self._adverts = adverts
        self._session = session
        self._plan = plan
        self._nonces: dict[str, bytes] = {}
        self._gatherings: dict[str, Gathering] = {}
        """By ticket; one for all of a cohort."""
        self._begin(1, divided)

    def gathering(self, ticket: str) -> Gathering | None:
        """What the present draw is made for; None for a phone that left an earlier one."""
        return self._gatherings.get(ticket)

    def take(self, ticket: str, seat: Seat) -> None:
        """Take a phone's nonce.

        Raises:
            AggregationError: it is not that of this draw.
        """
        if ticket not in self._gatherings or seats.commitment_of(seat.nonce, draw=self.draw) != self._committed(ticket):
            raise AggregationError("the nonce is not what was committed to for this draw")
        self._nonces[ticket] = seat.nonce

    def again(self, staying: Set[str]) -> None:
        """Draw once more, with those who stay."""
        self._begin(self.draw + 1, [[ticket for ticket in part if ticket in staying] for part in self._divided])

    def seated(self) -> Cohorts:
        """The cohorts, with everybody where the nonces put them; without nonces as they were divided."""
        places: dict[str, tuple[int, int]] = {}
        sums = []
        for which, part in enumerate(self._divided):
            nonces = b"".join(self._nonces.get(ticket, b"") for ticket in part)
            own = self._by_seat(part, nonces) if nonces else part
            places.update({ticket: (which, position) for position, ticket in enumerate(own)})
            adverts = [self._adverts[ticket] for ticket in own]
            sums.append(
                SecureSum(
                    round_id=self._session, adverts=adverts, length=self._plan.length, task=self._plan.digest(),
                    nonces=nonces,
                )
            )  # fmt: skip
        return Cohorts(sums, places)

    def _begin(self, draw: int, divided: Sequence[Sequence[str]]) -> None:
        self.draw = draw
        """From 1."""
        self._divided = divided
        self._nonces.clear()
        self._gatherings.clear()
        for part in divided:
            gathering = Gathering(draw=draw, seat_commitments=b"".join(map(self._committed, part)))
            self._gatherings.update(dict.fromkeys(part, gathering))

    def _by_seat(self, part: Sequence[str], nonces: bytes) -> list[str]:
        tickets = {self._committed(ticket): ticket for ticket in part}
        drawn = seats.order(self._session, self.draw, self._gatherings[part[0]].seat_commitments, nonces)
        return [tickets[one] for one in drawn]

    def _committed(self, ticket: str) -> bytes:
        return self._adverts[ticket].seat_commitment


def divide(
    adverts: Mapping[str, Advert], *, session: str, plan: RoundPlan, policy: CohortSettings, rng: np.random.Generator
) -> Seating | None:
    """The cohorts over `adverts` (by ticket), in random order; None when they are too few, or too many, for one."""
    selected = list(adverts)
    tickets = [selected[at] for at in rng.permutation(len(selected))]
    count = parts(policy, len(tickets))
    if not COHORT_MIN * count <= len(tickets) <= COHORT_MAX * count:
        return None
    return Seating([tickets[which::count] for which in range(count)], adverts, session=session, plan=plan)
