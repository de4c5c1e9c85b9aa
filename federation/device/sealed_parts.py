"""The form of a phone's store on its disk: a line per part, each sealed by itself, so that damage costs a part.

A line is ``index/count base64``. Index and count are bound into the seal: parts cannot be moved, left out or taken
from a store of another length without notice. (Who can put the whole old file back can do that; no phone's disk helps.)
"""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from federation.device.keystore import KeyStore, KeyStoreError

PARTS_MAX = 1000
STORE = b"atoll phone store\0"
"""What a file is, bound into its seals: an outbox's parts are no store's."""
_LINE = re.compile(rb"(\d{1,4})/(\d{1,4}) ([A-Za-z0-9+/=]+)")


@dataclass(frozen=True, slots=True)
class Opened:
    """Contents of the parts that hold, in order, and how many do not."""

    parts: tuple[bytes, ...]
    lost: int


def sealed_parts(parts: Sequence[bytes], keys: KeyStore, *, context: bytes = STORE) -> bytes:
    """The file of these parts.

    Raises:
        KeyStoreError: the key cannot be used.
        ValueError: more than PARTS_MAX.
    """
    if len(parts) > PARTS_MAX:
        raise ValueError(f"a store has {PARTS_MAX} parts at most, not {len(parts)}")
    lines = []
    for index, content in enumerate(parts):
        sealed = keys.seal(content, context=_place(context, index, len(parts)))
        lines.append(b"%d/%d %s\n" % (index, len(parts), base64.b64encode(sealed)))
    return b"".join(lines)


def opened_parts(raw: bytes, keys: KeyStore, *, context: bytes = STORE) -> Opened:
    """What of a file holds. A file in which nothing holds has lost at least one part."""
    found: dict[int, bytes] = {}
    counts: set[int] = set()
    broken = 0
    for line in raw.split(b"\n")[: PARTS_MAX + 1]:
        if not line:
            continue
        opened = _opened_line(line, keys, context)
        if opened is None:
            broken += 1
            continue
        index, count, content = opened
        counts.add(count)
        found[index] = content
    missing = max(counts, default=0) - len(found)
    return Opened(tuple(found[index] for index in sorted(found)), max(missing, broken, int(len(counts) > 1)))


def _opened_line(line: bytes, keys: KeyStore, context: bytes) -> tuple[int, int, bytes] | None:
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    index, count = int(match[1]), int(match[2])
    try:
        sealed = base64.b64decode(match[3], validate=True)
        return index, count, keys.unseal(sealed, context=_place(context, index, count))
    except (KeyStoreError, binascii.Error):
        return None


def _place(context: bytes, index: int, count: int) -> bytes:
    return context + b"%d/%d" % (index, count)
