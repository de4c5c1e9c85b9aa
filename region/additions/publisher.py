"""`ItemPublisher`: brings the published file of items into force, here and at the region's other nodes and edges."""

import asyncio

import msgspec

from infra.contracts.messages import Invalidation
from infra.plumbing.clock import Clock
from infra.plumbing.grid.port import Grid
from region.additions.checking import check_known
from region.additions.keeper import Additions
from region.additions.messages import PublishedItemsAnswer, PublishItemsAnswer
from region.additions.published import (
    FORMAT,
    ITEMS_TOPIC,
    NO_EDITION,
    ItemBook,
    ItemFile,
    as_published,
    read_item_file,
    write_item_file,
)
from region.api.announcing import Announcer
from region.funnel.release import LoadedRelease
from region.publishing.book import Edition, Publication, edition_of
from region.publishing.telling import hear_publications, tell_publication
from region.rules.regional import Withdrawals


class ItemPublisher:
    """The published items of one node. Belongs to one event loop; `start` before a release is loaded.

    Args:
        book: which edition holds, on disk.
        additions: shows the items of the file.
        withdrawals: keeps out what the file withdraws.
        region: whose.
        grid: to the other nodes of the region.
        announcer: to the region's edges.
        clock: when things are published.
    """

    def __init__(
        self, *, book: ItemBook, additions: Additions, withdrawals: Withdrawals, region: str, grid: Grid,
        announcer: Announcer, clock: Clock,
    ) -> None:  # fmt: skip
        self._book = book
        self._additions = additions
        self._withdrawals = withdrawals
        self._region = region
        self._grid = grid
        self._announcer = announcer
        self._clock = clock
        self._applying = asyncio.Lock()

    async def start(self) -> None:
        """Bring what was published before into force."""
        await self._apply()

    @property
    def edition(self) -> str:
        """Of the file that holds."""
        return self._book.current.name if self._book.current else NO_EDITION

    async def publish(
        self, document: str, statement: str, *, operator: str, release: LoadedRelease
    ) -> PublishItemsAnswer:
        """Make `document` the region's items: durable, then in force here, then told to nodes and edges.

        Raises:
            InvalidInputError: it is no file of items of this region, or names a category that `release` does not know.
            NoSeatError: `release` has no room for so many.
            ReleaseRefusedError: `statement` is not what the region's keys must say about it. In every case nothing
                has changed.
            OSError: the disk does not take it; nothing has changed.
        """
        file, before = read_item_file(document, self._region), self.edition
        unreleased = [one for one in file.items if not release.tables.holds(one.item)]
        check_known(unreleased, release.tables)
        unseated = sum(one.item not in release.tables.row_of for one in unreleased)
        release.tables.seats.check_room(unseated, now_s=self._clock.monotonic_s())
        held = await asyncio.to_thread(
            self._book.publish, document, operator=operator, edition=edition_of(document), clock=self._clock,
            statement=statement,
        )  # fmt: skip
        edges_told = await self._apply()
        nodes_told = await tell_publication(self._grid, ITEMS_TOPIC, held.publication)
        return PublishItemsAnswer(
            edition=held.name, before=before, items=len(file.items), released=len(file.items) - len(unreleased),
            withdrawn=len(file.withdrawn), told=edges_told and nodes_told, version=held.publication.version,
        )  # fmt: skip

    async def hear(self) -> None:
        """Take over what other nodes publish, once it verifies here; ends when the grid ends it."""
        await hear_publications(self._grid, ITEMS_TOPIC, self._book, took=self._took, tell=self._tell)

    def shown(self) -> PublishedItemsAnswer:
        """The file that holds, and what it would be with all that calls have changed."""
        current = self._book.current
        held = current.publication if current else Publication(document="", edition=NO_EDITION)
        return PublishedItemsAnswer(
            edition=held.edition, document=held.document, operator=held.operator, published_at_ms=held.published_at_ms,
            version=held.version, collected=write_item_file(self._collected()),
        )  # fmt: skip

    async def _took(self, _edition: Edition[ItemFile]) -> None:
        await self._apply()

    async def _tell(self) -> None:
        if self._book.current is not None:
            await tell_publication(self._grid, ITEMS_TOPIC, self._book.current.publication)

    async def _apply(self) -> bool:
        """Bring the edition that holds by now into force; whether the edges could be told what that withdraws."""
        async with self._applying:
            current = self._book.current
            if current is None:
                return True
            file, before = current.file, self._withdrawals.items
            # First what may not be shown.
            self._withdrawals.publish(frozenset(file.withdrawn))
            await self._additions.publish(
                file.additions(current.publication.published_at_ms), door_is_open=file.is_open
            )
            now = self._withdrawals.items
            if now == before:
                return True
            return await self._announcer.tell(
                Invalidation(
                    withdrawn=tuple(sorted(now - before)), restored=tuple(sorted(before - now)), published_items=True
                )
            )

    def _collected(self) -> ItemFile:
        current = self._book.current
        file = current.file if current else ItemFile(format=FORMAT, region=self._region)
        withdrawn = self._withdrawals.items
        posted = [
            as_published(one.item, added_at_ms=one.added_at_ms)
            for one in self._additions.posted
            if one.item is not None
        ]
        items = [one for one in (*file.items, *posted) if one.item not in withdrawn]
        return msgspec.structs.replace(file, items=tuple(items), withdrawn=tuple(sorted(withdrawn)))
