"""What an answer looks like, taken from one that went out: final headers, in which only what changes is filled in anew.

Nothing here knows which headers an answer has. `Age`, `Cache-Control` and `Cache-Status` change with the whole seconds
of the list's age, `Date` with those of the wall clock, and `Atoll-Request-Id` from request to request.
"""

from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from operator import itemgetter
from typing import Any

from edge.cache.entry import Entry
from edge.cache.words import caller_control, hit_status
from infra.plumbing.clock import Clock
from infra.plumbing.tallies import Tally

_REQUEST_ID = "Atoll-Request-Id"
_HIT = hit_status(0.0).removesuffix("0").encode()
_AGE, _CONTROL, _TTL, _DATE = range(4)
_CHANGING = {
    "Age": (b"%d", _AGE), "Cache-Control": (b"%b", _CONTROL), "Cache-Status": (_HIT + b"%d", _TTL),
    "Date": (b"%b", _DATE),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sent:
    """An answer as it goes out: every header in its last form and place."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes


class WallSecond:
    """The wall clock to the second, read once a second: for `Date` and for the lives of tokens."""

    __slots__ = ("_clock", "date", "ends_s", "epoch_s", "wall_s")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.epoch_s = 0
        self.wall_s = 0.0
        """The same as `epoch_s`, for quick comparison with other moments."""
        self.date = b""
        self.ends_s = float("-inf")

    def renew(self, now_s: float) -> None:
        """Read the clock again; to be called once the monotonic time `now_s` has come to `ends_s`."""
        self.epoch_s, past_ms = divmod(self._clock.now_ms(), 1000)
        self.wall_s = float(self.epoch_s)
        self.date = formatdate(self.epoch_s, usegmt=True).encode()
        self.ends_s = now_s + (1000 - past_ms) / 1000


class _Form:
    """A stretch of header lines with places to fill in."""

    __slots__ = ("_pick", "_text")

    def __init__(self, text: bytes, places: list[int]) -> None:
        self._text = text
        self._pick: Callable[[tuple[Any, ...]], Any] = itemgetter(*places) if places else lambda _values: ()

    def fill(self, values: tuple[Any, ...]) -> bytes:
        filled: bytes = self._text % self._pick(values)
        return filled


class Pattern:
    """One status of one list: `before` + a request id + `after`, which hold until `ends_s`, + `body`."""

    __slots__ = ("_after", "_before", "after", "before", "body", "ends_s", "status", "tally")

    def __init__(self, status: int, before: _Form, after: _Form, body: bytes) -> None:
        self.status = status
        self._before, self._after, self.body = before, after, body
        self.before = self.after = b""
        self.ends_s = float("-inf")
        self.tally = Tally()

    def render(self, entry: Entry, now_s: float, second: WallSecond) -> None:
        """Fill in what has changed, and find out until when it holds: the next whole second of age or of the wall."""
        age, fresh_for_s = int(entry.age_s(now_s)), entry.life.fresh_until_s
        control = caller_control(entry.answer, fresh_for_s=fresh_for_s, age_s=age)
        values = (age, control.encode(), int(fresh_for_s) - age, second.date)
        self.before = self._before.fill(values)
        self.after = self._after.fill(values)
        self.ends_s = min(second.ends_s, entry.made_s + age + 1.0)


def pattern_of(sent: Sent) -> Pattern | None:
    """The pattern of an answer; None for one that cannot be repeated (no request id, or the connection ends)."""
    before: _Form | None = None
    text, places = _literal(f"HTTP/1.1 {sent.status} {sent.reason}\r\n"), list[int]()
    for name, value in sent.headers:
        if name == "Connection":
            return None
        text += _literal(f"{name}: ")
        if name == _REQUEST_ID and before is None:
            before = _Form(text, places)
            text, places = b"\r\n", []
            continue
        if name in _CHANGING:
            said, place = _CHANGING[name]
            places.append(place)
        else:
            said = _literal(value)
        text += said + b"\r\n"
    return None if before is None else Pattern(sent.status, before, _Form(text + b"\r\n", places), sent.body)


def _literal(text: str) -> bytes:
    return text.replace("%", "%%").encode()
