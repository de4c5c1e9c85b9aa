"""What phones and gateway say to each other in one secure sum. All of it stays in the region.

In order: `Advert` (phone), in large cohorts `Gathering` (gateway) and `Seat` (phone), `Roster` (gateway),
`SealedShares` (phone), `Mailbox` (gateway), `MaskedUpdate` (phone), `Survivors` (gateway), `SurvivorsSigned` (phone),
`Signatures` (gateway), `Unmasking` (phone). A phone that was too late with its update may ask for the survivors all the
same (`SurvivorsAsked`) and go on from there.
"""

import hashlib

import numpy as np

from federation.secure_aggregation.identity import DeviceCertificate
from infra.contracts.residency import Global, Regional, RegionalMessage

COHORT_MIN = 3
"""Neither side takes part in a sum of fewer: with two, each could subtract itself and see the other."""


class Advert(RegionalMessage, frozen=True, kw_only=True):
    """A phone's public keys for one round, signed by its device key."""

    mask_key: Regional[bytes]
    """X25519: pair masks. Its private half is what the neighbours can put together if the phone drops out."""
    share_key: Regional[bytes]
    """X25519: seals shares. Its private half never leaves the phone."""
    seed_commitment: Regional[bytes]
    seat_commitment: Regional[bytes]
    """`federation.secure_aggregation.seats`: the head of a chain of nonces that draw the seats."""
    certificate: Regional[DeviceCertificate]
    device_signature: Regional[bytes]


class Gathering(RegionalMessage, frozen=True, kw_only=True):
    """Who is in a cohort whose seats are to be drawn, the same for all of it."""

    draw: Regional[int]
    """From 1; a further one where phones left during the draw before."""
    seat_commitments: Regional[bytes]
    """One behind the other, NONCE_BYTES each."""


class Seat(RegionalMessage, frozen=True, kw_only=True):
    """A phone's nonce for this draw."""

    round_id: Global[str]
    nonce: Regional[bytes]


class Roster(RegionalMessage, frozen=True, kw_only=True):
    """Where a phone stands in the round, and its neighbours' adverts by their positions."""

    position: Regional[int]
    roster_count: Regional[int]
    neighbours: Regional[dict[int, Advert]]
    nonces: Regional[bytes] = b""
    """What the seats were drawn with, in the order of the gathering; empty in cohorts where everybody is everybody's
    neighbour."""


class Placed(RegionalMessage, frozen=True, kw_only=True):
    """Answer to a `Seat`: the phone's place, or a further draw."""

    roster: Regional[Roster | None] = None
    gathering: Regional[Gathering | None] = None


class SealedShares(RegionalMessage, frozen=True, kw_only=True):
    """Shares of a phone's two secrets, sealed for each neighbour."""

    round_id: Global[str]
    sealed: Regional[dict[int, bytes]]


class Mailbox(RegionalMessage, frozen=True, kw_only=True):
    """What the neighbours sealed for a phone; who is missing has dropped out."""

    sealed: Regional[dict[int, bytes]]


class MaskedUpdate(RegionalMessage, frozen=True, kw_only=True):
    """An update under its masks: `[length]` numbers modulo 2**32, uniform to whoever lacks the masks."""

    round_id: Global[str]
    masked: Regional[bytes]


class Survivors(RegionalMessage, frozen=True, kw_only=True):
    """Whose masked updates are in the sum, as bits by position, first position in the highest bit."""

    survivor_bits: Regional[bytes]


class SurvivorsAsked(RegionalMessage, frozen=True, kw_only=True):
    """A phone that shared and came too late with its update: it can still help to take the masks off."""

    round_id: Global[str]


class SurvivorsSigned(RegionalMessage, frozen=True, kw_only=True):
    """A phone's signature under the survivors that it was told of."""

    round_id: Global[str]
    device_signature: Regional[bytes]


class Signatures(RegionalMessage, frozen=True, kw_only=True):
    """The neighbours' signatures under the survivors, by position."""

    neighbour_signatures: Regional[dict[int, bytes]]


class Unmasking(RegionalMessage, frozen=True, kw_only=True):
    """A phone's shares by owner: of self seeds for survivors, of mask keys for those who dropped out."""

    round_id: Global[str]
    seeds: Regional[dict[int, bytes]]
    mask_keys: Regional[dict[int, bytes]]


def advert_text(
    round_id: str, *, mask_key: bytes, share_key: bytes, seed_commitment: bytes, seat_commitment: bytes
) -> bytes:  # fmt: skip
    """What an advert's signature is made over."""
    return b"atoll advert\0" + round_id.encode() + b"\0" + mask_key + share_key + seed_commitment + seat_commitment


def survivors_text(round_id: str, bits: bytes, *, mask_key: bytes) -> bytes:
    """What a phone's signature under the survivors is made over.

    `mask_key` is the signer's own for this sum: a signature says nothing in another one, whatever that is called.
    """
    return b"atoll survivors\0" + round_id.encode() + b"\0" + mask_key + hashlib.sha256(bits).digest()


def to_bits(survivors: set[int], count: int) -> bytes:
    """Positions as bits."""
    flags = np.zeros(count, dtype=np.bool_)
    flags[sorted(survivors)] = True
    return np.packbits(flags).tobytes()


def from_bits(bits: bytes, count: int) -> set[int]:
    """Inverse of `to_bits`.

    Raises:
        ValueError: the length does not fit `count`.
    """
    if len(bits) != (count + 7) // 8:
        raise ValueError("the survivors' bits do not fit the roster")
    flags = np.unpackbits(np.frombuffer(bits, dtype=np.uint8))[:count]
    return set(np.flatnonzero(flags).tolist())
