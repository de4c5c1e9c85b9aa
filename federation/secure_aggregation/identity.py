"""A device's signing key, and the region's certificate for it.

The certificate says that the region's issuer knows the device, not whose it is: neighbours in a round must not learn
who they are. A gateway that could make certificates itself could fill a round with phones of its own making, so the
issuer's key belongs to whoever signs users in, not to the gateway.
"""

from dataclasses import dataclass

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from infra.contracts.residency import Regional, RegionalMessage

_CONTEXT = b"atoll device certificate\0"


class IdentityError(ValueError):
    """A certificate or signature that does not hold."""


class DeviceCertificate(RegionalMessage, frozen=True, kw_only=True):
    """The issuer's word that a device of this region holds this key."""

    region: Regional[str]
    device_key: Regional[bytes]
    """Ed25519 public key, 32 bytes."""
    certificate_expires_ms: Regional[int]
    issuer_signature: Regional[bytes] = b""


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """A device's own key and its certificate."""

    private: bytes
    certificate: DeviceCertificate

    def sign(self, message: bytes) -> bytes:
        """Ed25519 signature, 64 bytes."""
        return Ed25519PrivateKey.from_private_bytes(self.private).sign(message)


def enrol(*, region: str, issuer_private: bytes, device_private: bytes, expires_ms: int) -> DeviceIdentity:
    """The identity of the device whose key is `device_private` (32 random bytes), certified by the region's issuer."""
    public = Ed25519PrivateKey.from_private_bytes(device_private).public_key().public_bytes_raw()
    bare = DeviceCertificate(region=region, device_key=public, certificate_expires_ms=expires_ms)
    signature = Ed25519PrivateKey.from_private_bytes(issuer_private).sign(_signed_part(bare))
    return DeviceIdentity(device_private, msgspec.structs.replace(bare, issuer_signature=signature))


def verify_certificate(certificate: DeviceCertificate, *, region: str, issuer_public: bytes, now_ms: int) -> None:
    """Check a certificate.

    Raises:
        IdentityError: another region's, expired, or not signed by this issuer.
    """
    if certificate.region != region or certificate.certificate_expires_ms <= now_ms:
        raise IdentityError("a device certificate is of another region, or has expired")
    verify_signature(issuer_public, certificate.issuer_signature, _signed_part(certificate))


def verify_signature(public: bytes, signature: bytes, message: bytes) -> None:
    """Check an Ed25519 signature.

    Raises:
        IdentityError: it does not hold.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise IdentityError("a signature does not hold") from None


def _signed_part(certificate: DeviceCertificate) -> bytes:
    bare = msgspec.structs.replace(certificate, issuer_signature=b"")
    return _CONTEXT + msgspec.json.encode(bare, order="sorted")
