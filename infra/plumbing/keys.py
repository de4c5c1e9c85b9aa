"""A region's secrets, and the public directory that lets others verify and seal for it.

`RegionKeys` never leaves the region: with it a token's subject is opened and turned into the pseudonym under which
the region stores everything. `TrustDirectory` holds public keys only and is the same everywhere.
"""

import base64
import hashlib
import hmac
import secrets
from pathlib import Path
from typing import Self

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from infra.plumbing.files import write_atomically
from infra.plumbing.settings import load_settings


class RegionKeys(msgspec.Struct, frozen=True, kw_only=True):
    """Secrets of one region; all fields are 32 random bytes, base64 in the file."""

    region: str
    issuer_private: bytes
    """Ed25519 seed with which the region's token issuer signs; the issuer's `kid` is the region's name."""
    subject_key: bytes
    """AES-256-GCM key that seals the subject inside tokens."""
    pseudonym_key: bytes
    """HMAC key of the pseudonyms under which the region stores."""
    relay_private: bytes
    """X25519 key that opens travellers' sealed calls."""
    service_key: str
    """Shown by the region's own processes to each other."""
    operator_key: str
    """Shown by the region's operators."""

    @classmethod
    def generate(cls, region: str) -> Self:
        """Fresh keys for `region`."""
        return cls(
            region=region,
            issuer_private=secrets.token_bytes(32),
            subject_key=secrets.token_bytes(32),
            pseudonym_key=secrets.token_bytes(32),
            relay_private=secrets.token_bytes(32),
            service_key=secrets.token_urlsafe(24),
            operator_key=secrets.token_urlsafe(24),
        )

    def pseudonym(self, kind: str, name: str) -> str:
        """Under which the region stores `name` of `kind` (``user`` or ``session``): 32 hex digits of HMAC-SHA256."""
        return hmac.new(self.pseudonym_key, f"{kind}\0{name}".encode(), hashlib.sha256).hexdigest()[:32]

    def session_subject(self, session_id: str) -> str:
        """The subject of an anonymous session: `s` and 32 hex digits; its row in the store expires."""
        return "s" + self.pseudonym("session", session_id)

    def save(self, path: Path) -> None:
        """Write the keys, readable by their owner only."""
        write_atomically(path, msgspec.json.encode(self), mode=0o600)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            SettingsError: the file is missing or is not a key file.
        """
        return load_settings(path, cls)


class PublicKeys(msgspec.Struct, frozen=True, kw_only=True):
    """What everybody may know of one region."""

    issuer_public: bytes
    relay_public: bytes


class TrustDirectory(msgspec.Struct, frozen=True, kw_only=True):
    """Public keys of every region, by its name."""

    regions: dict[str, PublicKeys]

    @classmethod
    def of(cls, keys: list[RegionKeys]) -> Self:
        """The directory of these regions."""
        return cls(
            regions={
                key.region: PublicKeys(
                    issuer_public=Ed25519PrivateKey.from_private_bytes(key.issuer_private)
                    .public_key()
                    .public_bytes_raw(),
                    relay_public=X25519PrivateKey.from_private_bytes(key.relay_private).public_key().public_bytes_raw(),
                )
                for key in keys
            }
        )

    def save(self, path: Path) -> None:
        """Write the directory."""
        write_atomically(path, msgspec.json.encode(self))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            SettingsError: the file is missing or is not a trust directory.
        """
        return load_settings(path, cls)


def encode_base64url(raw: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode_base64url(text: str) -> bytes:
    """Inverse of `encode_base64url`.

    Raises:
        ValueError: `text` is not base64url.
    """
    return base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
