"""Signing and verifying receipts: Ed25519 (RFC 8032) over the receipt's own JSON, apart from all else that is signed.

The key is made from the region's secrets and is never retired with an issuer's: a receipt is shown years later.
"""

import base64
import binascii

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from infra.plumbing.errors import InvalidInputError
from infra.plumbing.keys import RegionKeys, Trust
from region.privacy.messages import RECEIPT_FORMAT, ErasureReceipt, SignedReceipt

_PURPOSE = RECEIPT_FORMAT.encode() + b"\0"


def sign_receipt(receipt: ErasureReceipt, keys: RegionKeys) -> SignedReceipt:
    """The receipt under the region's signature."""
    private = Ed25519PrivateKey.from_private_bytes(keys.receipt_private)
    signature = private.sign(_PURPOSE + msgspec.json.encode(receipt))
    return SignedReceipt(receipt=receipt, signature=base64.b64encode(signature).decode())


def read_receipt(content: bytes, trust: Trust) -> ErasureReceipt:
    """The receipt in a file, if its region signed it.

    Raises:
        InvalidInputError: it is no receipt, no region of the trust directory made it, or it was changed since.
    """
    try:
        signed = msgspec.json.decode(content, type=SignedReceipt)
        signature = base64.b64decode(signed.signature, validate=True)
    except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error) as error:
        raise InvalidInputError(f"this is no receipt of an erasure: {error}.") from None
    region = trust.regions.get(signed.receipt.region)
    if region is None or not region.receipt_public:
        raise InvalidInputError(
            f"the trust directory has no receipt key of {signed.receipt.region}.",
            fix="Name the directory of the world that the receipt comes from.",
        )
    try:
        Ed25519PublicKey.from_public_bytes(region.receipt_public).verify(
            signature, _PURPOSE + msgspec.json.encode(signed.receipt)
        )
    except (InvalidSignature, ValueError):
        raise InvalidInputError("the signature does not fit: the receipt was changed, or is not theirs.") from None
    return signed.receipt
