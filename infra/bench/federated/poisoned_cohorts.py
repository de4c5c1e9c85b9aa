"""Cohorts of phones under secure aggregation, some of which do not keep to the rules: the phones' and gateway's code.

Every phone is a `SecureClient`, the gateway's part is `federation.gateway.cohorts`. What a cheating phone does instead
of its own part is given as a `Deed`; the phones themselves are told nothing of each other.
"""

import contextlib
import enum
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.gateway.cohorts import Cohorts, Seating, divide
from federation.messages import Phase, RegionalSum, RoundPlan
from federation.privacy.clipping import clip
from federation.secure_aggregation.client import ProtocolError, SecureClient, Trust
from federation.secure_aggregation.identity import Certificates, DeviceIdentity, enrol
from federation.secure_aggregation.ring import RingArray, to_ring
from federation.secure_aggregation.server import AggregationError
from federation.settings import CohortSettings

Float64Array = npt.NDArray[np.float64]
REGION, NOW_MS = "bench", 1_700_000_000_000


class Deed(enum.StrEnum):
    """What a phone does instead of its part."""

    NOT_FINITE = "nan"
    """Its own code is given numbers that are not finite."""
    ANOTHER_SHAPE = "shape"
    """It sends fewer numbers than were asked for."""
    TWICE = "twice"
    """It sends its update a second time, in the same round."""
    OF_BEFORE = "replay"
    """It sends the masked update that it sent in an earlier round."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What came of a round in the region.

    answer: what leaves the region.
    refused: messages and cohorts that were not taken, wherever that was seen.
    masked: what phones sent, by phone: what somebody can replay.
    """

    answer: RegionalSum
    refused: int
    masked: Mapping[int, RingArray]


class Phones:
    """Devices with their region's certificates; each takes part in any number of rounds.

    Args:
        count: of phones.
        cohorts: that a round's phones are divided into.
        division: into which ones; a gateway draws it anew for every round.
    """

    def __init__(self, count: int, *, cohorts: int, division: int = 0) -> None:
        self._division = division
        issuer = secrets.token_bytes(32)
        public = Ed25519PrivateKey.from_private_bytes(issuer).public_key().public_bytes_raw()
        self._policy = CohortSettings(cohorts=cohorts, noise_multiplier_min=0.0)
        self._trust = Trust(REGION, public)
        self._certificates = Certificates(region=REGION, issuer_public=public)
        self._identities = [
            enrol(region=REGION, issuer_private=issuer, device_private=secrets.token_bytes(32), expires_ms=NOW_MS + 1)
            for _ in range(count)
        ]

    def round(
        self, plan: RoundPlan, updates: Sequence[Float64Array], deeds: Mapping[int, Deed], *,
        beyond: Mapping[int, RingArray], before: Mapping[int, RingArray],
    ) -> Collected:  # fmt: skip
        """One round.

        Args:
            plan: what is asked for.
            updates: of every phone, as its own training made it.
            deeds: of phones that do something else.
            beyond: ring numbers that a phone puts in without its own clipping.
            before: masked updates of an earlier round.
        """
        session = secrets.token_hex(8)
        clients = [self._client(one, session) for one in self._identities]
        seating = self._divided(clients, session, plan)
        for number, client in enumerate(clients):
            gathering = seating.gathering(str(number))
            if gathering is not None:
                seating.take(str(number), client.seat(gathering))
        cohorts = seating.seated()
        for number, client in enumerate(clients):
            own, place = cohorts.sum_of(str(number)), cohorts.position(str(number))
            own.add_shares(place, client.share(own.roster(place)))
        refused, masked = 0, dict[int, RingArray]()
        for number, client in enumerate(clients):
            try:
                values = beyond.get(number)
                if values is None:
                    values = _in_ring(updates[number], deeds.get(number), plan)
                refused += self._send(cohorts, number, client, values, deeds.get(number), plan, before, masked)
            except ValueError:
                refused += 1  # the phone's own code, before anything is sent
        self._unmask(cohorts, clients)
        sums, lost = cohorts.noised(plan, weight=0, sampled=False, entropy=secrets.token_bytes)
        answer = RegionalSum(
            round_id=plan.round_id, region=REGION, phase=Phase.CLOSED if sums else Phase.VOID, shape=plan.shape,
            clipping_norm=plan.clipping_norm, noise_multiplier=plan.noise_multiplier, cohorts=tuple(sums),
            reason="; ".join(lost),
        )  # fmt: skip
        return Collected(answer, refused + len(lost), masked)

    def members(self, plan: RoundPlan) -> list[list[int]]:
        """Who is with whom, in every round."""
        session = "0" * 16
        seating = self._divided([self._client(one, session) for one in self._identities], session, plan)
        cohorts = seating.seated()
        together: dict[int, list[int]] = {}
        for number in range(len(self._identities)):
            together.setdefault(id(cohorts.sum_of(str(number))), []).append(number)
        return list(together.values())

    def _client(self, identity: DeviceIdentity, session: str) -> SecureClient:
        return SecureClient(
            round_id=session, identity=identity, trust=self._trust, now_ms=NOW_MS, entropy=secrets.token_bytes,
            certificates=self._certificates,
        )  # fmt: skip

    def _divided(self, clients: Sequence[SecureClient], session: str, plan: RoundPlan) -> Seating:
        adverts = {str(number): client.advert() for number, client in enumerate(clients)}
        rng = np.random.default_rng(self._division)
        seating = divide(adverts, session=session, plan=plan, policy=self._policy, rng=rng)
        if seating is None:
            raise ValueError("too few phones for a cohort")
        return seating

    def _send(
        self, cohorts: Cohorts, number: int, client: SecureClient, values: RingArray, deed: Deed | None,
        plan: RoundPlan, before: Mapping[int, RingArray], masked: dict[int, RingArray],
    ) -> int:  # fmt: skip
        """Send a phone's update as it or its deed has it; returns how many messages were refused."""
        own, place, refused = cohorts.sum_of(str(number)), cohorts.position(str(number)), 0
        sent = masked[number] = client.mask(values, own.mailbox(place), task=plan.digest())
        if deed is Deed.ANOTHER_SHAPE:
            sent = sent[:-1]
        if deed is Deed.OF_BEFORE:
            sent = before[number]
        for _ in range(2 if deed is Deed.TWICE else 1):
            try:
                own.add_masked(place, sent)
            except AggregationError:
                refused += 1
        return refused

    def _unmask(self, cohorts: Cohorts, clients: Sequence[SecureClient]) -> None:
        signed: list[int] = []
        for number, client in enumerate(clients):
            own, place = cohorts.sum_of(str(number)), cohorts.position(str(number))
            with contextlib.suppress(ProtocolError):  # who never came to mask anything is silent from then on
                own.add_signature(place, client.sign(own.survivors_message()).device_signature)
                signed.append(number)
        for number in signed:
            client = clients[number]
            own, place = cohorts.sum_of(str(number)), cohorts.position(str(number))
            with contextlib.suppress(ProtocolError):  # too many of its neighbours are silent
                own.add_unmasking(place, client.unmask(own.signatures(place)))


def _in_ring(update: Float64Array, deed: Deed | None, plan: RoundPlan) -> RingArray:
    """A phone's own last step; raises ValueError for numbers that are not finite."""
    if deed is Deed.NOT_FINITE:
        update = np.where(np.arange(update.size).reshape(update.shape) == 0, np.nan, update)
    return to_ring(clip(update, plan.clipping_norm), clipping_norm=plan.clipping_norm).ravel()
