"""Pages that this client holds: used again while the edge said they may be, confirmed by their tag after (RFC 9111)."""

import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from edge.client.requests import Call, Reply

ENTRIES_MAX = 500
_MAX_AGE = re.compile(r"(?:^|[ ,])max-age=([0-9]{1,9})(?:$|[ ,])")


@dataclass(frozen=True, slots=True)
class Held:
    """A page, its tag, and until when (monotonic) it may be used without asking."""

    reply: Reply
    etag: str
    fresh_until_s: float


class PageCache:
    """The least recently used pages leave first. Keys hold a hash of the credentials: who calls is part of the page."""

    def __init__(self, *, entries_max: int = ENTRIES_MAX) -> None:
        self._entries_max = entries_max
        self._entries: OrderedDict[tuple[object, ...], Held] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def key(self, call: Call, credentials: Mapping[str, str]) -> tuple[object, ...]:
        """What makes two calls the same call of the same caller."""
        who = hashlib.sha256(repr(sorted(credentials.items())).encode()).digest()
        return call.path, tuple(call.params), who

    def get(self, key: tuple[object, ...]) -> Held | None:
        """What is held under `key`, fresh or not."""
        held = self._entries.get(key)
        if held is not None:
            self._entries.move_to_end(key)
        return held

    def put(self, key: tuple[object, ...], reply: Reply, *, now_s: float) -> None:
        """Hold a page, if it has a tag and may be held."""
        control, etag = reply.headers.get("cache-control", ""), reply.headers.get("etag")
        if etag is None or "no-store" in control:
            return
        said = _MAX_AGE.search(control)
        age = reply.headers.get("age", "0")
        left_s = (int(said[1]) if said else 0) - (int(age) if age.isdigit() else 0)
        self._entries[key] = Held(reply, etag, now_s + max(0, left_s))
        self._entries.move_to_end(key)
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)
