"""Reading the head of a plain request, or declining to.

Declining is always right: the bytes then go to aiohttp's parser untouched. So this reader knows one shape only, the one
that clients that mean well send, and has no opinion on any other::

    GET /v1/recommendations/<rest of the target> HTTP/1.1 CRLF
    <name>: <value> CRLF            one space, printable ASCII, no white space at the end
    CRLF                            and nothing behind it

Names are those of RULES; whatever frames a body, changes the connection or is read by a handler and not known here is
declined, and so is a second header of any name that matters. What was judged before is looked up in bounded memos, by
line and by block of lines: requests of one kind of device differ in a line or two, not in all.
"""

import re
from collections.abc import Callable
from typing import Final

HEAD_BYTES_MAX = 4_096
"""Longer heads are declined; aiohttp takes 8,190 bytes a line."""
HEADERS_MAX = 40
MEMO_LINES_MAX = 4_096
MEMO_LINE_BYTES_MAX = 256
MEMO_BLOCKS_MAX = 4_096
MEMO_BLOCK_BYTES_MAX = 1_024

DECLINED: Final = -1
HARMLESS: Final = 0
HOST: Final = 1
AUTHORIZATION: Final = 2
TAGS: Final = 4
REQUEST_ID: Final = 8
TRACE: Final = 16
DEADLINE: Final = 32
CONNECTION: Final = 64
VARIED: Final = 128
_REMEMBERED: Final = HARMLESS | HOST | DEADLINE | CONNECTION
"""Kinds whose lines repeat from request to request."""

_VALUE = re.compile(rb" [!-~]([ -~]*[!-~])?").fullmatch
_DEADLINE = re.compile(rb" [0-9]{1,9}").fullmatch
_UNSAMPLED = re.compile(rb" 00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][02468ace]").fullmatch
# The lowest bit is `sampled`; others may be set, as `random` is by OpenTelemetry (W3C Trace Context, level 2, 3.2.2.5).
_KEEP_ALIVE = re.compile(rb" [Kk]eep-[Aa]live").fullmatch
_UNKNOWN: tuple[int, Callable[[bytes], object]] = (DECLINED, lambda _value: None)
_BEARER_VALUE = re.compile(rb" Bearer [!-~]+").fullmatch
_BEARER: Final = b"\r\nAuthorization: Bearer "
_BEARER_LENGTH: Final = len(_BEARER)
FORWARDED: Final = b"\r\nX-Forwarded-For: "
LASTING: Final = HARMLESS | HOST | AUTHORIZATION | TAGS | DEADLINE | CONNECTION
"""Kinds of lines that a client sends again."""
BEHIND: Final = HARMLESS | TAGS | REQUEST_ID | TRACE | DEADLINE | CONNECTION | VARIED
"""Kinds that may stand behind a head's lasting part without changing whose request it is."""
TAIL: Final = re.compile(
    rb"(?:\r\nX-Forwarded-For: [!-~][ -~]{0,255})?(?:\r\nX-Forwarded-(?:Proto|Port): [0-9a-z]{1,8})*"
    rb"(?:\r\nIf-None-Match: ([!-~]{1,255}))?\r\n\r\n"
).fullmatch
"""What mostly stands behind it: what a balancer adds, and the tag of what the client has."""

RULES: dict[bytes, tuple[int, Callable[[bytes], object]]] = {
    b"host": (HOST, _VALUE),
    b"if-none-match": (TAGS, _VALUE),
    b"atoll-request-id": (REQUEST_ID, _VALUE),
    b"traceparent": (TRACE, _UNSAMPLED),
    b"atoll-deadline-ms": (DEADLINE, _DEADLINE),
    b"connection": (CONNECTION, _KEEP_ALIVE),
    b"authorization": (AUTHORIZATION, _BEARER_VALUE),
}
"""What each name is, and the only form in which it is taken. A sampled `traceparent` wants a span: declined."""

HARMLESS_NAMES = (
    "accept", "accept-charset", "accept-encoding", "accept-language", "atoll-client-region", "cache-control", "dnt",
    "if-modified-since", "origin", "pragma", "priority", "save-data", "sec-ch-ua", "sec-ch-ua-mobile",
    "sec-ch-ua-platform", "sec-fetch-dest", "sec-fetch-mode", "sec-fetch-site", "sec-fetch-user", "sec-gpc",
    "user-agent", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-requested-with",
)  # fmt: skip
"""Names that no handler for lists reads (a test searches for readers); `atoll-client-region` is for the balancer, which
tells every edge whom it took the caller for."""
VARIED_NAMES = ("cookie", "forwarded", "referer", "tracestate", "via", "x-forwarded-for", "x-real-ip")
"""The same, but their lines hardly ever come twice: remembering them would push out those that do."""
RULES.update((name.encode(), (HARMLESS, _VALUE)) for name in HARMLESS_NAMES)
RULES.update((name.encode(), (VARIED, _VALUE)) for name in VARIED_NAMES)


