"""What an answer says of the caches it went through, to whoever makes it (RFC 9111, RFC 9211). Pure.

`hit` and `fwd` exclude each other: `hit` says that nobody was asked, `fwd` that somebody was, and why the cache alone
did not do (RFC 9211, 2.1 and 2.2). An answer for which nobody was asked and that no cache held, one of the release's
own lists after a refusal that is remembered, say, carries neither.

==============  ===========================================================================================
fwd             the in-process cache ...
==============  ===========================================================================================
uri-miss        holds nothing for a list that its address names whole
miss            holds nothing for a list that also depends on who calls: which of both was new, nobody looked
stale           holds a list that may not be shown before the region was asked
partial         holds one that is too short for this page
bypass          is not asked at all: explanations, other people's homes, rankings with a phone's vector
==============  ===========================================================================================
"""

import math

from infra.contracts.messages import HomeAnswer

CALLER_FRESH_S_MAX = 60
"""Callers' own caches hear of no withdrawal: they may use a list for this long without asking, however long it
lives here."""
REVALIDATE = "private, max-age=0, must-revalidate"
BYPASS, MISS, PARTIAL, STALE, URI_MISS = "bypass", "miss", "partial", "stale", "uri-miss"
AWAY, EXPLAIN, REFUSED, RELAYED, RELEASE_LISTS, STALE_IF_ERROR = (
    "failover", "explain", "refused-lately", "relayed", "release-lists", "stale-if-error",
)  # fmt: skip
"""Words behind `detail=`."""


def hit_status(ttl_s: float, *, cache: str = "atoll-edge", detail: str = "") -> str:
    """`Cache-Status` of a list out of a cache, nobody having been asked.

    `ttl_s`: how long it is fresh for; negative: for how long it has been stale.
    """
    return f"{cache}; hit; ttl={math.floor(ttl_s)}{_detail(detail)}"


def forwarded_status(
    why: str, *, ttl_s: float | None = None, stored: bool = False, collapsed: bool = False, detail: str = ""
) -> str:
    """`Cache-Status` of an answer for which somebody was asked.

    Args:
        why: one of the table.
        ttl_s: of a stale list that is shown because asking came to nothing.
        stored: whether the answer is kept in process.
        collapsed: whether somebody else's call for the same was waited for instead of making one (RFC 9211, 2.6).
        detail: a word of our own.
    """
    ttl = "" if ttl_s is None else f"; ttl={math.floor(ttl_s)}"
    kept = ("; stored" if stored else "") + ("; collapsed" if collapsed else "")
    return f"atoll-edge; fwd={why}{ttl}{kept}{_detail(detail)}"


def unforwarded_status(detail: str) -> str:
    """`Cache-Status` of an answer that no cache held and nobody was asked for."""
    return f"atoll-edge{_detail(detail)}"


def caller_control(answer: HomeAnswer, *, fresh_for_s: float, age_s: float) -> str:
    """`Cache-Control` for the caller.

    A personal list may change with the caller's next click, of which the caller's own cache would not hear.
    """
    fresh_s = 0 if answer.personal else int(min(fresh_for_s, age_s + CALLER_FRESH_S_MAX))
    return f"private, max-age={fresh_s}" if fresh_s > 0 else REVALIDATE


def _detail(word: str) -> str:
    return f"; detail={word}" if word else ""
