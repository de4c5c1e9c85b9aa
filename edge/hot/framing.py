"""Where a connection stands between two requests, for the bytes that were handed over to aiohttp's parser.

The parser keeps half a head or half a body to itself and tells nobody. A request may be answered past it only while it
holds nothing, so the bytes that it still needs are counted beside it::

    0         at the start of a message: the next bytes may be looked at
    n > 0     n bytes of a body are to come
    UNKNOWN   no longer known (two heads in one read, half a head, chunks, an upgrade, anything odd): for good
    ASIDE     0, and one read waits at the handler for the next turn of the loop (`edge.hot.protocol`)

Counting must never say 0 where the parser disagrees, or bytes of one message would be read as another (request
smuggling, RFC 9112, section 11.2). So only heads are counted whose every line has the plainest form; the rest is
UNKNOWN.
"""

import re
from typing import Final

UNKNOWN: Final = -1
ASIDE: Final = -2
BODY_BYTES_MAX = 1 << 30

_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t -~]*")
_REQUEST = re.compile(rb"(GET|HEAD|POST|PUT|DELETE) [!-~]+ HTTP/1\.1")
_LENGTH = re.compile(rb"content-length: (0|[1-9][0-9]{0,9})", re.IGNORECASE)
_UNCOUNTED = (b"transfer-encoding:", b"upgrade:", b"expect:", b"http2-settings:", b"te:", b"trailer:")


def owed_after(owed: int, data: bytes) -> int:
    """Bytes that the parser still needs once it was given `data`, when it needed `owed` before."""
    if not data:
        return owed  # aiohttp wakes its parser this way when reading goes on after a pause.
    if owed > 0:
        return owed - len(data) if len(data) <= owed else UNKNOWN
    if owed == UNKNOWN:
        return UNKNOWN
    head, end, rest = data.partition(b"\r\n\r\n")
    length = body_bytes(head) if end else None
    if length is None or len(rest) > length:
        return UNKNOWN
    return length - len(rest)


def body_bytes(head: bytes) -> int | None:
    """The length of the body that `head` (without the empty line) announces; None where it is not beyond doubt."""
    first, *lines = head.split(b"\r\n")
    if not _REQUEST.fullmatch(first) or not all(_LINE.fullmatch(line) for line in lines):
        return None
    lowered = [line.lower() for line in lines]
    if any(line.startswith(_UNCOUNTED) for line in lowered):
        return None
    lengths = [line for line in lowered if line.startswith(b"content-length")]
    if not lengths:
        return 0
    found = _LENGTH.fullmatch(lengths[0]) if len(lengths) == 1 else None
    return int(found.group(1)) if found is not None and int(found.group(1)) <= BODY_BYTES_MAX else None
