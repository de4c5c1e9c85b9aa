"""What a region's hard rules keep out, as its edges are told: items, for lists that no rule has looked at."""

import hashlib
from collections.abc import Sequence

import msgspec

from infra.contracts.residency import Global, GlobalMessage

KEPT_OUT_ITEMS_MAX = 200_000
"""Over all surfaces: what a region tells, and an edge keeps in mind."""


class ItemsKeptOut(GlobalMessage, frozen=True, kw_only=True):
    """`items` may not be shown on `surfaces` (`Surface`), on none at all where that is empty."""

    surfaces: Global[tuple[str, ...]] = ()
    items: Global[tuple[str, ...]]


def kept_out_digest(groups: Sequence[ItemsKeptOut]) -> str:
    """A name of what is kept out that every node gives alike."""
    return hashlib.blake2b(msgspec.json.encode(groups), digest_size=12).hexdigest()
