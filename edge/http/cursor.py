"""Cursors: opaque to callers, stateless for edges, and no item twice whatever happens between two pages.

A cursor carries a fingerprint (32 bits) of every item shown so far and of the list it belongs to. So the next page may
come from a refilled list, another edge, another region or the release's lists and still repeats nothing. It holds no
item and no subject; changing it changes only what its holder does not see.

Nothing is passed over either: the next page is the best of the list *as it is now* that was not shown, so an item that
moves up behind the caller's back comes on the next page, and every item that stays in the list is shown in the end.
"""

import hashlib
import struct
from collections.abc import Iterable

from edge.calls import ListQuery
from infra.contracts.messages import SLATE_ITEMS_MAX
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.keys import decode_base64url, encode_base64url

_VERSION = 2
_HEAD = struct.Struct(">BI")
CURSOR_CHARACTERS_MAX = 4 * (_HEAD.size + 4 * SLATE_ITEMS_MAX) // 3 + 4


def item_fingerprint(item: str) -> int:
    """32 bits that stand for an item id."""
    return int.from_bytes(hashlib.blake2s(item.encode(), digest_size=4).digest(), "big")


def list_fingerprint(query: ListQuery) -> int:
    """32 bits that stand for the list that is paged through."""
    filters = "" if query.filters is None else repr(query.filters)
    return item_fingerprint(
        f"{query.type.value}\0{query.surface.value}\0{query.item or ''}\0{query.category or ''}\0{filters}"
    )


def next_cursor(query: ListQuery, page: Iterable[str]) -> str | None:
    """The cursor behind a page of `query`, or None when SLATE_ITEMS_MAX items would have been shown."""
    shown = (*query.shown, *(item_fingerprint(item) for item in page))
    if len(shown) >= SLATE_ITEMS_MAX:
        return None
    head = _HEAD.pack(_VERSION, list_fingerprint(query))
    return encode_base64url(head + struct.pack(f">{len(shown)}I", *shown))


def decode_cursor(text: str, *, list_is: int) -> tuple[int, ...]:
    """Fingerprints of the items shown so far.

    Raises:
        InvalidInputError: not a cursor of ours, or the cursor of another list (`list_is` is the one asked for).
    """
    fix = "Send the `next` of the page before and change nothing but n, or send none for the first page."
    try:
        raw = decode_base64url(text) if len(text) <= CURSOR_CHARACTERS_MAX else b""
    except ValueError:
        raw = b""
    count, odd = divmod(len(raw) - _HEAD.size, 4)
    if count < 0 or odd or count > SLATE_ITEMS_MAX or raw[0] != _VERSION:
        raise InvalidInputError("cursor is not one that this service gave out.", fix=fix, field="cursor")
    if _HEAD.unpack_from(raw)[1] != list_is:
        raise InvalidInputError("cursor belongs to another list.", fix=fix, field="cursor")
    return struct.unpack_from(f">{count}I", raw, _HEAD.size)
