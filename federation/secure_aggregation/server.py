"""The gateway's side of one secure sum: it passes messages on, adds masked updates, and takes the masks off the sum.

No I/O. A masked update is added as it comes and not kept. What is kept (adverts, sealed shares, the running sum,
shares of secrets that the protocol gives away) tells nothing about one phone's update beyond the sum.

Who shared its secrets and then came too late with its update is not in the sum; it may still sign and give shares, so
that selecting more phones than are wanted does not use up the drop-outs that a sum can bear.
"""

from collections.abc import Callable, Mapping, Sequence, Set

import numpy as np

from federation.secure_aggregation import graph, keys
from federation.secure_aggregation.messages import (
    COHORT_MIN,
    Advert,
    Mailbox,
    Roster,
    SealedShares,
    Signatures,
    Survivors,
    Unmasking,
    to_bits,
)
from federation.secure_aggregation.ring import RingArray
from federation.secure_aggregation.shamir import SHARE_BYTES, ShareError, join

SEALED_BYTES_MAX = 2 * SHARE_BYTES + 16
SPARE = 2
"""Signers more than shares that are needed: so many of a neighbourhood may still be lost on the last step."""


class AggregationError(ValueError):
    """A message that does not belong to this sum; the sum goes on without it."""


class BelowThresholdError(AggregationError):
    """Too few phones are left to take the masks off: the sum is lost, and nothing about it is learned."""


