"""Rules over the operator's doors: tried on real requests first, then in force at once, audited, and told to others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from infra.contracts.messages import INVALIDATION_TOPIC, HomeRequest, Invalidation, RecommendationType, Surface
from infra.plumbing.errors import AtollError
from infra.plumbing.grid.memory import MemoryGrid
from infra.plumbing.http.middleware import frame
from infra.plumbing.keys import RegionKeys
from infra.plumbing.tuf_client.signing import create_signer
from region.api.announcing import Announcer
from region.api.doors import operator_door
from region.api.rule_doors import RuleDoors, hear_rules
from region.api.rule_messages import PublishAnswer
from region.privacy.access_log import AccessLog
from region.publishing.book import edition_of
from region.publishing.proving import DelegatedProof
from region.rules import commands
from region.rules.book import RULES_FILE, RuleBook
from tests.unit.region.delegating import Delegating
from tests.unit.region.worlds import SUBJECT, World, row_of

OPERATOR = {"Authorization": "Operator key"}
RULES = """
format: 1
region: us-east
hard: [{id: no-drama, because: content-policy, match: '"drama" in item.categories'}]
promotions: [{id: week, items: [item-40], positions: [2]}]
"""


class FakeActivator:
    """The lease of a world's release, and an audit in memory."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.active_release = world.release.release_id
        self.audit: list[tuple[Any, ...]] = []

    @contextmanager
    def lease(self) -> Any:
        yield self._world.release

    @property
    def operations(self) -> "FakeActivator":
        return self

    async def record(self, *entry: Any) -> bool:
        self.audit.append(entry)
        return True


class Region:
    def __init__(self, world: World, state: Path) -> None:
        self.accesses = AccessLog(
            state, region="us-east", node="r1", keys=RegionKeys.generate("us-east"), clock=world.clock
        )  # fmt: skip
        self.world = world
        self.tasks: list[asyncio.Task[None]] = []
        self.grid = MemoryGrid(clock=world.clock)
        self.activator = FakeActivator(world)
        self.announcer = Announcer(grid=self.grid, registry=world.telemetry.registry)
        doors = RuleDoors(
            region="us-east", book=world.book, recommender=world.recommender, requests=world.requests,
            activator=self.activator, announcer=self.announcer, grid=self.grid, clock=world.clock,  # type: ignore[arg-type]
            operators_only=operator_door("key"), accesses=self.accesses,
        )  # fmt: skip
        app = web.Application(middlewares=[frame(world.telemetry, world.clock)])
        app.add_routes(doors.routes())
        self.client: TestClient[web.Request, web.Application] = TestClient(TestServer(app))

    async def post(self, verb: str, document: str, **more: Any) -> tuple[int, dict[str, Any]]:
        path = f"/operator/v1/rules/{verb}"
        response = await self.client.post(path, json={"document": document, **more}, headers=OPERATOR)
        return response.status, await response.json()


@pytest.fixture
async def region(world: World, tmp_path: Path) -> AsyncIterator[Region]:
    await world.live.refresh()
    built = Region(world, tmp_path)
    async with built.client:
        yield built
    for task in built.tasks:
        task.cancel()


async def listening(region: Region) -> "asyncio.Queue[str | None]":
    """Editions of the rules that the region's edges are told from now on."""
    heard: asyncio.Queue[str | None] = asyncio.Queue()

    async def listen() -> None:
        async for message in region.grid.subscribe(INVALIDATION_TOPIC):
            if message is not None:
                heard.put_nowait(msgspec.json.decode(message, type=Invalidation).rules)

    region.tasks.append(asyncio.create_task(listen()))
    await asyncio.sleep(0)
    return heard


async def next_edition(heard: "asyncio.Queue[str | None]") -> str | None:
    async with asyncio.timeout(5.0):
        return await heard.get()


async def ask(world: World, **fields: Any) -> list[str]:
    request = HomeRequest(type=RecommendationType.PERSONAL, subject=SUBJECT, n=5, **fields)
    return [item.item for item in (await world.recommender.home(request)).items]


async def test_a_dry_run_tells_whose_pages_change_and_changes_nothing(region: Region) -> None:
    world = region.world
    await world.store.write_rows([row_of("item-3", "item-7")])
    before = await ask(world)
    status, answer = await region.post("diff", RULES)
    assert [(one.action, one.outcome) for one in region.accesses.entries()] == [("dry run of rules", "asked")]
    assert status == 200, answer
    assert (answer["requests"], answer["changed"], answer["subjects_changed"]) == (1, 1, 1)
    assert answer["proposed"] == edition_of(RULES)
    example = answer["examples"][0]
    assert example["before"] == before[:5]
    assert example["after"][1] == "item-40"
    assert not any(item == f"item-{row}" for item in example["after"] for row in range(2, 50, 3))
    assert answer["moved_by"]["week"] == 1
    assert {finding["rule"]: finding["matches"] for finding in answer["findings"]} == {"no-drama": 16}
    assert await ask(world) == before
    assert world.book.current is None


