"""What hard rules keep out, item by item, for those who show lists that no rule has looked at.

While a region is away its edges show lists of before, another region's, or the release's own. They know no rules and no
catalogue: they are told items. Looked at first are those that such lists are mostly made of, the release's lists, the
region's favourites and what came after the release: edges are told these a moment after a change. The rest of the
catalogue is looked through behind it, a little at a time (a twentieth of a core: some 2,000 items a second and rule);
edges are told when what was found has doubled, and at the end. Until then what was kept out before stays out too: too
much is kept out for a while, never too little. What a rule names is told, known or not.

Judging holds the interpreter, wherever it is done. So it is done on the loop, STEP_S at a time, with pauses.

An edge cannot tell for whom a rule's `when` holds, so all of them hold there; what a `match` says of the call is judged
as for a call that says nothing of itself. Both only where a region's own answer is not to be had.
"""

import asyncio
import datetime as dt
import heapq
import logging
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np

from infra.contracts.features import IntArray
from infra.contracts.kept_out import KEPT_OUT_ITEMS_MAX, ItemsKeptOut, kept_out_digest
from infra.contracts.messages import HomeRequest, Invalidation, RecommendationType
from infra.contracts.release import CatalogueItem
from infra.plumbing.aside import aside
from infra.plumbing.clock import Clock
from infra.plumbing.errors import UnavailableError
from region.funnel.release import LoadedRelease
from region.funnel.ruling import Rulings
from region.rules.binding import Binding
from region.rules.conditions import Condition, ConditionError, Values, request_values
from region.rules.filters import row_set

_log = logging.getLogger(__name__)
FAVOURITES_MAX = 4_096
CHUNK = 256
REFRESH_S = 1.0
WALK_S = 0.9
"""So long a refresh looks through the rest of the catalogue before it looks whether rules have changed."""
STEP_S = 0.0005
FIRST_SHARE, REST_SHARE = 0.5, 0.1
"""How much of the loop's time is taken for what is looked at first, and for the rest."""
TOLD_BYTES_MAX = 8 << 20
"""Ids that edges are told, together: they take no answer of twice that much, with withdrawals and purges in it."""
_SORTED_AT_ONCE = 4_096
_SILENT: Values = request_values(HomeRequest(type=RecommendationType.POPULAR))
Groups = tuple[ItemsKeptOut, ...]
MadeOf = tuple[str, str, dt.date]
"""Edition of the rules, release, and day."""


class _Kept:
    """Items by the surfaces that a rule is about, none for all of them. What finds no room is counted."""

    def __init__(self, groups: Groups = ()) -> None:
        self.on: defaultdict[tuple[str, ...], dict[str, None]] = defaultdict(dict)
        self.count = self.left_out = 0
        self._bytes = 0
        for group in groups:
            self.add(group.surfaces, group.items)

    def add(self, surfaces: Iterable[str], items: Iterable[str]) -> None:
        """Keep `items` out on `surfaces`."""
        group = self.on[tuple(sorted(str(one) for one in surfaces))]
        for item in items:
            if item in group:
                continue
            size = len(item.encode()) + 3
            if self.count >= KEPT_OUT_ITEMS_MAX or self._bytes + size > TOLD_BYTES_MAX:
                self.left_out += 1
                continue
            group[item] = None
            self.count += 1
            self._bytes += size

    def groups(self, before: Groups = ()) -> Groups:
        """As edges are told, with what was kept out `before`. Not for the loop: there may be very many."""
        both = _Kept((*self.groups(), *before)) if before else self
        return tuple(
            ItemsKeptOut(surfaces=surfaces, items=tuple(_in_order(items)))
            for surfaces, items in sorted(both.on.items())
            if items
        )


def _in_order(items: Iterable[str]) -> Iterator[str]:
    """Sorted bit by bit: one large sort would hold the interpreter."""
    parts, source = list[list[str]](), iter(items)
    while part := list(islice(source, _SORTED_AT_ONCE)):
        parts.append(sorted(part))
    return heapq.merge(*parts)