def lasting_end(data: bytes) -> int:
    """Where the part of a head ends that its client sends every time.

    Behind it come the lines that a balancer adds, if they are there; else all lines behind the token, else none.
    """
    at = data.rfind(FORWARDED)
    if at < 0:
        bearer = data.find(_BEARER)
        at = data.find(b"\r", bearer + _BEARER_LENGTH) if bearer >= 0 else len(data) - 4
    return at


class HeadReader:
    """Reads one head at a time; what it found lies in its fields until the next one (they are never kept).

    token: behind `Authorization: Bearer`, not checked at all.
    tags: the value of `If-None-Match`.
    request_id: the value of `Atoll-Request-Id`.
    """

    __slots__ = ("_blocks", "_known", "request_id", "tags", "token")

    def __init__(self) -> None:
        self.token: bytes | None = None
        self.tags: bytes | None = None
        self.request_id: bytes | None = None
        self._known: dict[bytes, int] = {}
        self._blocks: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._known) + len(self._blocks)

    def read(self, data: bytes) -> bytes | None:
        """The target of the one plain request that `data` is; None when it is declined."""
        line_end = data.find(b" HTTP/1.1\r\n", 24, HEAD_BYTES_MAX)
        if line_end < 0 or not (data.startswith(b"GET /v1/recommendations/") and data.endswith(b"\r\n\r\n")):
            return None
        self.token = self.tags = self.request_id = None
        # Where the token stands is where a head falls into what comes again and what does not. Blocks begin with the
        # CRLF in front of their first line and end before the CRLF behind their last one.
        at = data.find(_BEARER, line_end)
        if at < 0:
            kinds = self._block(data[line_end + 9 : -4])
        else:
            token_end = data.find(b"\r", at + _BEARER_LENGTH)
            self.token = data[at + _BEARER_LENGTH : token_end]
            before = data[line_end + 9 : at]
            kinds = self._blocks.get(before) or self._block(before)
            behind = data[token_end:-4]
            if behind:
                kinds = _together(kinds, self._lines(behind))
            if kinds & AUTHORIZATION:
                return None  # A second one; DECLINED has this bit too.
        return data[4:line_end] if kinds > 0 and kinds & HOST and len(data) <= HEAD_BYTES_MAX else None

    def read_tail(self, data: bytes, end: int, kinds: int) -> bool:
        """Read what stands behind `end` of a head whose part before it has lines of `kinds`; False: read all of it."""
        self.token = self.tags = self.request_id = None
        if not data.endswith(b"\r\n\r\n", end) or len(data) > HEAD_BYTES_MAX:
            return False
        tail = data[end:-4]
        behind = self._lines(tail) if tail else HARMLESS
        return not behind & ~BEHIND and _together(kinds, behind) != DECLINED

    def kinds_until(self, data: bytes, end: int) -> int:
        """The kinds of the lines before `end` of a head that was read; the fields stay what they are."""
        token, tags, request_id = self.token, self.tags, self.request_id
        kinds = self._block(data[data.find(b"\r\n") : end])
        self.token, self.tags, self.request_id = token, tags, request_id
        return kinds

    def _block(self, block: bytes) -> int:
        """The kinds of a block's lines, from the memo if they are not of the sort that changes."""
        kinds = self._blocks.get(block)
        if kinds is None:
            kinds = self._lines(block)
            if not kinds & ~_REMEMBERED and len(block) <= MEMO_BLOCK_BYTES_MAX:
                if len(self._blocks) >= MEMO_BLOCKS_MAX:
                    # Beginning again costs a reading per block that is still in use.
                    self._blocks.clear()
                self._blocks[block] = kinds
        return kinds

    def _lines(self, block: bytes) -> int:
        """The kinds of all lines of a block; DECLINED if one is, or if two are of the same kind that matters."""
        lines = block.split(b"\r\n")
        if lines[0] or len(lines) > HEADERS_MAX:
            return DECLINED
        seen = HARMLESS
        for line in lines[1:]:
            kind = self._known.get(line)
            if kind is None:
                kind = self._judge(line)
            if kind == DECLINED or kind & seen & ~VARIED:
                return DECLINED
            seen |= kind
        return seen

    def _judge(self, line: bytes) -> int:
        name, _, value = line.partition(b":")
        kind, matches = RULES.get(name.lower(), _UNKNOWN)
        if not matches(value):
            return DECLINED
        if kind == TAGS:
            self.tags = value[1:]
        elif kind == REQUEST_ID:
            self.request_id = value[1:]
        elif kind == AUTHORIZATION:
            self.token = value[8:]
        elif not kind & ~_REMEMBERED and len(line) <= MEMO_LINE_BYTES_MAX:
            if len(self._known) >= MEMO_LINES_MAX:
                # Somebody sends ever new lines. Beginning again costs a judgement per line that is still in use.
                self._known.clear()
            self._known[line] = kind
        return kind


def _together(one: int, other: int) -> int:
    return DECLINED if DECLINED in (one, other) or one & other & ~VARIED else one | other