class SecureSum:
    """One sum over a fixed roster. Phones are named by their positions in it.

    Args:
        adverts: by position.
        task: what all of them were told.
        nonces: what the positions were drawn with; empty where everybody is everybody's neighbour.
    """

    def __init__(
        self, *, round_id: str, adverts: Sequence[Advert], length: int, task: bytes, nonces: bytes = b""
    ) -> None:  # fmt: skip
        self._round_id = round_id
        self._nonces = nonces
        self._task = task
        self._adverts = tuple(adverts)
        self._length = length
        self._threshold = graph.threshold(len(adverts))
        self._sealed: dict[int, dict[int, bytes]] = {}
        """Sealed shares by sender and receiver, as they came."""
        self._total: RingArray = np.zeros(length, dtype=np.uint32)
        self.sharers: set[int] = set()
        self.survivors: set[int] = set()
        self._told: Survivors | None = None
        """What all phones are told of the survivors; made once for all of them."""
        self._signatures: dict[int, bytes] = {}
        self._unmaskings: set[int] = set()
        self._seed_shares: dict[int, dict[int, bytes]] = {}
        self._key_shares: dict[int, dict[int, bytes]] = {}
        self._doubted: set[int] = set()
        """Holders of shares that were wrong."""
        self._together: frozenset[int] = frozenset()
        """Holders whose shares gave the last secret."""

    @property
    def count(self) -> int:
        """Phones in the roster."""
        return len(self._adverts)

    def roster(self, index: int) -> Roster:
        """What the phone at `index` must know of its neighbours."""
        near = graph.neighbours(index, self.count)
        return Roster(
            position=index, roster_count=self.count, neighbours={other: self._adverts[other] for other in near},
            nonces=self._nonces,
        )  # fmt: skip

    def add_shares(self, index: int, shares: SealedShares) -> None:
        """Take a phone's sealed shares to pass them on.

        Raises:
            AggregationError: not one for each neighbour, of the right length; or a second time.
        """
        near = graph.neighbours(index, self.count)
        lengths = set(map(len, shares.sealed.values()))
        fits = shares.sealed.keys() == set(near) and lengths <= {SEALED_BYTES_MAX}
        if index in self.sharers or not fits:
            raise AggregationError("the sealed shares are not one for each neighbour, once")
        self.sharers.add(index)
        self._sealed[index] = shares.sealed

    def mailbox(self, index: int) -> Mailbox:
        """What the neighbours sealed for the phone at `index`, once nobody can share any more."""
        sealed, near = self._sealed, graph.neighbours(index, self.count)
        return Mailbox(sealed={other: sealed[other][index] for other in near if other in sealed})

    def add_masked(self, index: int, values: RingArray) -> None:
        """Add a masked update to the sum.

        Raises:
            AggregationError: wrong length, of a phone that did not share, or a second time.
        """
        if index not in self.sharers or index in self.survivors or values.shape != (self._length,):
            raise AggregationError("the masked update is of another length, of nobody who shared, or a second one")
        self._total += values
        self.survivors.add(index)
        self._told = None

    def survivors_message(self) -> Survivors:
        """Whose updates are in the sum, once nobody can report any more."""
        if self._told is None:
            self._told = Survivors(survivor_bits=to_bits(self.survivors, self.count))
        return self._told

    def add_signature(self, index: int, signature: bytes) -> None:
        """Take a signature under the survivors to pass it on.

        Raises:
            AggregationError: of nobody who shared.
        """
        if index not in self.sharers:
            raise AggregationError("a signature of nobody who shared")
        self._signatures[index] = signature

    @property
    def signed(self) -> int:
        """Phones that signed."""
        return len(self._signatures)

    @property
    def agreed(self) -> bool:
        """Whether those who signed can take the masks off without the others, SPARE of a neighbourhood lost."""
        closed = min(self._threshold + SPARE, graph.degree(self.count) + 1)
        signed = self._signatures.keys()
        return len(self.survivors) >= COHORT_MIN and all(
            (index in signed) + sum(other in signed for other in graph.neighbours(index, self.count)) >= closed
            for index in self.survivors | self._missing()
        )

    def signatures(self, index: int) -> Signatures:
        """The signatures of a phone's neighbours."""
        near = graph.neighbours(index, self.count)
        return Signatures(
            neighbour_signatures={other: self._signatures[other] for other in near if other in self._signatures}
        )

    def add_unmasking(self, index: int, shares: Unmasking) -> None:
        """Take the shares of a phone that signed.

        Raises:
            AggregationError: of nobody who signed, for others than its neighbourhood, of the wrong kind, or twice.
        """
        near = {index, *graph.neighbours(index, self.count)}
        alive, gone = near & self.survivors, (near & self.sharers) - self.survivors
        if index not in self._signatures or index in self._unmaskings:
            raise AggregationError("shares of nobody who signed, or twice")
        if not (set(shares.seeds) <= alive and set(shares.mask_keys) <= gone):
            raise AggregationError("shares of secrets that nobody asked for")
        self._unmaskings.add(index)
        for owner, share in shares.seeds.items():
            self._seed_shares.setdefault(owner, {})[index] = share
        for owner, share in shares.mask_keys.items():
            self._key_shares.setdefault(owner, {})[index] = share

    @property
    def unmasked_by(self) -> int:
        """Phones that sent their shares."""
        return len(self._unmaskings)

    @property
    def complete(self) -> bool:
        """Whether every secret that is needed can be put together."""
        return (
            len(self.survivors) >= COHORT_MIN
            and self._has_enough(self.survivors, self._seed_shares)
            and self._has_enough(self._missing(), self._key_shares)
        )

    def total(self) -> RingArray:
        """The sum of the survivors' values, `[length]`, the masks taken off.

        Raises:
            BelowThresholdError: too few shares, or shares that do not give the secrets that were committed to.
        """
        if len(self.survivors) < COHORT_MIN:
            raise BelowThresholdError(f"the sum is below its threshold: {len(self.survivors)} phones are in it")
        total = self._total.copy()
        for index in sorted(self.survivors):
            total -= keys.self_mask(self._seed_of(index), round_id=self._round_id, length=self._length)
        for index in sorted(self._missing()):
            self._take_off_pairs(total, index)
        return total

    def _take_off_pairs(self, total: RingArray, gone: int) -> None:
        """Take off what the survivors added for the phone `gone`, which never reported."""
        wanted = self._adverts[gone].mask_key
        private = keys.Agreement(
            self._joined(gone, self._key_shares.get(gone, {}), lambda found: keys.Agreement(found).public() == wanted)
        )
        for other in graph.neighbours(gone, self.count):
            if other in self.survivors:
                low, high = sorted((gone, other))
                secret = private.with_public(self._adverts[other].mask_key)
                pair = keys.pair_mask(
                    secret, round_id=self._round_id, task=self._task, low=low, high=high, length=self._length
                )
                if other == low:
                    total -= pair
                else:
                    total += pair

    def _missing(self) -> set[int]:
        """Who shared, so that others masked with it, and then did not report: only if a survivor is its neighbour."""
        return {
            index for index in self.sharers - self.survivors
            if not self.survivors.isdisjoint(graph.neighbours(index, self.count))
        }  # fmt: skip

    def _has_enough(self, owners: set[int], shares: Mapping[int, Mapping[int, bytes]]) -> bool:
        return all(len(shares.get(owner, {})) >= self._threshold for owner in owners)

    def _seed_of(self, index: int) -> bytes:
        wanted = self._adverts[index].seed_commitment
        return self._joined(
            index, self._seed_shares.get(index, {}),
            lambda found: keys.commitment(found, round_id=self._round_id) == wanted,
        )  # fmt: skip

    def _joined(self, owner: int, shares: Mapping[int, bytes], holds: Callable[[bytes], bool]) -> bytes:
        """The secret of `owner` that was committed to; one wrong share is looked for and left out.

        Whose fault it is cannot be told, the holder's or the owner's who sealed it: the holder's other shares count.

        Raises:
            BelowThresholdError: too few shares, or more than one of them is wrong.
        """
        if len(shares) < self._threshold:
            raise BelowThresholdError(
                f"the sum is below its threshold: {len(shares)} shares, where {self._threshold} are needed"
            )
        used = self._holders(owner, shares)
        for doubted in (None, *sorted(used, key=lambda holder: (holder not in self._doubted, holder))):
            able = used if doubted is None else self._farthest(owner, shares.keys() - {doubted})
            try:
                secret = join({holder: shares[holder] for holder in able}, threshold=self._threshold)
            except ShareError:
                continue
            if holds(secret):
                if doubted is not None:
                    self._doubted.add(doubted)
                    self._together = frozenset()
                return secret
        raise BelowThresholdError("the shares of a secret do not give what was committed to")

    def _holders(self, owner: int, shares: Mapping[int, bytes]) -> frozenset[int]:
        """Whose shares are put together: those of the last secret, where they hold shares of this one too.

        What the shares are weighed with follows from the holders, and costs six times as much as weighing them. Secrets
        are put together in the order of the ring, so that the farthest ahead of one phone are neighbours of the next
        dozen.
        """
        if not self._together or not self._together <= shares.keys():
            self._together = self._farthest(owner, shares.keys())
        return self._together

    def _farthest(self, owner: int, holders: Set[int]) -> frozenset[int]:
        """As many as are needed, farthest ahead of `owner` first; those who gave a wrong share last."""
        behind = graph.degree(self.count) // 2
        ahead = sorted(holders, key=lambda holder: (holder in self._doubted, -((holder - owner + behind) % self.count)))
        return frozenset(ahead[: self._threshold])
