"""A device's signing key, and the region's certificate for it.

The certificate says that the region's issuer knows the device, not whose it is: neighbours in a round must not learn
who they are. A gateway that could make certificates itself could fill a round with phones of its own making, so the
issuer's key belongs to whoever signs users in, not to the gateway.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from infra.contracts.residency import Regional, RegionalMessage

_CONTEXT = b"atoll device certificate\0"
CERTIFICATES_KEPT_MAX = 50_000


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
    return DeviceIdentity(
        device_private, certified(public, region=region, issuer_private=issuer_private, expires_ms=expires_ms)
    )


def certified(device_public: bytes, *, region: str, issuer_private: bytes, expires_ms: int) -> DeviceCertificate:
    """The issuer's certificate for a device that showed its public key, 32 bytes."""
    bare = DeviceCertificate(region=region, device_key=device_public, certificate_expires_ms=expires_ms)
    signature = Ed25519PrivateKey.from_private_bytes(issuer_private).sign(_signed_part(bare))
    return msgspec.structs.replace(bare, issuer_signature=signature)


def verify_certificate(certificate: DeviceCertificate, *, region: str, issuer_public: bytes, now_ms: int) -> None:
    """Check a certificate.

    Raises:
        IdentityError: another region's, expired, or not signed by this issuer.
    """
    _require_current(certificate, region=region, now_ms=now_ms)
    verify_signature(issuer_public, certificate.issuer_signature, _signed_part(certificate))


class Certificates:
    """Certificates of one issuer: a device that comes back is not checked for its issuer's signature again.

    What is kept are marks (SHA-256 over all that was signed and the signature), so what differs in a bit is another
    certificate; region and expiry are looked at every time.
    """

    def __init__(self, *, region: str, issuer_public: bytes, kept_max: int = CERTIFICATES_KEPT_MAX) -> None:
        self._region = region
        self._issuer_public = issuer_public
        self._kept_max = kept_max
        self._held: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._held)

    def verify(self, certificate: DeviceCertificate, *, now_ms: int) -> None:
        """Check a certificate.

        Raises:
            IdentityError: another region's, expired, or not signed by this issuer.
        """
        signature = certificate.issuer_signature
        mark = hashlib.sha256(len(signature).to_bytes(8, "big") + signature + _signed_part(certificate)).digest()
        if mark in self._held:
            _require_current(certificate, region=self._region, now_ms=now_ms)
            self._held.move_to_end(mark)
            return
        verify_certificate(certificate, region=self._region, issuer_public=self._issuer_public, now_ms=now_ms)
        self._held[mark] = None
        if len(self._held) > self._kept_max:
            self._held.popitem(last=False)


def verify_signature(public: bytes, signature: bytes, message: bytes) -> None:
    """Check an Ed25519 signature (RFC 8032).

    By libsodium, which takes half of OpenSSL's time: a gateway checks two for each phone of a round, a phone three for
    each neighbour. It refuses keys and points of small order, which no honest device has.

    Raises:
        IdentityError: it does not hold.
    """
    try:
        VerifyKey(public).verify(message, signature)
    except (BadSignatureError, ValueError):
        raise IdentityError("a signature does not hold") from None


def _signed_part(certificate: DeviceCertificate) -> bytes:
    bare = msgspec.structs.replace(certificate, issuer_signature=b"")
    return _CONTEXT + msgspec.json.encode(bare, order="sorted")


def _require_current(certificate: DeviceCertificate, *, region: str, now_ms: int) -> None:
    if certificate.region != region or certificate.certificate_expires_ms <= now_ms:
        raise IdentityError("a device certificate is of another region, or has expired")
