"""The key of one region, delegated to on demand."""

import datetime
from pathlib import Path

from central.release.delegating import Delegated, delegate
from infra.plumbing.tuf_client.delegation import sign_statement
from infra.plumbing.tuf_client.library import CryptoSigner
from infra.plumbing.tuf_client.signing import create_signer, public_pem, read_public
from region.rules.book import RULES_FILE
from tests.unit.releases.conftest import Central

FAR = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)


class Keyed:
    """The key of one region, delegated to on demand."""

    def __init__(self, central: Central, directory: Path, region: str = "us-east") -> None:
        self.central, self.region, self.path = central, region, directory / f"{region}.pem"
        self.signer: CryptoSigner = create_signer(self.path)
        self.public = directory / f"{region}.pub.pem"
        self.public.write_bytes(public_pem(self.path))

    def delegate(self, *others: "Keyed", threshold: int = 1) -> Delegated:
        public = [read_public(one.public) for one in (self, *others)]
        return delegate(
            repository=self.central.repository, keys=self.central.keys, region=self.region, public_keys=public,
            threshold=threshold, clock=self.central.clock,
        )  # fmt: skip

    def says(
        self, document: str, version: int, *, region: str = "", name: str = RULES_FILE.name,
        expires: datetime.datetime = FAR,
    ) -> str:  # fmt: skip
        """What the region's key says, signed."""
        files = {name: document.encode()}
        return sign_statement(
            region or self.region, files, version=version, expires=expires, signers=[self.signer]
        ).decode()  # fmt: skip
