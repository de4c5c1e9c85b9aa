"""Signing keys: Ed25519, one PEM file each, readable by their owner only, encrypted where a passphrase is given."""

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from infra.plumbing.errors import InvalidInputError, SettingsError
from infra.plumbing.files import write_atomically
from infra.plumbing.private_files import ExposedSecretError, read_private
from infra.plumbing.tuf_client.library import CryptoSigner, SSlibKey

PASSPHRASE_BYTES_MIN, PASSPHRASE_BYTES_MAX = 8, 1024


class KeysError(SettingsError):
    """Signing keys are missing, too open, or not usable."""


def create_signer(path: Path, *, passphrase: bytes | None = None) -> CryptoSigner:
    """The key at `path`; made, mode 0600, if there is none. Never replaces a key.

    Raises:
        KeysError: as `load_signer`.
    """
    if not path.exists():
        encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
        content = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
        write_atomically(path, content, mode=0o600)
    return load_signer(path, passphrase=passphrase)


def load_signer(path: Path, *, passphrase: bytes | None = None) -> CryptoSigner:
    """The key at `path`. A passphrase that a plain key does not need is not used.

    Raises:
        KeysError: it may be read by others, is encrypted otherwise, or is no Ed25519 key.
    """
    try:
        content = read_private(path)
    except ExposedSecretError as error:
        raise KeysError(error.message, fix=error.fix) from error
    except OSError as error:
        raise KeysError(f"the key {path} cannot be read: {error.strerror}.", fix="Name the file of a key.") from error
    encrypted = b"ENCRYPTED" in content[:64]
    if encrypted and passphrase is None:
        raise KeysError(f"the key {path} is encrypted.", fix="Give the file that holds its passphrase.")
    try:
        private = load_pem_private_key(content, passphrase if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        fix = "Give the right passphrase." if encrypted else "Restore it from its backup."
        raise KeysError(f"{path} is not a readable private key: {error}.", fix=fix) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise KeysError(f"{path} is not an Ed25519 key.", fix="Restore it from its backup.")
    return CryptoSigner(private)


def public_pem(path: Path, *, passphrase: bytes | None = None) -> bytes:
    """The public half of the key at `path`, to be handed to whoever delegates to it.

    Raises:
        KeysError: as `load_signer`.
    """
    load_signer(path, passphrase=passphrase)
    private = load_pem_private_key(path.read_bytes(), passphrase)
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def read_public(path: Path) -> SSlibKey:
    """The public key in the PEM file at `path`.

    Raises:
        InvalidInputError: there is none, or it is not an Ed25519 key; a private key is refused.
    """
    try:
        public = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInputError(
            f"{path} is not a public key: {error}.",
            fix="Name the file that the region handed out; never a private key.",
        ) from error
    if not isinstance(public, Ed25519PublicKey):
        raise InvalidInputError(f"{path} is not an Ed25519 key.", fix="Make one: ./atoll rules key --region REGION.")
    return SSlibKey.from_crypto(public)


def read_passphrase(path: Path | None) -> bytes | None:
    """The passphrase in the file at `path`, less the line's end; None for no file.

    Raises:
        KeysError: it is open to others, cannot be read, or is shorter or longer than a passphrase may be.
    """
    if path is None:
        return None
    try:
        passphrase = read_private(path, bytes_max=PASSPHRASE_BYTES_MAX + 2).rstrip(b"\r\n")
    except ExposedSecretError as error:
        raise KeysError(error.message, fix=error.fix) from None
    except OSError as error:
        raise KeysError(f"the passphrase {path} cannot be read: {error.strerror}.") from error
    if not PASSPHRASE_BYTES_MIN <= len(passphrase) <= PASSPHRASE_BYTES_MAX:
        raise KeysError(
            f"the passphrase in {path} has {len(passphrase)} bytes.",
            fix=f"Use {PASSPHRASE_BYTES_MIN} to {PASSPHRASE_BYTES_MAX}.",
        )
    return passphrase
