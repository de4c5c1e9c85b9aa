"""A world's own certificate authority: a certificate for each process, made before it starts and made anew on command.

Each file holds certificate and key together, readable by their owner only, and is replaced in one step, so that nobody
ever reads a pair that does not fit. The authority's key lies in the world's state as the regions' keys do; a fleet has
its own authority and gives its processes files of the same kind (`infra.plumbing.http.tls`).
"""

import datetime
import ipaddress
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infra.plumbing.clock import Clock
from infra.plumbing.errors import SettingsError
from infra.plumbing.files import sync_directory, write_atomically
from infra.plumbing.http.identity import uri_of
from infra.plumbing.private_files import read_private

AUTHORITY = "authority.pem"
"""The authority's certificate, in its folder; two while one takes the other's place: whom everybody trusts."""
AUTHORITY_KEY, NEXT_KEY = "authority.key", "authority.next.key"
AUTHORITY_LIFE = datetime.timedelta(days=5 * 365)
LIFE = datetime.timedelta(days=30)
LEFT_MIN = LIFE / 3
"""A certificate of a process with less left is made anew when the world starts."""
_SKEW = datetime.timedelta(minutes=5)
_PEM = serialization.Encoding.PEM


class WorldAuthority:
    """The authority whose files lie in `directory`; makes them when they are not there.

    Args:
        directory: holds `authority.pem`, `authority.key` and `<process>.pem` with dots for slashes.
        host: the address at which every process of the world is reached.
        clock: for the lives of certificates.
        life: of every certificate; one with less than a third of it left is made anew by `ensure`.
        key_name: of the file with its key: of NEXT_KEY the authority signs that is about to take the other's place.

    Raises:
        SettingsError: the authority's files cannot be read, or do not fit.
    """

    def __init__(
        self, directory: Path, *, host: str, clock: Clock, life: datetime.timedelta = LIFE,
        key_name: str = AUTHORITY_KEY,
    ) -> None:  # fmt: skip
        self._life = life
        self._key_file = directory / key_name
        self._directory = directory
        self._host = ipaddress.ip_address(host)
        self._clock = clock
        if not (directory / AUTHORITY).exists() or (key_name == NEXT_KEY and not self._is_begun()):
            self._make()
        self._key, self._certificate = self._read()

    @property
    def file(self) -> Path:
        """The authority's certificate: whom everybody trusts."""
        return self._directory / AUTHORITY

    @property
    def trusted(self) -> int:
        """How many authorities everybody trusts."""
        return len(x509.load_pem_x509_certificates(self.file.read_bytes()))

    def take_over(self) -> None:
        """The authority that was about to take the other's place signs from now on; both are trusted."""
        os.replace(self._key_file, self._directory / AUTHORITY_KEY)
        self._key_file = self._directory / AUTHORITY_KEY
        sync_directory(self._directory)

    def drop_others(self) -> None:
        """Trust this authority only."""
        write_atomically(self.file, self._certificate.public_bytes(_PEM))

    def foreign(self, names: Iterable[str]) -> list[str]:
        """Those of `names` whose certificate is not this authority's."""
        return [name for name in names if not self._is_own(name)]

    def ensure(self, names: Iterable[str], *, hosts: Mapping[str, str] | None = None) -> list[str]:
        """Make the certificates that are not there, are near their end, or are another authority's; returns whose.

        Args:
            names: of processes.
            hosts: where those of them are that are not at the world's own address.
        """
        at = {name: (hosts or {}).get(name, str(self._host)) for name in names}
        made = [name for name, host in at.items() if not self._holds(name, host)]
        for name in made:
            self.issue(name, host=at[name])
        return made

    def issue(self, name: str, *, host: str = "", to: Path | None = None) -> Path:
        """A new key and certificate for the process `name`, in the place of what it had; `host`: its own address.

        `to`: another place than its own.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        names = [
            x509.UniformResourceIdentifier(uri_of(name)), x509.IPAddress(ipaddress.ip_address(host or str(self._host))),
            x509.DNSName("localhost"),
        ]  # fmt: skip
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            self._builder(_subject(name), self._certificate.subject, key.public_key(), self._life)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        path = to or certificate_file(self._directory, name)
        write_atomically(path, certificate.public_bytes(_PEM) + _private(key), mode=0o600)
        return path

    def _is_begun(self) -> bool:
        """Whether the key is there and its certificate is trusted: a kill may have come between the two."""
        try:
            key = serialization.load_pem_private_key(read_private(self._key_file), password=None)
            certificates = x509.load_pem_x509_certificates((self._directory / AUTHORITY).read_bytes())
        except (FileNotFoundError, ValueError):
            return False
        return any(one.public_key() == key.public_key() for one in certificates)

    def _is_own(self, name: str) -> bool:
        try:
            certificate = x509.load_pem_x509_certificate(certificate_file(self._directory, name).read_bytes())
            certificate.verify_directly_issued_by(self._certificate)
        except (OSError, ValueError, TypeError, InvalidSignature):
            return False
        return True

    def _holds(self, name: str, host: str) -> bool:
        try:
            certificate = x509.load_pem_x509_certificate(certificate_file(self._directory, name).read_bytes())
            certificate.verify_directly_issued_by(self._certificate)
            found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
        if ipaddress.ip_address(host) not in found.get_values_for_type(x509.IPAddress):
            return False
        return certificate.not_valid_after_utc - self._now() > self._life / 3

    def _make(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject("the authority of a world of Atoll")
        usage = x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        certificate = (
            self._builder(subject, subject, key.public_key(), AUTHORITY_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        trusted = self.file.read_bytes() if self.file.exists() else b""
        write_atomically(self._key_file, _private(key), mode=0o600)
        write_atomically(self.file, trusted + certificate.public_bytes(_PEM))

    def _read(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        try:
            key = serialization.load_pem_private_key(read_private(self._key_file), password=None)
            certificates = x509.load_pem_x509_certificates(self.file.read_bytes())
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"the world's authority cannot be read: {error}.",
                fix=f"Remove {self._directory}: it is made anew at the next start.",
            ) from error
        own = [one for one in certificates if one.public_key() == key.public_key()]
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not own:
            raise SettingsError("the world's authority and its key do not fit.", fix=f"Remove {self._directory}.")
        return key, own[0]

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, life: datetime.timedelta
    ) -> x509.CertificateBuilder:
        now = self._now()
        return (
            x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
            .serial_number(x509.random_serial_number()).not_valid_before(now - _SKEW).not_valid_after(now + life)
        )  # fmt: skip

    def _now(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self._clock.now_ms() / 1000, tz=datetime.UTC)


def certificate_file(directory: Path, name: str) -> Path:
    """Where certificate and key of the process `name` lie."""
    return directory / f"{name.replace('/', '.')}.pem"


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
