"""What is liked in which circumstances: for people of whom nothing else is known (MISSION C6).

A node counts which categories people take, by each of their hour of the day, device, language and country, one apart
from the other; sums over many, in which no subject stands. For a new caller the lifts of what is known of the call are
multiplied, as if they were independent given the category (naive Bayes), each drawn towards no lift at all while
little is known.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import numpy as np

from infra.contracts.messages import Context, Source
from infra.plumbing.clock import Clock
from infra.plumbing.files import write_atomically
from region.funnel.sources import Candidates, Standing, nothing
from region.funnel.tables import ReleaseTables

FILE = "context-tastes.json"
SUBJECTS_MAX = 20_000
"""Subjects whose last circumstances are remembered, in memory only, until they take something."""
CATEGORIES_MAX = 64
"""Kept by circumstance; the least taken is let go."""
CIRCUMSTANCES_MAX = 200
HOURS = 4
"""Hours of the day that count as one circumstance."""
PRIOR = 100.0
"""So much must have been taken in a circumstance for half of its lift to be believed."""
HALVED_EVERY_MS = 14 * 86_400_000
LIFT_MAX = 4.0
LOOKED_AT_MAX = 2_000
"""Favourites of the region that are put into another order."""
ANYWHERE = "any"
Taken = dict[str, dict[str, float]]


class Kept(msgspec.Struct, frozen=True):
    """The file: what was taken, by circumstance and category, and when it was halved last."""

    taken: Taken = {}
    halved_ms: int = 0


class ContextTastes:
    """Counts of one node. Safe between threads; only `keep` touches the disk."""

    def __init__(self, directory: Path, *, clock: Clock) -> None:
        self._path = directory / FILE
        self._clock = clock
        self._mutex = threading.Lock()
        self._seen: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        kept = _read(self._path)
        self._taken: Taken = {name: dict(own) for name, own in kept.taken.items()}
        self._halved_ms = kept.halved_ms or clock.now_ms()
        self._changed = False

    def note_call(self, subject: str, context: Context) -> None:
        """The subject was given a list in these circumstances."""
        found = circumstances(context)
        with self._mutex:
            self._seen[subject] = found
            self._seen.move_to_end(subject)
            if len(self._seen) > SUBJECTS_MAX:
                self._seen.popitem(last=False)

    def note_taken(self, subject: str, categories: Iterable[str]) -> None:
        """The subject took an item of these categories."""
        names = tuple(categories)
        with self._mutex:
            found = self._seen.get(subject)
            if found is None:
                return  # An opted-out subject's, or of a list that another node made.
            for circumstance in (ANYWHERE, *found):
                if circumstance not in self._taken and len(self._taken) >= CIRCUMSTANCES_MAX:
                    continue
                own = self._taken.setdefault(circumstance, {})
                for name in names:
                    own[name] = own.get(name, 0.0) + 1.0 / len(names)
                while len(own) > CATEGORIES_MAX:
                    del own[min(own, key=lambda name: (own[name], name))]
            self._changed = self._changed or bool(names)

    def count_of(self, subject: str) -> int:
        """1 when circumstances of the subject are remembered, else 0."""
        return int(subject in self._seen)

    def forget(self, subject: str) -> None:
        """The subject's circumstances go; sums stay."""
        with self._mutex:
            self._seen.pop(subject, None)

    def subjects(self) -> tuple[str, ...]:
        """Whose circumstances are remembered."""
        with self._mutex:
            return tuple(self._seen)

    async def keep(self) -> None:
        """Write the sums to the disk, and halve them when it is time.

        Raises:
            OSError: the disk does not take it.
        """
        now_ms = self._clock.now_ms()
        with self._mutex:
            if now_ms - self._halved_ms >= HALVED_EVERY_MS:
                self._taken = {
                    circumstance: {name: value / 2 for name, value in own.items() if value >= 1.0}
                    for circumstance, own in self._taken.items()
                }
                self._halved_ms, self._changed = now_ms, True
            if not self._changed:
                return
            content = msgspec.json.encode(Kept(taken=self._taken, halved_ms=self._halved_ms))
            self._changed = False
        write_atomically(self._path, content)

    def lifts(self, context: Context) -> dict[str, float]:
        """How much more than anywhere each category is taken in these circumstances; 1: as much. Empty: not known."""
        with self._mutex:
            base = self._taken.get(ANYWHERE, {})
            total = sum(base.values())
            groups = [self._taken[name] for name in circumstances(context) if name in self._taken]
            if not total or not groups:
                return {}
            lifted = {name: _lift(name, count / total, groups) for name, count in base.items() if count > 0.0}
        return {name: min(max(value, 1.0 / LIFT_MAX), LIFT_MAX) for name, value in lifted.items()}


def circumstances(context: Context) -> tuple[str, ...]:
    """Names of what is known of a call."""
    parts = {
        "hour": "" if context.local_hour is None else str(context.local_hour // HOURS),
        "device": context.device,
        "language": context.locale.partition("-")[0].lower(),
        "country": context.country,
    }
    return tuple(f"{kind}:{value}" for kind, value in parts.items() if value)


def in_context(
    tables: ReleaseTables, standing: Standing, lifts: Mapping[str, float], *, category: str | None, limit: int
) -> Candidates:
    """The region's favourites, those of categories with a lift put up."""
    if not lifts:
        return nothing(Source.CONTEXT)
    rows = (standing.popular if category is None else tables.category_rows[category])[:LOOKED_AT_MAX]
    by_item = [max((lifts.get(name, 1.0) for name in tables.items[row].categories), default=1.0) for row in rows]
    # By the place in the region's list: a favourite's count is on a scale of its own in every release.
    scores = np.asarray(by_item, dtype=np.float32) / (10.0 + np.arange(rows.size, dtype=np.float32))
    best = np.argsort(-scores, kind="stable")[:limit]
    return Candidates(Source.CONTEXT, rows[best], scores[best])


def _lift(category: str, share: float, groups: Iterable[Mapping[str, float]]) -> float:
    value = 1.0
    for taken in groups:
        total = sum(taken.values())
        value *= (taken.get(category, 0.0) + PRIOR * share) / (total + PRIOR) / share
    return value


def _read(path: Path) -> Kept:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Kept)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return Kept()  # Counts that are lost are counted anew; nobody's list depends on them.
