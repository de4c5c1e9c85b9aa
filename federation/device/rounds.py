"""A phone in a round: its keys, its training and its masks, in the order of the protocol. No I/O.

One `DeviceRound` serves one session of the gateway: `advert` until the phone is selected, then `seat` (large cohorts),
`shares`, `masked`, `signature` and `unmasking`, each made of the gateway's last answer. What is returned may be sent;
nothing else may.
"""

from federation.device.training import LocalTraining
from federation.messages import RoundPlan
from federation.secure_aggregation.client import ProtocolError, SecureClient, Trust
from federation.secure_aggregation.identity import Certificates, DeviceIdentity
from federation.secure_aggregation.messages import (
    Advert,
    Gathering,
    Mailbox,
    MaskedUpdate,
    Roster,
    SealedShares,
    Seat,
    Signatures,
    Survivors,
    SurvivorsSigned,
    Unmasking,
)
from federation.secure_aggregation.ring import to_ring, to_wire
from federation.secure_aggregation.shamir import Entropy


class DeviceRound:
    """One phone's part of one session."""

    def __init__(
        self, session: str, *, identity: DeviceIdentity, trust: Trust, now_ms: int, entropy: Entropy,
        certificates: Certificates | None = None,
    ) -> None:  # fmt: skip
        self.session = session
        self._client = SecureClient(
            round_id=session, identity=identity, trust=trust, now_ms=now_ms, entropy=entropy,
            certificates=certificates,
        )  # fmt: skip
        self.advert: Advert = self._client.advert()
        self._mailbox: Mailbox | None = None

    def seat(self, gathering: Gathering) -> Seat:
        """This phone's part in drawing the seats; raises ProtocolError when the gathering cannot be right."""
        return self._client.seat(gathering)

    def shares(self, roster: Roster) -> SealedShares:
        """For the neighbours; raises ProtocolError when they cannot be trusted."""
        return self._client.share(roster)

    def receive(self, mailbox: Mailbox) -> None:
        """Keep what the neighbours sealed."""
        self._mailbox = mailbox

    def masked(self, plan: RoundPlan, training: LocalTraining) -> MaskedUpdate:
        """The update under its masks.

        Raises:
            ProtocolError: the neighbours' shares do not hold.
            ValueError: the update is not clipped.
        """
        if self._mailbox is None:
            raise ProtocolError("nothing was received from the neighbours")
        values = to_ring(training.update.ravel(), clipping_norm=plan.clipping_norm)
        masked = self._client.mask(values, self._mailbox, task=plan.digest())
        return MaskedUpdate(round_id=plan.round_id, masked=to_wire(masked))

    def signature(self, survivors: Survivors) -> SurvivorsSigned:
        """Under the list of survivors; raises ProtocolError when it cannot be right."""
        return self._client.sign(survivors)

    def unmasking(self, signatures: Signatures) -> Unmasking:
        """Shares for the sum; raises ProtocolError when the neighbours were told of other survivors."""
        return self._client.unmask(signatures)
