"""Sealed boxes: what one region says to another through a traveller's edge, readable by the home region only.

A box is made as in ECIES: an ephemeral X25519 key agreement with the home region's relay key, HKDF-SHA256, and
AES-256-GCM. The same agreement yields a second key for the reply, so only the sealer can open it. Boxes carry no
replay protection of their own: what is inside (a token with a life, events with ids) does.
"""

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from infra.plumbing.errors import InvalidInputError

_KEY_BYTES = 32
_NONCE_BYTES = 12
_CALL_DATA = b"atoll relay call v1"
_REPLY_DATA = b"atoll relay reply v1"


def seal_call(relay_public: bytes, plaintext: bytes) -> tuple[bytes, bytes]:
    """Box `plaintext` for the holder of `relay_public` (32 bytes). Returns (box, reply key)."""
    ephemeral = X25519PrivateKey.generate()
    public = ephemeral.public_key().public_bytes_raw()
    call_key, reply_key = _keys(
        ephemeral.exchange(X25519PublicKey.from_public_bytes(relay_public)), public, relay_public
    )
    return public + _encrypt(call_key, plaintext, _CALL_DATA), reply_key


def open_call(relay_private: bytes, box: bytes) -> tuple[bytes, bytes]:
    """Open a box made by `seal_call`. Returns (plaintext, reply key).

    Raises:
        InvalidInputError: the box was not made for this region or was changed on the way.
    """
    private = X25519PrivateKey.from_private_bytes(relay_private)
    public, sealed = box[:_KEY_BYTES], box[_KEY_BYTES:]
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(public))
        call_key, reply_key = _keys(shared, public, private.public_key().public_bytes_raw())
        return _decrypt(call_key, sealed, _CALL_DATA), reply_key
    except (InvalidTag, ValueError) as error:
        raise InvalidInputError("the sealed call cannot be opened by this region.") from error


def seal_reply(reply_key: bytes, plaintext: bytes) -> bytes:
    """Box a reply under the key that the call's box carried."""
    return _encrypt(reply_key, plaintext, _REPLY_DATA)


def open_reply(reply_key: bytes, box: bytes) -> bytes:
    """Open a reply made by `seal_reply`.

    Raises:
        InvalidInputError: the box was not made with this key or was changed on the way.
    """
    try:
        return _decrypt(reply_key, box, _REPLY_DATA)
    except (InvalidTag, ValueError) as error:
        raise InvalidInputError("the sealed reply cannot be opened.") from error


def _keys(shared: bytes, ephemeral_public: bytes, relay_public: bytes) -> tuple[bytes, bytes]:
    derived = HKDF(
        algorithm=hashes.SHA256(), length=2 * _KEY_BYTES, salt=ephemeral_public + relay_public, info=b"atoll relay v1"
    ).derive(shared)
    return derived[:_KEY_BYTES], derived[_KEY_BYTES:]


def _encrypt(key: bytes, plaintext: bytes, data: bytes) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, data)


def _decrypt(key: bytes, box: bytes, data: bytes) -> bytes:
    return AESGCM(key).decrypt(box[:_NONCE_BYTES], box[_NONCE_BYTES:], data)
