"""What an answer from the cache says of its age, to whoever makes it (RFC 9111, RFC 9211). Pure."""

from infra.contracts.messages import HomeAnswer

CALLER_FRESH_S_MAX = 60
"""Callers' own caches hear of no withdrawal: they may use a list for this long without asking, however long it
lives here."""
REVALIDATE = "private, max-age=0, must-revalidate"


def hit_status(ttl_s: float) -> str:
    """`Cache-Status` of an entry that is fresh for `ttl_s` more seconds (negative: it is stale)."""
    return f"atoll-edge; hit; ttl={int(ttl_s)}"


def caller_control(answer: HomeAnswer, *, fresh_for_s: float, age_s: float) -> str:
    """`Cache-Control` for the caller.

    A personal list may change with the caller's next click, of which the caller's own cache would not hear.
    """
    fresh_s = 0 if answer.personal else int(min(fresh_for_s, age_s + CALLER_FRESH_S_MAX))
    return f"private, max-age={fresh_s}" if fresh_s > 0 else REVALIDATE
