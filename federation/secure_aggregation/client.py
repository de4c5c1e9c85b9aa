"""A phone's side of one secure sum, after Bonawitz et al. 2017 with the neighbour graph of Bell et al. 2020. No I/O.

Use once, in order: `advert`, `seat` (large cohorts; for every draw), `share`, `mask`, `sign`, `unmask`. Whatever does
not hold raises `ProtocolError`; the phone then stays silent for the rest of the round, which costs the others nothing
but a drop-out.

What the gateway learns: the sum over the survivors. For each neighbour the phone gives a share of one secret only,
the self seed (it survived) or the mask key (it dropped out), and only after enough of its neighbourhood signed the same
list of survivors (`graph.threshold` says how many, and against whom that holds). Neighbours are as many devices, all
certified, and masks cancel only between phones that were given the same task.
"""

from dataclasses import dataclass

from federation.secure_aggregation import graph, keys, seats
from federation.secure_aggregation.identity import Certificates, DeviceIdentity, IdentityError, verify_signature
from federation.secure_aggregation.messages import (
    COHORT_MIN,
    Advert,
    Gathering,
    Mailbox,
    Roster,
    SealedShares,
    Seat,
    Signatures,
    Survivors,
    SurvivorsSigned,
    Unmasking,
    advert_text,
    from_bits,
    survivors_text,
)
from federation.secure_aggregation.ring import COHORT_MAX, RingArray
from federation.secure_aggregation.shamir import SHARE_BYTES, Entropy, split


class ProtocolError(ValueError):
    """The gateway, or a neighbour, did not keep to the protocol; this phone takes no further part."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose word a phone takes for its neighbours' keys, its region's issuer, and in how large a crowd it hides."""

    region: str
    issuer_public: bytes
    cohort_min: int = COHORT_MIN
    """Fewest phones in whose sum it takes part. Its own bound: who sums is not asked."""


