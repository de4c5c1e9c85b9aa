"""Items that the home region's hard rules keep out, for lists that these rules have not looked at.

Such are lists from before the rules, another region's, the release's own, and what fills a page up. A list that the
region made under its rules of now has been judged by them, with all that they know of the call: nothing is taken out
of it.
"""

from collections.abc import Iterable

from edge.cache.entry import Entry
from infra.contracts.kept_out import KEPT_OUT_ITEMS_MAX, ItemsKeptOut
from infra.contracts.messages import DegradationStep, Surface

_UNRULED = frozenset({DegradationStep.FAILOVER, DegradationStep.FAILOVER_VECTOR, DegradationStep.RELEASE})


class KeptOut:
    """By surface."""

    def __init__(self) -> None:
        self._groups: frozenset[ItemsKeptOut] = frozenset()
        self._on: dict[Surface, frozenset[str]] = {surface: frozenset() for surface in Surface}

    def on(self, surface: Surface) -> frozenset[str]:
        """Items that may not be shown there."""
        return self._on[surface]

    def replace(self, groups: Iterable[ItemsKeptOut]) -> bool:
        """Take what holds now in place of what held, KEPT_OUT_ITEMS_MAX items at most; whether that is news."""
        wanted = frozenset(groups)
        if wanted == self._groups:
            return False
        self._groups = wanted
        left, found = KEPT_OUT_ITEMS_MAX, {surface: set[str]() for surface in Surface}
        for group in sorted(wanted, key=lambda one: one.surfaces):
            items = group.items[: max(0, left)]
            left -= len(items)
            for surface in Surface:
                if not group.surfaces or surface.value in group.surfaces:
                    found[surface].update(items)
        self._on = {surface: frozenset(items) for surface, items in found.items()}
        return True


def is_unruled(step: DegradationStep, entry: Entry | None, *, rules_since_s: float) -> bool:
    """Whether a list was not made under the rules of now."""
    return step in _UNRULED or (entry is not None and entry.made_s < rules_since_s)
