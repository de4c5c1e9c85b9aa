"""`Additions`: keeps what was added and every release in memory in step, and tells nodes and edges.

One change at a time: on disk first, then seated in every loaded release, then put beside its index. A release that is
loaded later seats everything that is on disk and that it does not hold itself.

What the region's operators published as a file (`region.additions.published`) stands beside what was posted at the
door, and before it: no call and no other node's word changes an item of the file.
"""

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Mapping, Sequence

import msgspec

from infra.contracts.messages import PURGED_NAMES_MAX, Invalidation
from infra.contracts.residency import encode_regional
from infra.plumbing.clock import Clock
from infra.plumbing.errors import AtollError, ConflictError, UnavailableError
from infra.plumbing.grid.port import Grid, GridUnavailableError
from region.additions.book import AdditionBook
from region.additions.checking import check_known
from region.additions.messages import (
    ADDITIONS_TOPIC,
    Addition,
    AdditionsNews,
    ChangeAnswer,
    ListAnswer,
    ListedItem,
    NewItem,
)
from region.additions.placing import place
from region.api.announcing import Announcer
from region.funnel.release import LoadedRelease

TOLD_AT_ONCE = 10
"""Additions in one message to the other nodes: at the bounds of every field less than a grid's value may have."""
_log = logging.getLogger(__name__)


class PublishedItemError(ConflictError):
    """The region's published items do not leave this to a call."""