class SecureClient:
    """One phone in one round. `certificates`: what was verified before, by phones of one simulation, say."""

    def __init__(
        self, *, round_id: str, identity: DeviceIdentity, trust: Trust, now_ms: int, entropy: Entropy,
        certificates: Certificates | None = None,
    ) -> None:  # fmt: skip
        self._round_id = round_id
        self._identity = identity
        if certificates is None:
            certificates = Certificates(region=trust.region, issuer_public=trust.issuer_public)
        self._certificates = certificates
        self._cohort_min = max(COHORT_MIN, trust.cohort_min)
        self._now_ms = now_ms
        self._entropy = entropy
        self._mask_private = entropy(keys.KEY_BYTES)
        self._mask_agreement = keys.Agreement(self._mask_private)
        self._share_agreement = keys.Agreement(entropy(keys.KEY_BYTES))
        self._seed = entropy(keys.KEY_BYTES)
        self._seat_chain = seats.chain(entropy(keys.KEY_BYTES))
        self._gathering: Gathering | None = None
        """What this phone has shown its last nonce for."""
        self._roster: Roster | None = None
        self._secrets: dict[int, bytes] = {}
        """Agreed secrets for sealing, by neighbour."""
        self._held: dict[int, tuple[bytes, bytes]] = {}
        """Shares of (self seed, mask key) by owner, this phone's own included."""
        self._survivors = b""

    def advert(self) -> Advert:
        """Public keys for this round."""
        fields = {
            "mask_key": self._mask_agreement.public(),
            "share_key": self._share_agreement.public(),
            "seed_commitment": keys.commitment(self._seed, round_id=self._round_id),
            "seat_commitment": self._seat_chain[0],
        }
        signature = self._identity.sign(advert_text(self._round_id, **fields))
        return Advert(**fields, certificate=self._identity.certificate, device_signature=signature)

    def seat(self, gathering: Gathering) -> Seat:
        """This phone's nonce for a draw of the seats: one for each, and the gathering is fixed by then.

        Raises:
            ProtocolError: the cohort is of no use, this phone is not in it, or it was drawn for before.
        """
        drawn = self._gathering.draw if self._gathering is not None else 0
        if self._roster is not None or gathering.draw != drawn + 1 or gathering.draw > seats.DRAWS_MAX:
            raise ProtocolError("seats are drawn a few times, one draw after the other, and before the roster")
        try:
            found = seats.split(gathering.seat_commitments)
        except ValueError as error:
            raise ProtocolError(str(error)) from None
        if not self._cohort_min <= len(found) <= COHORT_MAX or self._seat_chain[0] not in found:
            raise ProtocolError("the gathering is of no use, or without this phone")
        self._gathering = gathering
        return Seat(round_id=self._round_id, nonce=self._seat_chain[gathering.draw])

    def share(self, roster: Roster) -> SealedShares:
        """Shares of this phone's secrets for its neighbours.

        Raises:
            ProtocolError: the roster does not fit the graph, the seats are not those that were drawn, or a neighbour's
                keys are not certified.
        """
        self._check_roster(roster)
        self._roster = roster
        holders = sorted({roster.position, *roster.neighbours})
        needed = graph.threshold(roster.roster_count)
        seeds = split(self._seed, holders=holders, threshold=needed, entropy=self._entropy)
        mask_keys = split(self._mask_private, holders=holders, threshold=needed, entropy=self._entropy)
        self._held[roster.position] = (seeds[roster.position], mask_keys[roster.position])
        sealed = {}
        for other, advert in roster.neighbours.items():
            self._secrets[other] = self._agree(self._share_agreement, advert.share_key)
            sealed[other] = keys.seal(
                self._secrets[other], seeds[other] + mask_keys[other], round_id=self._round_id, sender=roster.position,
                receiver=other,
            )  # fmt: skip
        return SealedShares(round_id=self._round_id, sealed=sealed)

    def mask(self, values: RingArray, mailbox: Mailbox, *, task: bytes) -> RingArray:
        """`values` under this phone's masks; pair masks only with neighbours that shared their secrets.

        `task`: a digest of what this phone was told to do; the masks hold among phones that were told the same.

        Raises:
            ProtocolError: a share does not open, or too few neighbours are left.
        """
        roster = self._expect_roster()
        for other, content in mailbox.sealed.items():
            self._held[other] = self._opened(roster, other, content)
        if len(self._held) < graph.threshold(roster.roster_count):
            raise ProtocolError("too few neighbours shared their secrets")
        masked = values + keys.self_mask(self._seed, round_id=self._round_id, length=len(values))
        for other in self._held:
            if other == roster.position:
                continue
            secret = self._agree(self._mask_agreement, roster.neighbours[other].mask_key)
            low, high = sorted((roster.position, other))
            pair = keys.pair_mask(
                secret, round_id=self._round_id, task=task, low=low, high=high, length=len(values)
            )  # fmt: skip
            masked = masked + pair if roster.position == low else masked - pair
        return masked

    def sign(self, survivors: Survivors) -> SurvivorsSigned:
        """This phone's signature under the survivors; it signs one list in a round.

        A list without this phone is signed too: it came too late, and helps the others.

        Raises:
            ProtocolError: the list is too short, names who never shared or cuts phones off from all others; or it is a
                second one.
        """
        roster = self._expect_roster()
        try:
            alive = from_bits(survivors.survivor_bits, roster.roster_count)
        except ValueError as error:
            raise ProtocolError(str(error)) from None
        near = {other for other in alive if other == roster.position or other in roster.neighbours}
        if self._survivors or len(alive) < self._cohort_min or not near <= set(self._held):
            raise ProtocolError("the list of survivors cannot be right")
        if not graph.holds_together(survivors.survivor_bits, roster.roster_count):
            raise ProtocolError("by the list of survivors phones stand alone with their masks")
        self._survivors = survivors.survivor_bits
        text = survivors_text(self._round_id, survivors.survivor_bits, mask_key=self._mask_agreement.public())
        return SurvivorsSigned(round_id=self._round_id, device_signature=self._identity.sign(text))

    def unmask(self, signatures: Signatures) -> Unmasking:
        """One share per neighbour, once enough of the neighbourhood has signed this phone's list of survivors.

        Raises:
            ProtocolError: too few signatures hold.
        """
        roster = self._expect_roster()
        agreed = 1 + sum(
            self._signed(roster.neighbours[other], signature)
            for other, signature in signatures.neighbour_signatures.items() if other in roster.neighbours
        )  # fmt: skip
        if not self._survivors or agreed < graph.threshold(roster.roster_count):
            raise ProtocolError("too few neighbours were told of the same survivors")
        alive = from_bits(self._survivors, roster.roster_count)
        return Unmasking(
            round_id=self._round_id,
            seeds={owner: seed for owner, (seed, _) in self._held.items() if owner in alive},
            mask_keys={owner: key for owner, (_, key) in self._held.items() if owner not in alive},
        )

    def _check_roster(self, roster: Roster) -> None:
        bounded = self._cohort_min <= roster.roster_count <= COHORT_MAX and 0 <= roster.position < roster.roster_count
        if self._roster is not None or not bounded:
            raise ProtocolError("a second roster, or one of no use")
        if set(roster.neighbours) != set(graph.neighbours(roster.position, roster.roster_count)):
            raise ProtocolError("the roster's neighbours are not those of the graph")
        self._check_seats(roster)
        known = {advert.mask_key for advert in roster.neighbours.values()} - {self._mask_agreement.public()}
        # One device under many keys would be a neighbourhood of its own, and know all masks of this phone.
        own = self._identity.certificate.device_key
        devices = {advert.certificate.device_key for advert in roster.neighbours.values()} - {own}
        if not len(known) == len(devices) == len(roster.neighbours):
            raise ProtocolError("two neighbours with one key")
        for advert in roster.neighbours.values():
            check_advert(advert, round_id=self._round_id, certificates=self._certificates, now_ms=self._now_ms)

    def _check_seats(self, roster: Roster) -> None:
        """Where not everybody is everybody's neighbour, seats are those that all phones drew, this one among them."""
        if roster.roster_count <= graph.COMPLETE_MAX and self._gathering is None:
            return
        if self._gathering is None:
            raise ProtocolError("seats of a large cohort that nobody drew")
        try:
            drawn = seats.order(
                self._round_id, self._gathering.draw, self._gathering.seat_commitments, roster.nonces
            )  # fmt: skip
        except ValueError as error:
            raise ProtocolError(str(error)) from None
        seated = {at: advert.seat_commitment for at, advert in roster.neighbours.items()}
        seated[roster.position] = self._seat_chain[0]
        if len(drawn) != roster.roster_count or any(drawn[at] != one for at, one in seated.items()):
            raise ProtocolError("the seats are not those that were drawn")

    def _opened(self, roster: Roster, other: int, content: bytes) -> tuple[bytes, bytes]:
        if other not in self._secrets:
            raise ProtocolError("a share of somebody who is no neighbour")
        try:
            opened = keys.unseal(
                self._secrets[other], content, round_id=self._round_id, sender=other, receiver=roster.position
            )
        except ValueError as error:
            raise ProtocolError(str(error)) from None
        if len(opened) != 2 * SHARE_BYTES:
            raise ProtocolError("a share of the wrong length")
        return opened[:SHARE_BYTES], opened[SHARE_BYTES:]

    def _expect_roster(self) -> Roster:
        if self._roster is None:
            raise ProtocolError("no roster yet")
        return self._roster

    def _signed(self, advert: Advert, signature: bytes) -> bool:
        text = survivors_text(self._round_id, self._survivors, mask_key=advert.mask_key)
        try:
            verify_signature(advert.certificate.device_key, signature, text)
        except IdentityError:
            return False
        return True

    @staticmethod
    def _agree(agreement: keys.Agreement, public: bytes) -> bytes:
        try:
            return agreement.with_public(public)
        except ValueError:
            raise ProtocolError("a neighbour's key is malformed") from None


def check_advert(advert: Advert, *, round_id: str, certificates: Certificates, now_ms: int) -> None:
    """Check that an advert's keys are those of a certified device, for this round.

    Raises:
        ProtocolError: they are not.
    """
    text = advert_text(
        round_id, mask_key=advert.mask_key, share_key=advert.share_key, seed_commitment=advert.seed_commitment,
        seat_commitment=advert.seat_commitment,
    )  # fmt: skip
    try:
        certificates.verify(advert.certificate, now_ms=now_ms)
        verify_signature(advert.certificate.device_key, advert.device_signature, text)
    except IdentityError as error:
        raise ProtocolError(str(error)) from None
    whole = all(len(key) == keys.KEY_BYTES for key in (advert.mask_key, advert.share_key, advert.seed_commitment))
    if not whole or len(advert.seat_commitment) != seats.NONCE_BYTES:
        raise ProtocolError("a key of the wrong length")
