"""Purges and withdrawals as an operator makes them and an edge asks for them; the tags that lists carry."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from infra.contracts.kept_out import ItemsKeptOut
from infra.contracts.messages import (
    INVALIDATION_TOPIC,
    MORE_TAGS,
    PURGED_NAMES_MAX,
    TAGS_MAX,
    HomeRequest,
    Invalidation,
    Notices,
    NoticesCall,
    RecommendationType,
)
from infra.contracts.residency import encode_global
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.grid.memory import MemoryGrid
from infra.plumbing.http.middleware import frame
from region.api.announcing import Announcer
from region.api.doors import operator_door, service_door
from region.api.notices import KEPT_S, PURGES_MAX, NoticeBoard, NoticeDoors, hear_purges, withdrawn_digest
from region.api.operating import OperatorDoors
from region.funnel import tagging
from region.releases import commands
from region.releases.audit import AuditLog
from region.releases.operations import DETAIL_MAX, Operations
from tests.unit.region.worlds import World


class Node:
    """The doors of a region around a world's withdrawals, and a board."""

    def __init__(self, world: World, audit: AuditLog) -> None:
        self.world, self.audit = world, audit
        self.grid = MemoryGrid(clock=world.clock)
        announcer = Announcer(grid=self.grid, registry=world.telemetry.registry)
        self.board = NoticeBoard(clock=world.clock, withdrawals=world.withdrawals, release=lambda: "a" * 20)
        notices = NoticeDoors(
            board=self.board, announcer=announcer, home_only=service_door("service"),
            operators_only=operator_door("operator"), body_bytes_max=1 << 20,
            operations=Operations(audit=audit, clock=world.clock),
        )  # fmt: skip
        operators = OperatorDoors(
            withdrawals=world.withdrawals, announcer=announcer, operators_only=operator_door("operator"),
            status=lambda: pytest.fail("not asked for"), body_bytes_max=1 << 20,
            operations=Operations(audit=audit, clock=world.clock),
        )  # fmt: skip
        app = web.Application(middlewares=[frame(world.telemetry, world.clock)])
        app.add_routes([*notices.routes(), *operators.routes()])
        self.server = TestServer(app)

    @property
    def url(self) -> str:
        return str(self.server.make_url("")).rstrip("/")

    def read(self, digest: str = "") -> Notices:
        return self.board.read(NoticesCall(withdrawn_digest=digest))


