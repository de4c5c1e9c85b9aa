"""The door for the region's own silo: resident histories for a federated round that no phone takes part in."""

from dataclasses import dataclass

from aiohttp import web

from infra.contracts.resident import PAGE_MAX, ResidentCall, ResidentHistory, ResidentPage
from infra.plumbing.errors import InvalidInputError
from region.api.decoding import decode_body, read_body
from region.api.doors import Door
from region.api.routes import check_subject, regional_response
from region.store.port import Store, UserRow

BODY_BYTES_MAX = 4 << 10


@dataclass(frozen=True, slots=True)
class ResidentDoors:
    """Handler of `/v1/resident/histories`."""

    store: Store
    home_only: Door

    def routes(self) -> list[web.RouteDef]:
        """The routes to put into the application."""
        return [web.post("/v1/resident/histories", self.histories)]

    async def histories(self, request: web.Request) -> web.Response:
        """The next page of histories of users who have not opted out."""
        self.home_only(request)
        call = decode_body(await read_body(request, bytes_max=BODY_BYTES_MAX), ResidentCall)
        check_subject(call.after or None)
        if not 1 <= call.page_count <= PAGE_MAX:
            raise InvalidInputError(f"a page has 1 to {PAGE_MAX} histories, not {call.page_count}.")
        walk = await self.store.walk(after=call.after, limit=call.page_count)
        histories = tuple(_history(row) for row in walk.rows)
        return regional_response(ResidentPage(histories=histories, after=walk.after))


def _history(row: UserRow) -> ResidentHistory:
    return ResidentHistory(
        items=tuple(entry.item for entry in row.history), strengths=tuple(entry.strength for entry in row.history),
        times_ms=tuple(entry.at_ms for entry in row.history),
    )  # fmt: skip
