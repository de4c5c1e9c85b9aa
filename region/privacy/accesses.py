"""Who read or changed whose data: what is written down of it, and how a chain of it is verified. Pure.

Every entry holds the hash of the one before (SHA-256 over that hash and the entry's own JSON), so that none can be
changed, taken out, put in or moved without all behind it changing. What a chain by itself cannot show is that its end
was cut off, or that all of it was written anew: for that the region signs the head, where the chain stands, at every
entry; and heads are handed out with what officers get (`AccessHead` in every receipt and audit answer). A chain that
does not reach a head that somebody holds, or says something else at its place, is not the one that was signed.

Subjects stand in it by their `erasure_mark`, and stay when the subject is erased: that somebody looked is what the
region has to account for (GDPR Art. 5(2), 15(1)(c)), to the subject first of all; the mark is a hash of a pseudonym,
which tells nothing to who cannot name the subject, and an entry says nothing of what was read. An audit out of which
entries vanish on request would protect whoever looks, not who was looked at.
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from infra.contracts.residency import Global, Regional, RegionalMessage
from infra.plumbing.keys import RegionKeys, Trust

FORMAT = "atoll-access-head/1"
_PURPOSE = FORMAT.encode() + b"\0"
GENESIS = "0" * 64
"""Stands where the first entry of all names the one before."""


class Access(RegionalMessage, frozen=True, kw_only=True):
    """One time that somebody asked for, or did something to, somebody's data."""

    number: Regional[int]
    """From 1, without a gap."""
    at_ms: Regional[int]
    who: Regional[str]
    action: Regional[str]
    mark: Regional[str] = ""
    """Whose data, as `erasure_mark`; empty: many people's at once."""
    outcome: Regional[str]
    """`asked` (written before anything is read), `done`, `failed`."""
    detail: Regional[str] = ""
    before: Regional[str]
    """Hash of the entry before."""


class AccessHead(RegionalMessage, frozen=True, kw_only=True):
    """Where a node's chain stands, signed by its region."""

    format: Global[str] = FORMAT
    region: Global[str]
    node: Regional[str]
    first: Regional[int]
    """The oldest entry that is kept, and the hash of the one before it: older files go by their bound."""
    first_before: Regional[str]
    last: Regional[int]
    hash: Regional[str]
    """Of the last entry."""
    at_ms: Regional[int]
    signature: Global[str] = ""


def hash_of(entry: Access) -> str:
    """What the next entry names this one by."""
    return hashlib.sha256(msgspec.json.encode(entry)).hexdigest()


def sign_head(head: AccessHead, keys: RegionKeys) -> AccessHead:
    """The head under the region's signature (Ed25519, RFC 8032; the key of receipts, another purpose)."""
    private = Ed25519PrivateKey.from_private_bytes(keys.receipt_private)
    return msgspec.structs.replace(head, signature=base64.b64encode(private.sign(_signed(head))).decode())


def is_signed(head: AccessHead, trust: Trust) -> bool:
    """Whether the head's region signed it as it is."""
    region = trust.regions.get(head.region)
    if region is None or not region.receipt_public:
        return False
    try:
        signature = base64.b64decode(head.signature, validate=True)
        Ed25519PublicKey.from_public_bytes(region.receipt_public).verify(signature, _signed(head))
    except (InvalidSignature, ValueError, binascii.Error):
        return False
    return True


def verify(entries: Sequence[Access], head: AccessHead, trust: Trust, *, held: Sequence[AccessHead] = ()) -> list[str]:
    """What is wrong with a chain; nothing when it is whole.

    Args:
        entries: all that are kept, oldest first.
        head: as the node gives it out now.
        trust: for the region's public key.
        held: heads that were handed out earlier, of the same node.
    """
    problems = [] if is_signed(head, trust) else ["the head is not signed by its region"]
    problems += _breaks(entries, head)
    by_number = {entry.number: entry for entry in entries}
    for earlier in held:
        name = f"the head of entry {earlier.last} that was held"
        if (earlier.region, earlier.node) != (head.region, head.node):
            problems.append(f"{name} is of another node")
        elif not is_signed(earlier, trust):
            problems.append(f"{name} is not signed by its region")
        elif earlier.last > head.last:
            problems.append(f"{name} lies behind the end: the chain was cut off or brought back from a copy")
        elif earlier.last >= head.first and (
            earlier.last not in by_number or hash_of(by_number[earlier.last]) != earlier.hash
        ):
            problems.append(f"{name} is not in the chain: it was written anew")
    return problems


def _breaks(entries: Sequence[Access], head: AccessHead) -> list[str]:
    problems: list[str] = []
    number, before = head.first, head.first_before
    for entry in entries:
        if entry.number != number:
            problems.append(f"entry {number} is missing or out of its place: {entry.number} stands there")
            number = entry.number
        elif entry.before != before:
            problems.append(f"entry {number} does not follow from the one before: one of them was changed")
        number, before = number + 1, hash_of(entry)
    if number != head.last + 1:
        problems.append(f"the chain ends at entry {number - 1}, its head says {head.last}")
    elif entries and before != head.hash:
        problems.append(f"the last entry, {head.last}, is not what the head says")
    return problems


def _signed(head: AccessHead) -> bytes:
    return _PURPOSE + msgspec.json.encode(msgspec.structs.replace(head, signature=""))
