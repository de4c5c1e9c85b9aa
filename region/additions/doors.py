"""The doors of new items: list, add and remove for operators and the catalogue feed, publish for operators; audited."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from infra.contracts.residency import encode_global, encode_regional
from infra.plumbing.errors import InvalidInputError
from region.additions.checking import check_items
from region.additions.keeper import Additions
from region.additions.messages import (
    ITEMS_PER_CALL_MAX,
    AddItemsCall,
    ChangeAnswer,
    PublishItemsCall,
    RemoveItemsCall,
)
from region.additions.publisher import ItemPublisher
from region.api.checking import check_ids
from region.api.decoding import decode_body, read_body
from region.api.doors import Door
from region.api.routes import json_response
from region.funnel.release import LoadedRelease
from region.releases.activation import Activator

NAMED_IN_AUDIT = 5
PUBLISH_BYTES_MAX = 1 << 20
"""A file with its quotes escaped, and a statement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdditionDoors:
    """Handlers of `/operator/v1/items...`."""

    additions: Additions
    publisher: ItemPublisher
    activator: Activator[LoadedRelease]
    admit: Door
    operators_only: Door
    body_bytes_max: int

    def routes(self) -> list[web.RouteDef]:
        """The routes to put into the application."""
        return [
            web.get("/operator/v1/items", self.show),
            web.post("/operator/v1/items/add", self.add),
            web.post("/operator/v1/items/remove", self.remove),
            web.get("/operator/v1/items/published", self.show_published),
            web.post("/operator/v1/items/publish", self.publish),
        ]

    async def show(self, request: web.Request) -> web.Response:
        """What was added since the release."""
        self.admit(request)
        with self.activator.lease() as release:
            return json_response(encode_global(self.additions.listed(release)))

    async def add(self, request: web.Request) -> web.Response:
        """Add items or renew them: durable, then embedded and searched here, then told to nodes and edges."""
        operator = self.admit(request)
        body = await read_body(request, bytes_max=self.body_bytes_max)

        async def change(release: LoadedRelease) -> tuple[ChangeAnswer, list[str]]:
            call = decode_body(body, AddItemsCall)
            check_items(call.items)
            return await self.additions.put(call.items, release), [one.item for one in call.items]

        return await self._changed("add-items", operator, change)

    async def remove(self, request: web.Request) -> web.Response:
        """Take added items out again."""
        operator = self.admit(request)
        body = await read_body(request, bytes_max=self.body_bytes_max)

        async def change(release: LoadedRelease) -> tuple[ChangeAnswer, list[str]]:
            call = decode_body(body, RemoveItemsCall)
            if not call.items:
                raise InvalidInputError("no item is named.")
            check_ids("items", call.items, count_max=ITEMS_PER_CALL_MAX)
            return await self.additions.remove(call.items, release), list(call.items)

        return await self._changed("remove-items", operator, change)

    async def show_published(self, request: web.Request) -> web.Response:
        """The published file, and what it would be with all that was posted and withdrawn."""
        self.operators_only(request)
        return json_response(encode_regional(self.publisher.shown()))

    async def publish(self, request: web.Request) -> web.Response:
        """Make a file the region's published items: durable, then in force here, then told to nodes and edges."""
        operator = self.operators_only(request) or ""
        body = await read_body(request, bytes_max=PUBLISH_BYTES_MAX)
        operations, active = self.activator.operations, self.activator.active_release
        async with operations.recorded("publish-items", operator, active, active):
            call = decode_body(body, PublishItemsCall)
            with self.activator.lease() as release:
                answer = await self.publisher.publish(
                    call.document, call.statement, operator=operator, release=release
                )  # fmt: skip
        detail = f"{answer.before} -> {answer.edition}: {answer.items} items, {answer.withdrawn} withdrawn"
        await operations.record("publish-items", operator, active, active, "done", detail)
        return json_response(encode_global(answer))

    async def _changed(
        self, action: str, operator: str, change: Callable[[LoadedRelease], Awaitable[tuple[ChangeAnswer, list[str]]]]
    ) -> web.Response:
        operations, active = self.activator.operations, self.activator.active_release
        async with operations.recorded(action, operator, active, active):
            with self.activator.lease() as release:
                answer, names = await change(release)
        more = ", ..." if len(names) > NAMED_IN_AUDIT else ""
        detail = (
            f"{answer.added} added, {answer.updated} renewed, {answer.removed} removed, {answer.unchanged} as before: "
            f"{', '.join(names[:NAMED_IN_AUDIT])}{more}"
        )
        await operations.record(action, operator, active, active, "done", detail)
        return json_response(encode_global(answer))