@pytest.fixture
async def node(world: World, tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(world, AuditLog(tmp_path / "audit.jsonl"))
    await made.server.start_server()
    yield made
    await made.server.close()


async def test_an_operator_purges_and_every_way_to_the_edges_carries_it(node: Node) -> None:
    heard = node.grid.subscribe(INVALIDATION_TOPIC)
    assert await anext(heard) is None
    answer = await asyncio.to_thread(
        commands.purge, node.url, "operator", items=["item-3"], tags=["category:drama", "brand:acme"]
    )
    assert (answer.purged, answer.edges_told) == (3, True)
    names = ("item:item-3", "category:drama", "brand:acme")
    message = await anext(heard)
    assert message is not None
    told = msgspec.json.decode(message, type=Invalidation)
    assert told == Invalidation(purged=names)
    node.world.clock.advance(2.0)
    (purge,) = node.read().purges
    assert (purge.number, purge.age_ms, purge.purged) == (1, 2000.0, names)
    node.grid.available = False
    cut = await asyncio.to_thread(commands.purge, node.url, "operator", items=["item-4"], tags=[])
    assert not cut.edges_told
    assert [purge.number for purge in node.read().purges] == [1, 2]


async def test_what_an_operator_withdraws_restores_and_purges_stands_in_the_audit(node: Node) -> None:
    many = [f"item-{number}" for number in range(200)]
    await asyncio.to_thread(commands.withdraw, node.url, "operator", items=many)
    await asyncio.to_thread(commands.restore, node.url, "operator", items=["item-3"])
    await asyncio.to_thread(commands.purge, node.url, "operator", items=["item-4"], tags=["category:drama"])
    said = [(entry.operator, entry.action, entry.outcome, entry.detail[:40]) for entry in node.audit.latest(9)]
    assert said == [
        ("operator", "withdraw", "done", "200: " + " ".join(many)[:35]),
        ("operator", "restore", "done", "1: item-3"),
        ("operator", "purge", "done", "2: item:item-4 category:drama"),
    ]
    assert len(node.audit.latest(9)[0].detail) == DETAIL_MAX


async def test_what_rules_keep_out_is_sent_to_who_does_not_know_it(world: World) -> None:
    kept: list[tuple[ItemsKeptOut, ...] | None] = [None]
    board = NoticeBoard(
        clock=world.clock, withdrawals=world.withdrawals, release=lambda: None, kept_out=lambda: kept[0]
    )  # fmt: skip
    nothing_yet = board.read(NoticesCall())
    assert (nothing_yet.kept_out, nothing_yet.kept_out_digest) == (None, ""), "not that nothing is kept out"
    kept[0] = (ItemsKeptOut(surfaces=("cart",), items=("a", "b")),)
    notices = board.read(NoticesCall())
    assert notices.kept_out == kept[0]
    assert board.read(NoticesCall(kept_out_digest=notices.kept_out_digest)).kept_out is None
    kept[0] = ()
    assert board.read(NoticesCall(kept_out_digest=notices.kept_out_digest)).kept_out == ()


async def test_withdrawals_are_sent_to_who_does_not_know_them(node: Node) -> None:
    await asyncio.to_thread(commands.withdraw, node.url, "operator", items=["b", "a"])
    notices = node.read()
    assert notices.withdrawn == ("a", "b")
    assert notices.withdrawn_digest == withdrawn_digest(frozenset({"a", "b"}))
    assert node.read(notices.withdrawn_digest).withdrawn is None
    await asyncio.to_thread(commands.restore, node.url, "operator", items=["a"])
    assert node.read(notices.withdrawn_digest).withdrawn == ("b",)


@pytest.mark.parametrize(
    ("items", "tags", "says"),
    [
        ([], [], "nothing is purged"),
        ([""], [], "items holds an empty"),
        ([], ["drama"], "without a kind"),
        (["i"] * 6_000, ["a:b"] * 6_000, f"more than {PURGED_NAMES_MAX}"),
    ],
)
async def test_a_purge_that_makes_no_sense_is_refused(node: Node, items: list[str], tags: list[str], says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        await asyncio.to_thread(commands.purge, node.url, "operator", items=items, tags=tags)
    assert node.read().purges == ()


async def test_only_the_regions_own_edges_may_ask(node: Node) -> None:
    async with ClientSession() as session:
        for headers, status in (({}, 401), ({"Atoll-Service-Key": "no"}, 403), ({"Atoll-Service-Key": "service"}, 200)):
            body = encode_global(NoticesCall())
            async with session.post(f"{node.url}/v1/notices", data=body, headers=headers) as answer:
                assert answer.status == status
                content = await answer.read()
    assert msgspec.json.decode(content, type=Notices).release == "a" * 20


async def test_a_board_is_bounded_in_number_and_age_and_hears_the_other_nodes(node: Node) -> None:
    listening = asyncio.create_task(hear_purges(node.grid, node.board))
    await asyncio.sleep(0)
    for number in range(PURGES_MAX + 3):
        await node.grid.publish(INVALIDATION_TOPIC, encode_regional_purge(f"item:{number}"))
    while len(node.read().purges) < PURGES_MAX:  # noqa: ASYNC110 - nothing tells when it has heard
        await asyncio.sleep(0)
    assert node.read().purges[-1].purged == (f"item:{PURGES_MAX + 2}",)
    node.world.clock.advance(KEPT_S + 1)
    assert node.read().purges == ()
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


def encode_regional_purge(name: str) -> bytes:
    return msgspec.json.encode(Invalidation(purged=(name,)))


async def test_a_list_carries_what_it_can_be_purged_by(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.live.refresh()
    request = HomeRequest(type=RecommendationType.SIMILAR, item="item-3", n=10)
    answer = await world.recommender.home(request)
    tables = world.release.tables
    of_items = {
        f"category:{name}"
        for row in tables.known_rows(item.item for item in answer.items)
        for name in tables.items[row].categories
    }
    assert answer.tags[0] == "item:item-3"
    assert of_items
    assert of_items <= set(answer.tags)
    monkeypatch.setattr(tagging, "TAGS_MAX", 2)
    assert tagging.tags_of(request, np.asarray(tables.known_rows(one.item for one in answer.items)), tables) == (
        "item:item-3",
        MORE_TAGS,
    )
    assert len(answer.tags) <= TAGS_MAX
