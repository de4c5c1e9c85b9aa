"""Which lists a purge concerns: by item, by tag, judged when a list is looked up. Bounded, and never too lenient.

A list is overtaken when one of its names was purged at or after the moment at which the list was asked for. What
does not fit into NAMES_MAX is forgotten by raising a floor: every list from before a forgotten purge is overtaken.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from edge.cache.entry import Entry
from infra.contracts.messages import MORE_TAGS

NAMES_MAX = 50_000
_NEVER_S = float("-inf")
_ITEM = "item:"


class PurgeNotes:
    """Purges that were heard of, by name."""

    def __init__(self, *, names_max: int = NAMES_MAX) -> None:
        self._names_max = names_max
        self._at_s: OrderedDict[str, float] = OrderedDict()
        self._floor_s = _NEVER_S
        self.last_s = _NEVER_S
        """The moment of the newest purge: lists made later need not be looked at."""
        self.epoch = 0
        """Goes up with every purge."""

    def __len__(self) -> int:
        return len(self._at_s)

    def note(self, names: Iterable[str], *, at_s: float) -> None:
        """Lists from `at_s` (monotonic) or before with one of `names` are overtaken."""
        self.epoch += 1
        self.last_s = max(self.last_s, at_s)
        for name in names:
            self._put(name, at_s)
            if not name.startswith(_ITEM):
                self._put(MORE_TAGS, at_s)
        while len(self._at_s) > self._names_max:
            self._floor_s = max(self._floor_s, self._at_s.popitem(last=False)[1])

    def overtake(self, entry: Entry) -> bool:
        """Whether `entry` was purged since it was made."""
        if entry.made_s > self.last_s or entry.clear_of == self.epoch:
            return False
        if entry.made_s <= self._floor_s:
            return True
        at_s, made_s = self._at_s, entry.made_s
        if any(at_s.get(name, _NEVER_S) >= made_s for name in names_of(entry)):
            return True
        entry.clear_of = self.epoch
        return False

    def _put(self, name: str, at_s: float) -> None:
        self._at_s[name] = max(at_s, self._at_s.get(name, _NEVER_S))
        self._at_s.move_to_end(name)


def names_of(entry: Entry) -> Iterator[str]:
    """Everything that `entry` can be purged by."""
    yield from entry.answer.tags
    for item in entry.answer.items:
        yield _ITEM + item.item