class Additions:
    """The new items of one node. Belongs to one event loop.

    Args:
        book: what was added, on disk.
        node: this node's name, for telling its own news from others'.
        grid: to the other nodes of the region.
        announcer: to the region's edges.
        clock: when things changed.
    """

    def __init__(self, *, book: AdditionBook, node: str, grid: Grid, announcer: Announcer, clock: Clock) -> None:
        self._book = book
        self._node = node
        self._grid = grid
        self._announcer = announcer
        self._clock = clock
        self._releases: weakref.WeakSet[LoadedRelease] = weakref.WeakSet()
        self._changing = asyncio.Lock()
        self._to_purge: set[str] = set()
        self._published: dict[str, Addition] = {}
        self._door_is_open = True

    @property
    def posted(self) -> tuple[Addition, ...]:
        """What was added at the door and is not published, latest first."""
        return tuple(one for one in self._book.live if one.name not in self._published) if self._door_is_open else ()

    async def attach(self, release: LoadedRelease) -> None:
        """Seat everything that was added in a release that was just loaded; it is kept in step from now on."""
        async with self._changing:
            await self._bring(release, self._live)
            self._releases.add(release)

    async def publish(self, items: Mapping[str, Addition], *, door_is_open: bool) -> None:
        """Make `items` the published ones, in place of those before; what was posted under their names is theirs now.

        A posted item that waits behind a closed door is shown again once the door is open.
        """
        async with self._changing:
            before = {one.name: one for one in self._live}
            theirs = [one for one in self._book.live if one.name in items]
            self._published, self._door_is_open = dict(items), door_is_open
            after = {one.name: one for one in self._live}
            news = [one for name, one in after.items() if not _alike(before.get(name), one)]
            gone = [msgspec.structs.replace(one, item=None) for name, one in before.items() if name not in after]
            for one in (*news, *(before[each.name] for each in gone)):
                self._purge_later(one)
            for release in list(self._releases):
                await self._bring(release, [*gone, *news])
            over = [
                msgspec.structs.replace(one, item=None, changed_at_ms=_after(one, items[one.name].changed_at_ms))
                for one in theirs
            ]
            try:
                await asyncio.to_thread(self._book.take, over)
            except OSError as error:
                # They are out of sight all the same, until the file leaves them out.
                _log.warning("posted items that are published now stay on disk: %s", error)

    async def put(self, items: Sequence[NewItem], release: LoadedRelease) -> ChangeAnswer:
        """Add items, or renew them; what says the same as before changes nothing.

        Args:
            items: within bounds (`check_items`).
            release: the active one, which must be able to show them.

        Raises:
            ReleasedItemError, InvalidInputError: see `check_known`.
            PublishedItemError: one of them is published, or the published file closes the door.
            TooManyAdditionsError, NoSeatError: there is no room. In every case nothing has changed.
            OSError: the disk does not take it; nothing has changed.
        """
        async with self._changing:
            self._check_left_to_calls([one.item for one in items])
            check_known(items, release.tables)
            now_ms = self._clock.now_ms()
            wanted = [self._addition(one, now_ms) for one in items]
            changed = [one for one in wanted if not self._says_the_same(one)]
            known = [self._is_live(one.name) for one in changed]
            unseated = sum(one.name not in release.tables.row_of for one in changed)
            release.tables.seats.check_room(unseated, now_s=self._clock.monotonic_s())
            await self._take(changed)
        await self._tell(changed)
        return ChangeAnswer(
            added=known.count(False), updated=known.count(True), unchanged=len(wanted) - len(changed),
            total=len(self._live), release=release.release_id,
        )  # fmt: skip

    async def remove(self, names: Sequence[str], release: LoadedRelease) -> ChangeAnswer:
        """Take added items out again; others are passed over.

        Raises:
            PublishedItemError: one of them is published; nothing has changed.
            OSError: the disk does not take it; nothing has changed.
        """
        async with self._changing:
            if self._published.keys() & set(names):
                self._check_left_to_calls(names)
            now_ms = self._clock.now_ms()
            held = [one for name in dict.fromkeys(names) if (one := self._book.get(name)) is not None and one.item]
            changed = [msgspec.structs.replace(one, item=None, changed_at_ms=_after(one, now_ms)) for one in held]
            for one in held:
                self._purge_later(one)
            await self._take(changed)
        await self._tell(changed)
        await self.tidy()
        return ChangeAnswer(
            removed=len(changed), unchanged=len(set(names)) - len(changed), total=len(self._live),
            release=release.release_id,
        )  # fmt: skip

    def listed(self, release: LoadedRelease) -> ListAnswer:
        """Every added item."""
        tables = release.tables
        return ListAnswer(
            release=release.release_id,
            items=tuple(
                ListedItem(
                    item=one.name, title=one.item.title, categories=one.item.categories, added_at_ms=one.added_at_ms,
                    released=tables.holds(one.name), published=one.name in self._published,
                )
                for one in self._live
                if one.item is not None
            ),
        )  # fmt: skip

    async def tidy(self) -> None:
        """Tell the edges whose lists may change, in one word for all changes since; forget what is released everywhere.

        Lists are made anew once for many posts: a feed that posts every second does not empty the caches every second.
        """
        names, self._to_purge = tuple(sorted(self._to_purge))[:PURGED_NAMES_MAX], set()
        if names and not await self._announcer.tell(Invalidation(purged=names)):
            self._to_purge.update(names)
        releases = list(self._releases)
        if len(releases) > 1:
            held = [one.name for one in self._book.live if all(each.tables.holds(one.name) for each in releases)]
            if held:
                await asyncio.to_thread(self._book.drop, held)

    async def hear(self) -> None:
        """Take over what other nodes add; ask for theirs after every (re)connect. Ends when the grid ends it."""
        async for message in self._grid.subscribe(ADDITIONS_TOPIC):
            if message is None:
                await self._publish(AdditionsNews(node=self._node, asks=True))
                continue
            news = msgspec.json.decode(message, type=AdditionsNews)
            if news.node == self._node:
                continue
            if news.asks:
                await self._tell(self._book.entries)
            if news.additions:
                async with self._changing:
                    # A node that has not heard of the published file yet may say something about an item of it.
                    left = [one for one in news.additions if one.name not in self._published]
                    with contextlib.suppress(AtollError):
                        await self._take(left)

    @property
    def _live(self) -> tuple[Addition, ...]:
        """Everything that is shown beside the releases, latest first."""
        everything = (*self.posted, *self._published.values())
        return tuple(sorted(everything, key=lambda one: (-one.added_at_ms, one.name)))

    def _check_left_to_calls(self, names: Sequence[str]) -> None:
        fix = "Publish a file that says so: ./atoll region REGION items collect, items publish."
        if not self._door_is_open:
            raise PublishedItemError("the region's published items close this door.", fix=fix)
        theirs = next((place for place, name in enumerate(names) if name in self._published), None)
        if theirs is not None:
            raise PublishedItemError(f"items[{theirs}] is one of the region's published items.", fix=fix)

    def _addition(self, one: NewItem, now_ms: int) -> Addition:
        before = self._book.get(one.item)
        first_ms = before.added_at_ms if before is not None and before.item is not None else now_ms
        item = one.as_catalogued(created_s=first_ms / 1000)
        return Addition(name=one.item, item=item, added_at_ms=first_ms, changed_at_ms=_after(before, now_ms))

    def _says_the_same(self, one: Addition) -> bool:
        before = self._book.get(one.name)
        return before is not None and before.item == one.item

    def _is_live(self, name: str) -> bool:
        before = self._book.get(name)
        return before is not None and before.item is not None

    async def _take(self, additions: Sequence[Addition]) -> None:
        news = await asyncio.to_thread(self._book.take, additions)
        for one in news:
            self._purge_later(one)
        for release in list(self._releases) if self._door_is_open else ():
            await self._bring(release, news)

    def _purge_later(self, one: Addition) -> None:
        categories = one.item.categories if one.item is not None else ()
        self._to_purge.update((f"item:{one.name}", *(f"category:{name}" for name in categories)))

    async def _bring(self, release: LoadedRelease, news: Sequence[Addition]) -> None:
        """Bring one release in step with `news`; one that fails goes on without, and the log says so."""
        tables, seats = release.tables, release.tables.seats
        news = [one for one in news if not tables.holds(one.name)]
        if not news:
            return
        now_s = self._clock.monotonic_s()
        try:
            seats.leave([one.name for one in news if one.item is None], now_s=now_s)
            seats.seat(await place(release, news), now_s=now_s)
        except AtollError as error:
            _log.warning("release %s does not show new items: %s", release.release_id, error)
        # A process that is being started anew hears of them when it is back.
        with contextlib.suppress(UnavailableError, TimeoutError):
            await release.retrieval.put_side(seats.rows, tables.arrays.vectors[seats.rows])

    async def _tell(self, additions: Sequence[Addition]) -> None:
        for start in range(0, len(additions), TOLD_AT_ONCE):
            part = tuple(additions[start : start + TOLD_AT_ONCE])
            await self._publish(AdditionsNews(node=self._node, additions=part))

    async def _publish(self, news: AdditionsNews) -> None:
        # Who does not hear it now asks when it is connected again.
        with contextlib.suppress(GridUnavailableError):
            await self._grid.publish(ADDITIONS_TOPIC, encode_regional(news))


def _alike(one: Addition | None, other: Addition) -> bool:
    """Whether both say the same of the item, whenever they said it."""
    return one is not None and (one.item, one.added_at_ms) == (other.item, other.added_at_ms)


def _after(before: Addition | None, now_ms: int) -> int:
    """Later than the word before, even where a clock went back."""
    return now_ms if before is None else max(now_ms, before.changed_at_ms + 1)