async def test_a_list_lives_as_long_as_the_rules_of_its_surface_say(region: Region) -> None:
    slate = "slate: {lives: {personal: {max_age_s: 90}}}\n"
    surfaces = "surfaces: {cart: {lives: {personal: {max_age_s: 7}}}}\n"
    status, answer = await region.post("publish", RULES + slate + surfaces)
    assert status == 200, answer
    for surface, max_age_s in ((Surface.HOME, 90), (Surface.CART, 7)):
        request = HomeRequest(type=RecommendationType.PERSONAL, subject=SUBJECT, n=5, surface=surface)
        assert (await region.world.recommender.home(request)).lifetime.max_age_s == max_age_s


async def test_what_is_published_holds_at_once_and_is_told_and_audited(region: Region) -> None:
    world, heard = region.world, await listening(region)
    status, answer = await region.post("publish", RULES)
    assert (status, answer["edition"], answer["before"]) == (200, edition_of(RULES), "release-defaults")
    items = await ask(world)
    assert items[1] == "item-40"
    assert not set(items) & {f"item-{row}" for row in range(2, 50, 3)}
    assert len(items) == 25
    shown = await (await region.client.get("/operator/v1/rules", headers=OPERATOR)).json()
    assert (shown["document"], shown["operator"]) == (RULES, "operator")
    assert region.activator.audit[-1][0] == "publish-rules"
    assert region.activator.audit[-1][4] == "done"
    assert await next_edition(heard) == edition_of(RULES)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ("format: 1\nregion: us-west\n", "rules of us-west"),
        ("format: 1\nregion: us-east\nhard: [{id: a, match: 'item.nope'}]", "line 3"),
        ("format: 1\nregion: us-east\nhard: [{id: a, match: 'true'}]", "leave none"),
        (
            "format: 1\nregion: us-east\nfloors: [{id: a, share_min: 0.5, match: 'item.price * 2 > 1'}]",
            "fail for every",
        ),
        ("format: 1\nregion: us-east\nboosts: [{id: a, weight: 0.5, by: 'item.title'}]", "fail for every"),
    ],
)
async def test_rules_that_cannot_be_meant_are_refused_and_the_refusal_is_audited(
    region: Region, document: str, told: str
) -> None:
    status, answer = await region.post("publish", document)
    assert status == 400
    assert told in answer["detail"]
    assert region.world.book.current is None
    assert region.activator.audit[-1][4] == "refused"


async def test_doors_are_for_operators(region: Region) -> None:
    for verb in ("diff", "publish"):
        assert (await region.client.post(f"/operator/v1/rules/{verb}", data=b"{}")).status == 401
    assert (await region.client.get("/operator/v1/rules")).status == 401


async def test_another_node_takes_over_what_is_published_and_asks_when_it_comes_late(
    region: Region, tmp_path: Any
) -> None:
    early, late = (RuleBook(tmp_path / name, region="us-east") for name in ("early", "late"))
    heard = await listening(region)

    def node(book: RuleBook) -> "asyncio.Task[None]":
        return asyncio.create_task(hear_rules(region.grid, region.announcer, book))

    tasks = [node(region.world.book), node(early)]
    await asyncio.sleep(0)
    await region.post("publish", RULES)
    # The word of the node that published, and of the one that took it over.
    assert [await next_edition(heard) for _ in range(2)] == [edition_of(RULES)] * 2
    assert early.current is not None
    tasks.append(node(late))
    while late.current is None:
        await next_edition(heard)
    assert late.current.file == early.current.file
    for task in tasks:
        task.cancel()


async def test_signed_rules_are_published_as_the_command_line_does_and_unsigned_ones_refused(
    region: Region, tmp_path: Any
) -> None:
    path, other = tmp_path / "key.pem", tmp_path / "other.pem"
    source = Delegating(create_signer(path))
    create_signer(other)
    region.world.book._proof = DelegatedProof(source, RULES_FILE, region="us-east", clock=region.world.clock)
    url = str(region.client.make_url("")).rstrip("/")

    async def publish(*keys: Any, document: str = RULES) -> PublishAnswer:
        return await asyncio.to_thread(
            commands.publish, url, "key", document=document, region="us-east", signing_keys=keys,
            clock=region.world.clock,
        )  # fmt: skip

    for keys in ((), (other,)):
        with pytest.raises(AtollError, match="unsigned"):
            await publish(*keys)
    assert region.activator.audit[-1][4] == "refused"
    assert (await publish(path)).version == 1
    assert (await publish(path, document=RULES + "note: again\n")).version == 2
    shown = await asyncio.to_thread(commands.show, url, "key")
    assert (shown.version, shown.operator) == (2, "operator")
