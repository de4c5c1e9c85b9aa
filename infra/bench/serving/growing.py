"""Counters of processes that are killed between two looks at them."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Grown:
    """How much counters grew that begin anew with their process.

    What a process counted between the last look and its end is lost; what it counts after that is not.
    """

    totals: dict[str, float] = field(default_factory=dict)
    """By counter, over all processes, since the first look."""
    _seen: dict[str, Mapping[str, float]] | None = None

    def look(self, now: Mapping[str, Mapping[str, float]]) -> None:
        """Add what was counted since the last look, by process and counter; the first look is where it begins."""
        seen = {} if self._seen is None else self._seen
        for process, counts in now.items():
            before = seen.get(process, {})
            began_anew = any(counts.get(kind, 0.0) < count for kind, count in before.items())
            for kind, count in counts.items():
                grown = count if began_anew else count - before.get(kind, 0.0)
                self.totals[kind] = self.totals.get(kind, 0.0) + (0.0 if self._seen is None else grown)
        self._seen = {**seen, **now}
