"""A phone's identity: its signing key, sealed on its disk, and what its region's issuer said about it.

The private key is made on the phone and never leaves it; the issuer is shown the public one and answers with a file
that holds the certificate and the issuer's own key. In that key the phone trusts from then on for its neighbours'.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.device.keystore import Entropy, KeyStore
from federation.secure_aggregation.identity import (
    DeviceCertificate,
    DeviceIdentity,
    IdentityError,
    verify_certificate,
)
from infra.contracts.residency import Regional, RegionalMessage
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.files import write_atomically

_CONTEXT = b"atoll phone identity\0"
_SEED_BYTES = 32


class Enrolment(RegionalMessage, frozen=True, kw_only=True):
    """The issuer's answer to a device's public key."""

    certificate: Regional[DeviceCertificate]
    issuer_public: Regional[bytes]


@dataclass(frozen=True, slots=True)
class IdentityFile:
    """The sealed private key on the phone's disk, made at first use."""

    path: Path
    keys: KeyStore
    entropy: Entropy

    def public(self) -> bytes:
        """The public key, 32 bytes: what the issuer is shown.

        Raises:
            KeyStoreError: the phone's key does not open the file.
        """
        return Ed25519PrivateKey.from_private_bytes(self._private()).public_key().public_bytes_raw()

    def enrolled(self, enrolment: Enrolment, *, now_ms: int) -> DeviceIdentity:
        """The identity with which this phone takes part.

        Raises:
            InvalidInputError: the certificate is another device's, has expired, or is not its issuer's.
            KeyStoreError: the phone's key does not open the file.
        """
        certificate = enrolment.certificate
        if certificate.device_key != self.public():
            raise InvalidInputError(
                "the enrolment is another device's.", fix="Show the issuer this phone's key: ./atoll phone key."
            )
        try:
            verify_certificate(
                certificate, region=certificate.region, issuer_public=enrolment.issuer_public, now_ms=now_ms
            )
        except IdentityError as error:
            raise InvalidInputError(f"the enrolment does not hold: {error}.", fix="Ask the issuer anew.") from None
        return DeviceIdentity(self._private(), certificate)

    def _private(self) -> bytes:
        if not os.path.lexists(self.path):
            sealed = self.keys.seal(self.entropy(_SEED_BYTES), context=_CONTEXT)
            write_atomically(self.path, sealed, mode=0o600)
        return self.keys.unseal(self.path.read_bytes(), context=_CONTEXT)


def read_enrolment(path: Path) -> Enrolment:
    """What the issuer wrote.

    Raises:
        InvalidInputError: it cannot be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Enrolment)
    except (OSError, msgspec.DecodeError) as error:
        raise InvalidInputError(
            f"the enrolment {path} cannot be read: {error}.", fix="Ask for one: ./atoll keys device."
        ) from None
