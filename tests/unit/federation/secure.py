"""A whole secure sum in memory: phones, gateway, and who drops out when."""

import secrets
from collections.abc import Callable, Mapping

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.device.rounds import DeviceRound
from federation.secure_aggregation import graph, seats
from federation.secure_aggregation.client import SecureClient, Trust
from federation.secure_aggregation.identity import DeviceIdentity, enrol
from federation.secure_aggregation.messages import Gathering
from federation.secure_aggregation.ring import RingArray
from federation.secure_aggregation.server import SecureSum
from infra.plumbing.keys import RegionKeys, TrustDirectory

REGION, ROUND_ID, NOW_MS = "us-east", "ab" * 8, 1_700_000_000_000
NEVER, BEFORE_SHARES, BEFORE_UPDATE, BEFORE_UNMASKING = 9, 1, 2, 3
"""When a phone drops out."""
ISSUER = bytes(range(32))
TASK = b"what all of them were told"
TRUST = Trust(REGION, Ed25519PrivateKey.from_private_bytes(ISSUER).public_key().public_bytes_raw())

Entropy = Callable[[int], bytes]


def device(*, entropy: Entropy = secrets.token_bytes) -> DeviceIdentity:
    return enrol(region=REGION, issuer_private=ISSUER, device_private=entropy(32), expires_ms=NOW_MS + 1)


def phone(
    *, entropy: Entropy = secrets.token_bytes, round_id: str = ROUND_ID, identity: DeviceIdentity | None = None,
    trust: Trust = TRUST,
) -> SecureClient:  # fmt: skip
    identity = identity or device(entropy=entropy)
    return SecureClient(round_id=round_id, identity=identity, trust=trust, now_ms=NOW_MS, entropy=entropy)


class Certified:
    """Devices with their region's certificate, a new one for every round that is asked for."""

    def __init__(self, keys: RegionKeys, *, now_ms: int, entropy: Entropy = secrets.token_bytes) -> None:
        self.trust = Trust(keys.region, TrustDirectory.of([keys]).regions[keys.region].issuer_public)
        self.keys = keys
        self.now_ms = now_ms
        self.entropy = entropy

    def device(self) -> DeviceIdentity:
        return enrol(
            region=self.keys.region, issuer_private=self.keys.issuer_private, device_private=self.entropy(32),
            expires_ms=self.now_ms + 10**7,
        )  # fmt: skip

    def round(self, session: str, *, identity: DeviceIdentity | None = None) -> DeviceRound:
        return DeviceRound(
            session, identity=identity or self.device(), trust=self.trust, now_ms=self.now_ms, entropy=self.entropy
        )  # fmt: skip


class Session:
    """The steps of one sum. `seen` holds everything that reached the gateway."""

    def __init__(
        self, values: list[RingArray], *, entropy: Entropy = secrets.token_bytes, late: frozenset[int] = frozenset()
    ) -> None:
        self.late = late
        """Phones that share, come too late with their update, and help all the same."""
        self.values = values
        self.phones = [phone(entropy=entropy) for _ in values]
        self.adverts = [one.advert() for one in self.phones]
        self.sum = self._seated(len(values[0]))
        self.seen: list[object] = [*self.adverts]
        self.masked: dict[int, RingArray] = {}

    def _seated(self, length: int) -> SecureSum:
        """The sum, with phones and adverts by the seats that they drew where there are many of them."""
        nonces = b""
        if len(self.phones) > graph.COMPLETE_MAX:
            found = [advert.seat_commitment for advert in self.adverts]
            gathering = Gathering(draw=1, seat_commitments=b"".join(found))
            nonces = b"".join(one.seat(gathering).nonce for one in self.phones)
            by_seat = [found.index(one) for one in seats.order(ROUND_ID, 1, gathering.seat_commitments, nonces)]
            self.phones = [self.phones[at] for at in by_seat]
            self.adverts = [self.adverts[at] for at in by_seat]
        return SecureSum(round_id=ROUND_ID, adverts=self.adverts, length=length, task=TASK, nonces=nonces)

    def run(self, drops: Mapping[int, int]) -> RingArray:
        def stays(index: int, stage: int) -> bool:
            return drops.get(index, NEVER) > stage

        for index, one in enumerate(self.phones):
            if stays(index, BEFORE_SHARES):
                shares = one.share(self.sum.roster(index))
                self.seen.append(shares)
                self.sum.add_shares(index, shares)
        for index in sorted(self.sum.sharers):
            if stays(index, BEFORE_UPDATE):
                masked = self.phones[index].mask(self.values[index], self.sum.mailbox(index), task=TASK)
                if index in self.late:
                    continue
                self.masked[index] = masked
                self.seen.append(masked)
                self.sum.add_masked(index, masked)
        told = self.sum.survivors_message()
        able = self.sum.survivors | (self.late & self.sum.sharers)
        left = [index for index in sorted(able) if stays(index, BEFORE_UNMASKING)]
        for index in left:
            self.sum.add_signature(index, self.phones[index].sign(told).device_signature)
        for index in left:
            shares_given = self.phones[index].unmask(self.sum.signatures(index))
            self.seen.append(shares_given)
            self.sum.add_unmasking(index, shares_given)
        return self.sum.total()

    def plain(self) -> RingArray:
        """What the sum has to be."""
        total = np.zeros_like(self.values[0])
        for index in self.sum.survivors:
            total += self.values[index]
        return total
