"""The door for the region's own silo: resident histories for a federated round that no phone takes part in.

A walk over everybody is one read in the account of accesses, however many pages it has: it begins with the page behind
nobody, and is known by where it goes on. A page behind a place that no walk has reached begins one of its own.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from aiohttp import web

from infra.contracts.resident import PAGE_MAX, ResidentCall, ResidentHistory, ResidentPage
from infra.plumbing.errors import InvalidInputError
from region.api.decoding import decode_body, read_body
from region.api.doors import Door
from region.api.routes import check_subject, regional_response
from region.privacy.bulk import DONE, LEFT_OFF, BulkRead, BulkReads
from region.store.port import Store, UserRow

BODY_BYTES_MAX = 4 << 10
WALKS_MAX = 4
"""Walks under way at the same time; the one that moved on longest ago counts as left off."""
_ACTION, _WHY = "walk over histories", "a round of the region's silo"


@dataclass(frozen=True, slots=True)
class ResidentDoors:
    """Handler of `/v1/resident/histories`."""

    store: Store
    home_only: Door
    reads: BulkReads
    walks: "OrderedDict[str, BulkRead]" = field(default_factory=OrderedDict)
    """By where each goes on, the one that moved last at the end."""

    def routes(self) -> list[web.RouteDef]:
        """The routes to put into the application."""
        return [web.post("/v1/resident/histories", self.histories)]

    async def histories(self, request: web.Request) -> web.Response:
        """The next page of histories of users who have not opted out."""
        who = self.home_only(request)
        call = decode_body(await read_body(request, bytes_max=BODY_BYTES_MAX), ResidentCall)
        check_subject(call.after or None)
        if not 1 <= call.page_count <= PAGE_MAX:
            raise InvalidInputError(f"a page has 1 to {PAGE_MAX} histories, not {call.page_count}.")
        read = self.walks.pop(call.after, None) if call.after else None
        if read is None:
            read = await self.reads.begin(who=who, action=_ACTION, why=_WHY)
        walk = await self.store.walk(after=call.after, limit=call.page_count)
        read.touch_each("histories", (row.subject for row in walk.rows))
        await self._moved(read, who, walk.after)
        histories = tuple(_history(row) for row in walk.rows)
        return regional_response(ResidentPage(histories=histories, after=walk.after))

    async def close(self) -> None:
        """Write down the walks that nobody ended."""
        while self.walks:
            await self._leave_off(next(iter(self.walks)))

    async def _moved(self, read: BulkRead, who: str, after: str) -> None:
        """Remember where a walk goes on, or write down that it has ended: before its page is given away."""
        if not after:
            await self.reads.end(read, who=who, action=_ACTION, outcome=DONE)
            return
        if after in self.walks:
            await self._leave_off(after)
        self.walks[after] = read
        while len(self.walks) > WALKS_MAX:
            await self._leave_off(next(iter(self.walks)))

    async def _leave_off(self, after: str) -> None:
        await self.reads.end(self.walks.pop(after), who="service", action=_ACTION, outcome=LEFT_OFF)


def _history(row: UserRow) -> ResidentHistory:
    history = row.history
    return ResidentHistory(items=history.items, strengths=history.strengths, times_ms=history.times_ms)
