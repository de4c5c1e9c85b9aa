"""Where a phone keeps the key to its own store: it seals and opens, and never hands the key out.

On a phone the system fills this port (a key in its secure hardware, which no application can read). `FileKeyStore` is
for machines that have none: whoever can read its file can read the store.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from infra.plumbing.errors import AtollError
from infra.plumbing.files import write_atomically

Entropy = Callable[[int], bytes]
KEY_BYTES = 32
_NONCE_BYTES = 12


class KeyStoreError(AtollError):
    """The key cannot be used, or does not open what it was given."""


class KeyStore(Protocol):
    """Seals and opens with a key of the device."""

    def seal(self, content: bytes, *, context: bytes) -> bytes:
        """`content` that only this device can open, and only in the same context (AES-256-GCM, fresh nonce)."""
        ...

    def unseal(self, sealed: bytes, *, context: bytes) -> bytes:
        """Inverse of `seal`.

        Raises:
            KeyStoreError: changed, of another context, or sealed by another key.
        """
        ...

    def forget(self) -> None:
        """Destroy the key: whatever it sealed, copies included, is gone for good."""
        ...


class FileKeyStore:
    """A key in a file that its owner alone can read; made at first use.

    Args:
        path: the file.
        entropy: source of key and nonces.
    """

    def __init__(self, path: Path, *, entropy: Entropy) -> None:
        self._path = path
        self._entropy = entropy

    def seal(self, content: bytes, *, context: bytes) -> bytes:
        """Nonce and ciphertext; see `KeyStore`."""
        nonce = self._entropy(_NONCE_BYTES)
        return nonce + AESGCM(self._key(make=True)).encrypt(nonce, content, context)

    def unseal(self, sealed: bytes, *, context: bytes) -> bytes:
        """See `KeyStore`."""
        try:
            return AESGCM(self._key(make=False)).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context)
        except (InvalidTag, ValueError):
            raise KeyStoreError("this device's key does not open what was given.") from None

    def forget(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)

    def _key(self, *, make: bool) -> bytes:
        if make and not os.path.lexists(self._path):
            write_atomically(self._path, self._entropy(KEY_BYTES), mode=0o600)
        try:
            key, mode = self._path.read_bytes(), self._path.stat().st_mode
        except OSError as error:
            raise KeyStoreError("the phone's key cannot be read.", fix="Without it the store is lost.") from error
        if len(key) != KEY_BYTES or stat.S_IMODE(mode) & 0o077:
            raise KeyStoreError(
                "the phone's key file is damaged, or others can read it.", fix="Its mode has to be 0600."
            )
        return key
