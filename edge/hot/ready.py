"""Answers that may leave at once: which entry each was made of, under which filters, and what it looks like."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edge.cache.entry import Entry
from edge.hot.patterns import Pattern, Sent, pattern_of
from infra.contracts.lists import ListKey
from infra.plumbing.tallies import Tally

READY_PER_ENTRY_MAX = 4
_NEVER_S = float("-inf")


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


class Ready:
    """A list that may leave at once, as long as `Offer` holds and its entry is fresh."""

    __slots__ = (
        "entry",
        "etag",
        "filter_epoch",
        "fresh_until_s",
        "full",
        "key",
        "short",
        "subject",
        "type",
        "withdrawn_epoch",
    )

    def __init__(self, offer: Offer) -> None:
        self.entry = offer.entry
        self.key = offer.key
        self.type = offer.key.type.value
        self.subject = offer.key.subject
        self.withdrawn_epoch = offer.withdrawn_epoch
        self.filter_epoch = offer.filter_epoch
        self.etag = offer.etag
        life = offer.entry.life
        self.fresh_until_s = offer.entry.made_s + min(life.fresh_until_s, life.refresh_from_s)
        self.full: Pattern | None = None
        self.short: Pattern | None = None

    @classmethod
    def nothing(cls) -> "Ready":
        """Where a head leads that has no answer: never fresh, no form."""
        ready = cls.__new__(cls)
        ready.etag = b""
        ready.fresh_until_s = _NEVER_S
        ready.full = ready.short = None
        return ready

    def drop(self) -> None:
        """It may be given no more: what it holds goes, even while a known head still leads here."""
        self.fresh_until_s = _NEVER_S
        self.full = self.short = None
        del self.entry

    def says(self, offer: Offer) -> bool:
        """Whether `offer` is for the same bytes."""
        return (
            self.entry is offer.entry
            and self.etag == offer.etag
            and self.withdrawn_epoch == offer.withdrawn_epoch
            and self.filter_epoch == offer.filter_epoch
        )


NOTHING: Final = Ready.nothing()


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
        pattern = pattern_of(sent)
        if pattern is None:
            return
        name = (target, offer.owner)
        ready = self._answers.get(name)
        if ready is None or not ready.says(offer):
            if not self._make_room(name, offer.entry):
                return
            if ready is not None:
                ready.drop()
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
                self._answers.pop(name).drop()
        entry.ready_names.clear()

    def _make_room(self, name: tuple[bytes, str | None], entry: Entry) -> bool:
        if not entry.is_held:
            return False
        if name not in entry.ready_names:
            if len(entry.ready_names) >= READY_PER_ENTRY_MAX:
                oldest = self._answers.pop(entry.ready_names.pop(0), None)
                if oldest is not None:
                    oldest.drop()
            entry.ready_names.append(name)
        return True
