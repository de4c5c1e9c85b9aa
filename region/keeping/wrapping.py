"""Wrapping keys by the region's own (AES-256-GCM, NIST SP 800-38D): envelope encryption with the key file as the root.

`Wrapping` is all that the rest needs of whatever holds the root: the key file here, or a key management service
(`enveloping.ServiceWrapping`). One contract suite holds both to it.
"""

import secrets
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.errors import UnavailableError
from infra.plumbing.keys import RegionKeys
from infra.plumbing.reloading import Reloading

KEY_BYTES = 32
_NONCE_BYTES = 12


class KeysUnavailableError(UnavailableError):
    """A key that is there cannot be opened now: nothing may be taken for erased because of it."""


class Wrapping(Protocol):
    """Wraps and unwraps keys. `about` says what a key is for: wrapped for one thing, it opens for no other."""

    def wrap(self, key: bytes, *, about: bytes) -> bytes:
        """The key as it may be kept."""
        ...

    def unwrap(self, wrapped: bytes, *, about: bytes) -> bytes:
        """Inverse of `wrap`.

        Raises:
            KeysUnavailableError: the root key is not there, or these bytes are not of it.
        """
        ...

    def is_current(self, wrapped: bytes) -> bool:
        """Whether it was wrapped by the root key that wraps now."""
        ...

    def at_hand(self, wrapped: bytes | None) -> bool:
        """Whether it can be unwrapped (None: whether a key can be wrapped) without waiting for somebody."""
        ...

    def since_ms(self) -> int:
        """When the oldest root key that still opens anything was made; 0 where nobody can say."""
        ...


class FileWrapping:
    """`Wrapping` by the rest keys of a key file, which is followed: a new root key is known within a second.

    Raises:
        SettingsError: the file is missing or is no key file.
    """

    def __init__(self, keys_file: Path, *, clock: Clock | None = None) -> None:
        self._path = keys_file
        self._source = Reloading(keys_file, RegionKeys.load, clock=clock if clock is not None else SystemClock())

    def wrap(self, key: bytes, *, about: bytes) -> bytes:
        """The key under the newest root key."""
        kid, root = next(reversed(self._source.get().rest_keys().items()))
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return bytes([len(kid)]) + kid.encode() + nonce + AESGCM(root).encrypt(nonce, key, about)

    def unwrap(self, wrapped: bytes, *, about: bytes) -> bytes:
        """The key itself. A root key that is not known yet is looked for in the file at once."""
        kid = _kid_of(wrapped)
        root = self._source.get().rest_keys().get(kid) or RegionKeys.load(self._path).rest_keys().get(kid)
        if root is None:
            raise KeysUnavailableError(
                f"the key file has no rest key {kid!r}.", fix="Restore the key file that this state belongs to."
            )
        start = 1 + len(kid)
        nonce, sealed = wrapped[start : start + _NONCE_BYTES], wrapped[start + _NONCE_BYTES :]
        try:
            return AESGCM(root).decrypt(nonce, sealed, about)
        except (InvalidTag, ValueError) as error:
            raise KeysUnavailableError(
                "a wrapped key does not open under the region's key.",
                fix="Restore the key file that this state belongs to, or the file that the key lies in.",
            ) from error

    def is_current(self, wrapped: bytes) -> bool:
        """Whether the newest root key wrapped it."""
        return _kid_of(wrapped) == next(reversed(self._source.get().rest_keys()))

    def at_hand(self, wrapped: bytes | None) -> bool:
        """Always: the file is this machine's."""
        del wrapped
        return True

    def since_ms(self) -> int:
        """By the key file as it is now: a rotation is finished when the file no longer holds what was before."""
        return RegionKeys.load(self._path).rest_since_ms


def _kid_of(wrapped: bytes) -> str:
    return wrapped[1 : 1 + wrapped[0]].decode(errors="replace") if wrapped else ""
