"""What hard rules keep out, item by item, for those who show lists that no rule has looked at.

While a region is away its edges show lists of before, another region's, or the release's own. They know no rules and no
catalogue: they are told items. Looked at are those that such lists are made of, the release's lists and the region's
favourites; what a rule names is told whether it is among these or not.

An edge cannot tell for whom a rule's `when` holds, so all of them hold there; what a `match` says of the call is judged
as for a call that says nothing of itself. Both only where a region's own answer is not to be had.
"""

import asyncio
import datetime as dt
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

import numpy as np

from infra.contracts.features import IntArray
from infra.contracts.kept_out import ItemsKeptOut, kept_out_digest
from infra.contracts.messages import HomeRequest, Invalidation, RecommendationType
from infra.plumbing.aside import aside
from infra.plumbing.clock import Clock
from infra.plumbing.errors import UnavailableError
from region.funnel.release import LoadedRelease
from region.funnel.ruling import Rulings
from region.rules.binding import NO_ROWS, Binding
from region.rules.conditions import request_values
from region.rules.filters import row_set

FAVOURITES_MAX = 4_096
CHUNK = 256
"""Items judged in one go: their texts are made for it, and requests want the interpreter meanwhile."""
REFRESH_S = 1.0


class KeptOutItems:
    """The items that rules keep out, made anew when rules, release or day change. `refresh` on the loop only.

    Args:
        rulings: which rules hold.
        lease: holds the active release open.
        tell: tells the edges that there is something to ask for.
    """

    def __init__(
        self, *, rulings: Rulings, lease: Callable[[], AbstractContextManager[LoadedRelease]],
        tell: Callable[[Invalidation], Awaitable[bool]], clock: Clock,
    ) -> None:  # fmt: skip
        self._rulings = rulings
        self._lease = lease
        self._tell = tell
        self._clock = clock
        self._made_of: tuple[str, str, dt.date] | None = None
        self.groups: tuple[ItemsKeptOut, ...] | None = None
        """None until they were judged once."""

    async def refresh(self) -> None:
        """Look whether something has changed, and then judge anew; edges are told when that makes a difference."""
        now_s = self._clock.now_ms() / 1000
        today = dt.datetime.fromtimestamp(now_s, tz=dt.UTC).date()
        try:
            with self._lease() as release:
                made_of = (self._rulings.edition, release.release_id, today)
                if made_of == self._made_of:
                    return
                bound = await asyncio.to_thread(self._rulings.bound, release)
                judges = any(one.match is not None for one in bound.rules.hard)
                rows = await aside(looked_at, release) if judges else NO_ROWS
                groups = await self._judged(bound, rows, today, now_s)
        except UnavailableError:
            return  # no release is active
        self._made_of = (bound.rules.edition, release.release_id, today)
        if groups != self.groups:
            self.groups = groups
            await self._tell(Invalidation(kept_out=kept_out_digest(groups)))

    async def _judged(self, bound: Binding, rows: IntArray, today: dt.date, now_s: float) -> tuple[ItemsKeptOut, ...]:
        found = named(bound, today)
        for start in range(0, rows.size, CHUNK):
            for surfaces, items in (await aside(matched, bound, rows[start : start + CHUNK], today, now_s)).items():
                found[surfaces] |= items
        return tuple(
            ItemsKeptOut(surfaces=surfaces, items=tuple(sorted(items)))
            for surfaces, items in sorted(found.items())
            if items
        )


Kept = defaultdict[tuple[str, ...], set[str]]
"""Items by the surfaces that a rule is about, none for all of them."""


def looked_at(release: LoadedRelease) -> IntArray:
    """Rows of which lists are made that no rule looks at."""
    tables = release.tables
    lists = (*tables.lists.popular.values(), *tables.lists.trending.values())
    listed = (tables.row_of[item] for items in lists for item in items if item in tables.row_of)
    return row_set(listed, np.asarray(release.standing.popular[:FAVOURITES_MAX]).tolist())


def named(bound: Binding, today: dt.date) -> Kept:
    """Items that today's hard rules name."""
    found: Kept = defaultdict(set)
    for compiled in bound.rules.hard:
        if compiled.is_in_time(today):
            found[_surfaces(compiled.rule.surfaces)].update(compiled.rule.items)
    return found


def matched(bound: Binding, rows: IntArray, today: dt.date, now_s: float) -> Kept:
    """Those of `rows` that an expression of today's hard rules keeps out."""
    found: Kept = defaultdict(set)
    silent = request_values(HomeRequest(type=RecommendationType.POPULAR))
    for compiled in bound.rules.hard:
        if compiled.match is not None and compiled.is_in_time(today):
            out = bound.judge.holds(compiled.match, rows, silent, now_s=now_s, if_fails=True)
            found[_surfaces(compiled.rule.surfaces)].update(bound.items[row].item for row in rows[out].tolist())
    return found


def _surfaces(surfaces: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(str(one) for one in surfaces))
