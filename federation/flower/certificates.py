"""Keys of one deployment: a certificate for the SuperLink, and a key pair per SuperNode that it knows them by.

Made anew for each run (valid for a day), or for as long as a SuperLink stands, readable by their owner only. The
authority's private key is not kept: it signs the SuperLink's certificate and is forgotten. Flower looks at addresses in
certificates and not at names, so an authority that signed anything else would make SuperLinks of its holders.
"""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from infra.plumbing.clock import Clock
from infra.plumbing.files import write_atomically

LIFE = datetime.timedelta(days=1)
STANDING_LIFE = datetime.timedelta(days=398)
"""Of a standing SuperLink's: it reads them when it starts, and its SuperNodes trust this authority alone."""
_SKEW = datetime.timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where the files lie."""

    directory: Path

    @property
    def authority(self) -> Path:
        """Certificate of the authority: what SuperNodes and command line trust."""
        return self.directory / "authority.pem"

    @property
    def certificate(self) -> Path:
        """The SuperLink's certificate."""
        return self.directory / "superlink.pem"

    @property
    def key(self) -> Path:
        """The SuperLink's private key."""
        return self.directory / "superlink.key"

    def node_key(self, region: str, start: int = 0) -> Path:
        """Private key of a region's SuperNode, by how often it was started."""
        return self.directory / f"supernode-{region}-{start}.key"

    def node_public(self, region: str, start: int = 0) -> Path:
        """Public key of a region's SuperNode, to be registered at the SuperLink."""
        return self.directory / f"supernode-{region}-{start}.pub"


def make_credentials(
    directory: Path, *, host: str, regions: Sequence[str], clock: Clock, life: datetime.timedelta = LIFE
) -> Credentials:
    """Fresh keys and certificates in `directory`, for a SuperLink at the address `host` and these regions."""
    made = Credentials(directory)
    now = datetime.datetime.fromtimestamp(clock.now_ms() / 1000.0, tz=datetime.UTC)
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = _name("atoll federation")
    root = (
        _builder(issuer, issuer, authority.public_key(), now, life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority, hashes.SHA256())
    )
    server = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host)), x509.DNSName("localhost")])
    certificate = (
        _builder(_name("superlink"), issuer, server.public_key(), now, life)
        .add_extension(names, critical=False)
        .sign(authority, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    write_atomically(made.certificate, certificate.public_bytes(pem))
    write_atomically(
        made.key,
        server.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()), mode=0o600,
    )  # fmt: skip
    # Last: where it lies, the others do.
    write_atomically(made.authority, root.public_bytes(pem))
    for region in regions:
        make_node_keys(made, region)
    return made


def make_node_keys(made: Credentials, region: str, start: int = 0) -> None:
    """A key pair for one start: the SuperLink takes a key that it believes online for an impostor's."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    write_atomically(made.node_key(region, start), private, mode=0o600)
    write_atomically(made.node_public(region, start), public)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime.datetime,
    life: datetime.timedelta,
) -> x509.CertificateBuilder:  # fmt: skip
    return (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
        .serial_number(x509.random_serial_number()).not_valid_before(now - _SKEW).not_valid_after(now + life)
    )  # fmt: skip


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])
