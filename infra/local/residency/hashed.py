"""Hashed secrets: what common hash functions make of an id, as bytes, hex and base64, whole or cut.

A hash of an id is the id to whoever can list ids. Only hashes without a secret key can be looked for; a pseudonym is
one with a key, and is looked for as it is. Checksums of 32 bits cannot be told from chance and are not looked for.
"""

import base64
import hashlib
from collections.abc import Iterator

ALGORITHMS = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512", "sha3_256", "blake2b", "blake2s")
CUT_BYTES = 8
"""Digests are often cut: as many first bytes are enough to be sure."""


def hashed_forms(text: bytes) -> Iterator[tuple[str, bytes]]:
    """(name of the form, bytes to look for) for every hash of `text`; the cut ones find the whole ones too."""
    for algorithm in ALGORITHMS:
        digest = hashlib.new(algorithm, text, usedforsecurity=False).digest()
        start = digest[:CUT_BYTES]
        yield algorithm, start
        yield f"{algorithm} hex", start.hex().encode()
        yield f"{algorithm} hex upper", start.hex().upper().encode()
        # Ten characters hold 60 of the 64 bits.
        encoded = base64.b64encode(digest)[:10]
        yield f"{algorithm} base64", encoded
        url = encoded.translate(bytes.maketrans(b"+/", b"-_"))
        if url != encoded:
            yield f"{algorithm} base64url", url
