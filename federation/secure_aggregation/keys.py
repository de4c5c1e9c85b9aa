"""Keys of secure aggregation: agreement by X25519, derivation by HKDF-SHA256, masks by ChaCha20 (RFC 7748, 5869, 8439).

All pairs of keys live for one round. What is derived names the round, what it is for and who speaks to whom, so that
nothing derived for one thing can be used for another.
"""

import hashlib

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from federation.secure_aggregation.ring import RingArray

KEY_BYTES = 32


class Agreement:
    """One private X25519 key, read once: reading it costs as much as agreeing on a secret."""

    def __init__(self, private: bytes) -> None:
        self._private = X25519PrivateKey.from_private_bytes(private)

    def public(self) -> bytes:
        """The public key."""
        return self._private.public_key().public_bytes_raw()

    def with_public(self, public: bytes) -> bytes:
        """The secret of two phones.

        Raises:
            ValueError: the public key is malformed or of small order.
        """
        return self._private.exchange(X25519PublicKey.from_public_bytes(public))


def pair_mask(secret: bytes, *, round_id: str, task: bytes, low: int, high: int, length: int) -> RingArray:
    """The mask of the phones `low` < `high`, `[length]`: the lower adds it, the higher takes it off.

    `task` says what the phone was told to do: masks of phones that were told different things do not cancel. Otherwise
    a gateway that has all others send zeros, by a task of their own, would read one phone's update off the sum
    (Pasquini et al. 2022, model inconsistency).
    """
    return _mask(_derive(secret, f"pair mask\0{round_id}\0{task.hex()}\0{low}\0{high}"), length)


def self_mask(seed: bytes, *, round_id: str, length: int) -> RingArray:
    """The mask that a phone alone knows until its survival is settled, `[length]`."""
    return _mask(_derive(seed, f"self mask\0{round_id}"), length)


def commitment(seed: bytes, *, round_id: str) -> bytes:
    """Says which self seed is meant without telling it (the seed has 256 random bits)."""
    return hashlib.sha256(b"atoll self seed\0" + round_id.encode() + b"\0" + seed).digest()


def seal(secret: bytes, content: bytes, *, round_id: str, sender: int, receiver: int) -> bytes:
    """`content` for the receiver's eyes only (ChaCha20-Poly1305 under a key of this round and direction)."""
    key = _derive(secret, f"shares\0{round_id}\0{sender}\0{receiver}")
    # The key is used for this one message, so the nonce may stand still.
    return ChaCha20Poly1305(key).encrypt(bytes(12), content, None)


def unseal(secret: bytes, content: bytes, *, round_id: str, sender: int, receiver: int) -> bytes:
    """Inverse of `seal`.

    Raises:
        ValueError: it was not sealed by this sender for this receiver in this round.
    """
    key = _derive(secret, f"shares\0{round_id}\0{sender}\0{receiver}")
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), content, None)
    except InvalidTag:
        raise ValueError("a sealed share does not open") from None


def _derive(secret: bytes, info: str) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=b"atoll\0" + info.encode()).derive(secret)


def _mask(key: bytes, length: int) -> RingArray:
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(4 * length))
    return np.frombuffer(stream, dtype="<u4")
