"""A keeper of new items over a world, its doors, and what somebody who likes dramas is shown."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry

from infra.plumbing.grid.memory import MemoryGrid
from infra.plumbing.http.middleware import frame
from region.additions.book import AdditionBook
from region.additions.doors import AdditionDoors
from region.additions.keeper import Additions
from region.additions.messages import NewItem
from region.additions.published import ITEMS_FILE, ItemBook
from region.additions.publisher import ItemPublisher
from region.api.announcing import Announcer
from region.api.doors import either_door, operator_door, service_door
from region.publishing.proving import DelegatedProof, DelegationSource
from region.releases.audit import AuditLog
from region.releases.operations import Operations
from tests.unit.region.worlds import World, personal, row_of

DRAMAS = ("item-2", "item-5", "item-8")
"""Every third item of the synthetic bundle is a drama."""


def keeper(world: World, directory: Path, grid: MemoryGrid | None = None, node: str = "r1") -> Additions:
    grid = grid or MemoryGrid(clock=world.clock)
    announcer = Announcer(grid=grid, registry=CollectorRegistry())
    return Additions(book=AdditionBook(directory), node=node, grid=grid, announcer=announcer, clock=world.clock)


def publisher(
    world: World, directory: Path, additions: Additions, grid: MemoryGrid | None = None,
    source: DelegationSource | None = None, region: str = "us-east",
) -> ItemPublisher:  # fmt: skip
    """Publishes beside `additions`; without a `source` nothing has to be signed."""
    grid = grid or MemoryGrid(clock=world.clock)
    proof = DelegatedProof(source, ITEMS_FILE, region=region, clock=world.clock) if source else None
    return ItemPublisher(
        book=ItemBook(directory / "items", region=region, proof=proof), additions=additions,
        withdrawals=world.withdrawals, region=region, grid=grid,
        announcer=Announcer(grid=grid, registry=CollectorRegistry()), clock=world.clock,
    )  # fmt: skip


def drama(name: str = "new-1", **fields: Any) -> NewItem:
    return NewItem(item=name, title=f"Title of {name}", categories=("drama",), **fields)


async def shown(world: World, **fields: Any) -> list[str]:
    """The whole list of somebody who likes dramas."""
    slate = await world.funnel.run(world.call(personal(n=50, **fields), row_of(*DRAMAS)))
    return [item.item for item in slate]


@asynccontextmanager
async def hearing(*all_of: Additions) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one.hear()) for one in all_of]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def until(holds: Any) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - the steps of other tasks are waited for, and they set no event
            await asyncio.sleep(0)


async def until_shown(world: World, item: str, *, gone: str = "") -> None:
    """What is listed, or no longer, is so at once, and in lists when the release has been given it."""
    async with asyncio.timeout(10):
        while item not in (listed := await shown(world)) or gone in listed:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)


class Door:
    """The doors over a world, as the application puts them together."""

    def __init__(self, world: World, tmp_path: Path, source: DelegationSource | None = None) -> None:
        self.world = world
        self.additions = keeper(world, tmp_path)
        self.audit = AuditLog(tmp_path / "audit.jsonl")
        self.operations = Operations(audit=self.audit, clock=world.clock)
        self.active_release = world.release.release_id
        self.publisher = publisher(world, tmp_path, self.additions, source=source)
        doors = AdditionDoors(
            additions=self.additions, publisher=self.publisher, operators_only=operator_door("operator-key"),
            activator=self, body_bytes_max=1 << 20,  # type: ignore[arg-type]
            admit=either_door(service_door("service-key"), operator_door("operator-key")),
        )  # fmt: skip
        app = web.Application(middlewares=[frame(world.telemetry, world.clock)])
        app.add_routes(doors.routes())
        self.client: TestClient[web.Request, web.Application] = TestClient(TestServer(app))

    @contextmanager
    def lease(self) -> Any:
        yield self.world.release

    def url(self) -> str:
        """Of the region's API."""
        return str(self.client.make_url("")).rstrip("/")

    async def post(self, verb: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        headers = headers or {"Authorization": "Operator operator-key"}
        response = await self.client.post(f"/operator/v1/items/{verb}", json=body, headers=headers)
        return response.status, await response.json()
