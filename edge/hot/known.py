"""Heads that were read and authenticated before, so that asking again costs one look-up by their bytes.

What a client sends is the same from request to request, but for what stands at its end: the address that a balancer
adds, the tag of the list that the client has. A head is remembered up to there (`edge.hot.heads.HeadReader.lasting`),
byte for byte and with the token in it, so nothing that was not read is ever taken for something that was.

Remembered is what the bytes mean: the target, whose token it is and until when, whose limit counts, and the answer
that was given last. That answer is given again only while nothing was heard that could concern it; `edge.hot.path`
asks anew otherwise.

Heads hold tokens, which `edge.http.identity` keeps no copies of. So they are kept briefly: in two generations, the
older of which goes after TURN_S, or as soon as both together hold `bytes_max`.
"""

from collections.abc import Hashable
from typing import Final

from edge.hot.ready import Ready
from edge.limits.buckets import NO_BUCKET

TURN_S = 60.0
"""A head that nobody sent for one to two times as long is forgotten, and its token with it."""
BYTES_MAX = 24 << 20
HEAD_OVERHEAD_BYTES = 400
UNLINKED: Final = -1
"""Of no generation of the ledger: the answer must be looked up before it is given."""


class Head:
    """What one head means.

    target: as sent.
    kinds: of its lines (`edge.hot.heads`).
    tags: the value of its `If-None-Match`.
    subject: whose token it carries, in this region; None for travellers and for heads without one.
    caller: whose limit counts; None for the address at the other end.
    bucket: of that limit.
    expires_s: when the token runs out, in seconds of the Unix epoch; infinite without one.
    ready: the answer given last; it is asked for only while `generation` is the ledger's.
    """

    __slots__ = ("bucket", "caller", "expires_s", "generation", "kinds", "ready", "subject", "tags", "target")

    def __init__(
        self, target: bytes, ready: Ready, *, subject: str | None, caller: Hashable | None, expires_s: float
    ) -> None:
        self.target, self.ready = target, ready
        self.subject, self.caller, self.expires_s = subject, caller, expires_s
        self.kinds = 0
        self.tags: bytes | None = None
        self.bucket = NO_BUCKET
        self.generation = UNLINKED


class _Generation:
    """Heads by their bytes, those of each subject, and how many bytes they take."""

    __slots__ = ("by_bytes", "of_subject", "size")

    def __init__(self) -> None:
        self.by_bytes: dict[bytes, Head] = {}
        self.of_subject: dict[str, list[Head]] = {}
        self.size = 0

    def put(self, lasting: bytes, head: Head) -> None:
        self.by_bytes[lasting] = head
        self.size += len(lasting) + HEAD_OVERHEAD_BYTES
        if head.subject is not None:
            self.of_subject.setdefault(head.subject, []).append(head)


class KnownHeads:
    """Heads by their lasting bytes. Not for several threads: the event loop's only.

    `young` is for the hot path, which looks there before it calls anything.
    """

    __slots__ = ("_bytes_max", "_new", "_old", "_turned_s", "young")

    def __init__(self, *, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._new, self._old = _Generation(), _Generation()
        self._turned_s = float("-inf")
        self.young = self._new.by_bytes

    def __len__(self) -> int:
        return len(self._new.by_bytes) + len(self._old.by_bytes)

    @property
    def size_bytes(self) -> int:
        """About how much memory they take."""
        return self._new.size + self._old.size

    def older(self, lasting: bytes) -> Head | None:
        """A head that was not sent since the last turn; it is young again."""
        head = self._old.by_bytes.pop(lasting, None)
        if head is not None:
            self.remember(lasting, head)
        return head

    def remember(self, lasting: bytes, head: Head) -> None:
        """Keep what `lasting` means."""
        self._new.put(lasting, head)
        if self._new.size >= self._bytes_max // 2:
            self._turn()

    def tick(self, now_s: float) -> None:
        """To be called about once a second, with the monotonic time: what is old goes."""
        if now_s - self._turned_s >= TURN_S:
            self._turned_s = now_s
            self._turn()

    def unlink(self, subject: str) -> None:
        """Something was heard of `subject`: its answers must be looked up before they are given again."""
        for generation in (self._new, self._old):
            for head in generation.of_subject.get(subject, ()):
                head.generation = UNLINKED

    def clear(self) -> None:
        """Forget all: a key may have been retired."""
        self._turn()
        self._turn()

    def _turn(self) -> None:
        self._new, self._old = _Generation(), self._new
        self.young = self._new.by_bytes