@dataclass(slots=True)
class _Look:
    """A look at everything that rules, release and day give."""

    found: _Kept
    place: int
    """How far the rest has been looked through, in the region's order of items, most popular first."""
    is_whole: bool
    seats: int
    """Edition of the seats behind the catalogue that were looked at."""
    told: int = 0
    """How many items edges were told of when they were told last."""


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
        self._made_of: MadeOf | None = None
        self._look: _Look | None = None
        self.groups: Groups | None = None
        """None until they were judged once."""

    @property
    def is_whole(self) -> bool:
        """Whether every item was looked at."""
        return self._look is not None and self._look.is_whole

    async def refresh(self) -> None:
        """Look whether something has changed, and then judge anew; edges are told when that makes a difference.

        Where nothing has, the rest of the catalogue is looked through a little further.
        """
        now_s = self._clock.now_ms() / 1000
        today = dt.datetime.fromtimestamp(now_s, tz=dt.UTC).date()
        try:
            with self._lease() as release:
                made_of = (self._rulings.edition, release.release_id, today)
                if made_of != self._made_of or self._look is None:
                    await self._begin(release, today, now_s)
                else:
                    await self._go_on(release, self._look, today, now_s)
        except UnavailableError:
            return  # no release is active

    async def _begin(self, release: LoadedRelease, today: dt.date, now_s: float) -> None:
        bound = await asyncio.to_thread(self._rulings.bound, release)
        look = _Look(_Kept(), FAVOURITES_MAX, is_whole=not judges(bound), seats=release.tables.seats.edition)
        name(look.found, bound, today)
        if not look.is_whole:
            rows = (await aside(looked_at, release)).tolist()
            await self._judge(partial(judge, look.found, bound, release, today, now_s), rows, share=FIRST_SHARE)
            look.is_whole = look.place >= release.standing.popular.size
        self._made_of, self._look = (bound.rules.edition, release.release_id, today), look
        await self._tell_of(look)

    async def _go_on(self, release: LoadedRelease, look: _Look, today: dt.date, now_s: float) -> None:
        bound, seats = self._rulings.bound(release), release.tables.seats
        if look.seats != seats.edition and judges(bound):
            look.seats = seats.edition
            one = partial(judge, look.found, bound, release, today, now_s)
            await self._judge(one, seats.rows.tolist(), share=FIRST_SHARE)
        until_s = self._clock.monotonic_s() + WALK_S
        order, goes_on = release.standing.popular, not look.is_whole
        while goes_on:
            rows = order[look.place : look.place + CHUNK].tolist()
            one = partial(judge, look.found, bound, release, today, now_s)
            look.place += await self._judge(one, rows, share=REST_SHARE, until_s=until_s)
            look.is_whole = look.place >= order.size
            goes_on = not look.is_whole and self._clock.monotonic_s() < until_s
        grown = look.found.count - look.told
        if grown and (look.is_whole or grown >= max(look.told, CHUNK)):
            await self._tell_of(look)

    async def _judge(
        self, one: Callable[[int], None], rows: Sequence[int], *, share: float, until_s: float = math.inf
    ) -> int:  # fmt: skip
        """Judge one row after the other, one step at least; returns how many were."""
        place, now_s = 0, self._clock.monotonic_s
        while place < len(rows):
            began_s = now_s()
            while place < len(rows) and (not place or now_s() - began_s < STEP_S):
                one(rows[place])
                place += 1
            await asyncio.sleep((now_s() - began_s) * (1.0 / share - 1.0))
            if now_s() >= until_s:
                break
        return place

    async def _tell_of(self, look: _Look) -> None:
        look.told = look.found.count
        groups = await aside(look.found.groups, () if look.is_whole else self.groups or ())
        if look.is_whole and look.found.left_out:
            _log.warning(
                "hard rules keep out more items than edges can be told: %d of them may be shown while this region is "
                "away", look.found.left_out,
            )  # fmt: skip
        if groups != self.groups:
            self.groups = groups
            await self._tell(Invalidation(kept_out=kept_out_digest(groups)))


def judges(bound: Binding) -> bool:
    """Whether an expression of a hard rule has to look at items."""
    return any(one.match is not None for one in bound.rules.hard)


def looked_at(release: LoadedRelease) -> IntArray:
    """Rows of which lists are made that no rule looks at."""
    tables = release.tables
    lists = (*tables.lists.popular.values(), *tables.lists.trending.values())
    listed = (tables.row_of[item] for items in lists for item in items if item in tables.row_of)
    favourites = np.asarray(release.standing.popular[:FAVOURITES_MAX]).tolist()
    return row_set(listed, favourites, tables.seats.rows.tolist())


def name(found: _Kept, bound: Binding, today: dt.date) -> None:
    """Keep out what today's hard rules name."""
    for compiled in bound.rules.hard:
        if compiled.is_in_time(today):
            found.add(compiled.rule.surfaces, compiled.rule.items)


def judge(found: _Kept, bound: Binding, release: LoadedRelease, today: dt.date, now_s: float, row: int) -> None:
    """Keep the item at `row` out where an expression of today's hard rules is true of it, or fails.

    Each item is judged once here and then no more, so neither its texts nor the verdict are kept.
    """
    item = release.tables.items.glance(row)
    for compiled in bound.rules.hard:
        match = compiled.match
        if match is not None and compiled.is_in_time(today) and not _passes(match, item, now_s):
            found.add(compiled.rule.surfaces, (item.item,))


def _passes(match: Condition, item: CatalogueItem, now_s: float) -> bool:
    try:
        return match.value(item, _SILENT, now_s=now_s) is False
    except ConditionError:
        return False
