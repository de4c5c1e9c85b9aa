"""Every form in which a secret could stand in bytes: plain, hex, upper case, raw, base64 at any alignment, hashed."""

import base64
import re
import urllib.parse
from collections.abc import Iterator

from infra.local.residency.hashed import hashed_forms

NEEDLE_BYTES_MIN = 8
"""Shorter secrets are ordinary numbers and words: they are looked for beside a telling name only."""
_HEX_PSEUDONYM = re.compile(r"[0-9a-fA-F]{32}")


def forms_of(secret: str | bytes) -> Iterator[tuple[str, bytes]]:
    """(name of the form, bytes to look for) of one secret; forms shorter than NEEDLE_BYTES_MIN are left out."""
    for name, needle in _all_forms(secret):
        if len(needle) >= NEEDLE_BYTES_MIN:
            yield name, needle
    # A short id is anybody's word; its hash is not.
    yield from hashed_forms(secret.encode() if isinstance(secret, str) else secret)


def _all_forms(secret: str | bytes) -> Iterator[tuple[str, bytes]]:
    if isinstance(secret, bytes):
        yield "raw", secret
        yield from _encodings(secret)
        return
    text = secret.encode()
    if len(text) < NEEDLE_BYTES_MIN:
        return
    yield "plain", text
    yield from _variants(secret)
    yield from _encodings(text)
    if _HEX_PSEUDONYM.fullmatch(secret):
        raw = bytes.fromhex(secret)
        dashed = "-".join((secret[:8], secret[8:12], secret[12:16], secret[16:20], secret[20:]))
        yield "raw", raw
        yield "dashed", dashed.encode()
        yield "dashed upper", dashed.upper().encode()
        yield from _base64(raw, "raw ")


def _variants(secret: str) -> Iterator[tuple[str, bytes]]:
    for name, variant in (
        ("upper", secret.upper()),
        ("lower", secret.lower()),
        ("percent", urllib.parse.quote(secret, safe="")),
        ("utf-16", None),
        ("utf-32", None),
    ):
        if variant is None:
            yield name, secret.encode(f"{name}-le")
        elif variant != secret:
            yield name, variant.encode()


def _encodings(raw: bytes) -> Iterator[tuple[str, bytes]]:
    yield "hex", raw.hex().encode()
    yield "hex upper", raw.hex().upper().encode()
    yield from _base64(raw, "")


def _base64(raw: bytes, prefix: str) -> Iterator[tuple[str, bytes]]:
    """Base64 of `raw` wherever it begins inside a longer encoded text: three alignments, two alphabets."""
    for alignment in range(3):
        encoded = base64.b64encode(bytes(alignment) + raw)
        # Characters that also carry bits of the neighbours are left out: 0, 2 or 3 in front; behind, the last group.
        start = (0, 2, 3)[alignment]
        whole = (alignment + len(raw)) * 8 // 6
        needle = encoded[start:whole]
        yield f"{prefix}base64+{alignment}", needle
        url = needle.translate(bytes.maketrans(b"+/", b"-_"))
        if url != needle:
            yield f"{prefix}base64url+{alignment}", url
