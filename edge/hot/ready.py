"""Answers that are ready to be sent: learned from what aiohttp's way sent for the same request, byte for byte.

Nothing here knows which headers an answer has. When a fresh list went out the long way, its final headers are taken as
a pattern, in which only what changes from second to second (`Age`, `Cache-Control`, `Cache-Status`, `Date`) and from
request to request (`Atoll-Request-Id`) is filled in anew.
"""

from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate

from edge.cache.entry import Entry, ListKey
from edge.cache.words import caller_control, hit_status
from infra.plumbing.clock import Clock
from infra.plumbing.tallies import Tally

READY_PER_ENTRY_MAX = 4
_REQUEST_ID = "Atoll-Request-Id"
_CHANGING = {"Age": b"age", "Cache-Control": b"control", "Cache-Status": b"status", "Date": b"date"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a handler says of the answer that it is about to give: from which entry, and under which filters it holds.

    `owner` is the subject whose token it takes to be given this answer; None when anybody may have it.
    """

    entry: Entry
    key: ListKey
    withdrawn_epoch: int
    filter_epoch: int
    etag: bytes

    @property
    def owner(self) -> str | None:
        """The subject of the list's key."""
        return self.key.subject


@dataclass(frozen=True, slots=True)
class Sent:
    """An answer as it goes out: every header in its last form and place."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes


class WallSecond:
    """The wall clock to the second, read once a second: for `Date` and for the lives of tokens."""

    __slots__ = ("_clock", "date", "ends_s", "epoch_s")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.epoch_s = 0
        self.date = b""
        self.ends_s = float("-inf")

    def renew(self, now_s: float) -> None:
        """Read the clock again; to be called once the monotonic time `now_s` has come to `ends_s`."""
        self.epoch_s, past_ms = divmod(self._clock.now_ms(), 1000)
        self.date = formatdate(self.epoch_s, usegmt=True).encode()
        self.ends_s = now_s + (1000 - past_ms) / 1000


class Pattern:
    """One status of one list: `before` + a request id + `after`, which hold until `ends_s`, + `body`."""

    __slots__ = ("_after", "_before", "after", "before", "body", "ends_s", "status", "tally")

    def __init__(self, status: int, before: bytes, after: bytes, body: bytes) -> None:
        self.status = status
        self._before, self._after, self.body = before, after, body
        self.before = self.after = b""
        self.ends_s = float("-inf")
        self.tally = Tally()

    def render(self, entry: Entry, now_s: float, second: WallSecond) -> None:
        """Fill in what has changed, and find out until when it holds."""
        age_s = entry.age_s(now_s)
        ttl_s = entry.life.fresh_until_s - age_s
        changing = {
            b"age": b"%d" % int(age_s),
            b"control": caller_control(entry.answer, fresh_for_s=entry.life.fresh_until_s, age_s=age_s).encode(),
            b"status": hit_status(ttl_s).encode(),
            b"date": second.date,
        }
        self.before = self._before % changing
        self.after = self._after % changing
        self.ends_s = min(second.ends_s, now_s + 1.0 - age_s % 1.0, now_s + ttl_s % 1.0)


class Ready:
    """A list that may leave at once, as long as `Offer` holds and its entry is fresh."""

    __slots__ = (
        "entry",
        "etag",
        "filter_epoch",
        "fresh_until_s",
        "full",
        "short",
        "subject",
        "type",
        "withdrawn_epoch",
    )

    def __init__(self, offer: Offer) -> None:
        self.entry = offer.entry
        self.type = offer.key.type.value
        self.subject = offer.key.subject
        self.withdrawn_epoch = offer.withdrawn_epoch
        self.filter_epoch = offer.filter_epoch
        self.etag = offer.etag
        life = offer.entry.life
        self.fresh_until_s = offer.entry.made_s + min(life.fresh_until_s, life.refresh_from_s)
        self.full: Pattern | None = None
        self.short: Pattern | None = None

    def says(self, offer: Offer) -> bool:
        """Whether `offer` is for the same bytes."""
        return (
            self.entry is offer.entry
            and self.etag == offer.etag
            and self.withdrawn_epoch == offer.withdrawn_epoch
            and self.filter_epoch == offer.filter_epoch
        )


class ReadyAnswers:
    """By (target, owner). An answer goes when its entry leaves the cache, so the cache's bound is this one's too."""

    def __init__(self) -> None:
        self.tally_of: Callable[[str, int], Tally] = lambda _type, _status: Tally()
        """In what an answer of a type and a status is counted."""
        self._answers: dict[tuple[bytes, str | None], Ready] = {}
        self.get = self._answers.get

    def __len__(self) -> int:
        return len(self._answers)

    def learn(self, target: bytes, offer: Offer, sent: Sent) -> None:
        """Keep what was sent for `target`: status 200 with its body, or 304 without one."""
        pattern = _pattern(sent)
        if pattern is None:
            return
        name = (target, offer.owner)
        ready = self._answers.get(name)
        if ready is None or not ready.says(offer):
            if not self._make_room(name, offer.entry):
                return
            ready = self._answers[name] = Ready(offer)
        pattern.tally = self.tally_of(ready.type, sent.status)
        if sent.status == 200:
            ready.full = pattern
        else:
            ready.short = pattern

    def forget(self, entry: Entry) -> None:
        """`entry` has left the cache."""
        entry.is_held = False
        for name in entry.ready_names:
            ready = self._answers.get(name)
            if ready is not None and ready.entry is entry:
                del self._answers[name]
        entry.ready_names.clear()

    def _make_room(self, name: tuple[bytes, str | None], entry: Entry) -> bool:
        if not entry.is_held:
            return False
        if name not in entry.ready_names:
            if len(entry.ready_names) >= READY_PER_ENTRY_MAX:
                self._answers.pop(entry.ready_names.pop(0), None)
            entry.ready_names.append(name)
        return True


def _pattern(sent: Sent) -> Pattern | None:
    """The pattern of an answer; None for one that cannot be repeated (no request id, or the connection ends)."""
    parts = [f"HTTP/1.1 {sent.status} {sent.reason}\r\n".replace("%", "%%").encode()]
    before: bytes | None = None
    for name, value in sent.headers:
        if name == "Connection":
            return None
        if name == _REQUEST_ID and before is None:
            before = b"".join([*parts, f"{name}: ".encode()])
            parts = [b"\r\n"]
            continue
        changing = _CHANGING.get(name)
        said = b"%%(%s)b" % changing if changing is not None else value.replace("%", "%%").encode()
        parts.append(f"{name}: ".replace("%", "%%").encode() + said + b"\r\n")
    return None if before is None else Pattern(sent.status, before, b"".join([*parts, b"\r\n"]), sent.body)
