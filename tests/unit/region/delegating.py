"""Central's word, without central."""

from infra.plumbing.tuf_client.delegation import Delegation
from infra.plumbing.tuf_client.errors import RepositoryUnavailableError
from infra.plumbing.tuf_client.library import CryptoSigner, DelegatedRole, Delegations, Targets


class Delegating:
    """The folder of us-east is left to one key, and central is away."""

    def __init__(self, signer: CryptoSigner) -> None:
        key = signer.public_key
        role = DelegatedRole("region-us-east", [key.keyid], 1, terminating=True, paths=["regions/us-east/*"])
        self.central = Targets(delegations=Delegations({key.keyid: key}, {role.name: role}))

    def refresh(self) -> None:
        raise RepositoryUnavailableError("central is away.")

    def delegation(self, region: str) -> Delegation | None:
        return Delegation(region, self.central) if region == "us-east" else None
