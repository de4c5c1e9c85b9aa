"""Published items: one file, signed where central delegates, in force at once on every node of its own region."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from infra.cli.__main__ import main
from infra.contracts.messages import INVALIDATION_TOPIC, Invalidation
from infra.plumbing.errors import ConflictError, ForbiddenError, InvalidInputError
from infra.plumbing.grid.memory import MemoryGrid
from infra.plumbing.keys import RegionKeys
from infra.plumbing.tuf_client.errors import ReleaseRefusedError
from infra.plumbing.tuf_client.signing import create_signer
from region.additions import commands
from region.additions.keeper import PublishedItemError
from region.additions.messages import PublishItemsAnswer
from region.additions.published import (
    DOCUMENT_BYTES_MAX,
    ITEMS_PUBLISHED_MAX,
    ItemFile,
    Posting,
    as_published,
    read_item_file,
    write_item_file,
)
from region.additions.publisher import ItemPublisher
from region.api.withdrawing import hear_withdrawals
from tests.unit.region.additions.support import Door, drama, keeper, publisher, shown, until, until_shown
from tests.unit.region.conftest import NewWorld
from tests.unit.region.delegating import Delegating
from tests.unit.region.worlds import World


def file_of(*names: str, **fields: Any) -> str:
    items = tuple(as_published(drama(name), added_at_ms=0) for name in names)
    return write_item_file(ItemFile(**{"format": 1, "region": "us-east", "items": items, **fields}))


async def publish(to: ItemPublisher, world: World, document: str, statement: str = "") -> PublishItemsAnswer:
    return await to.publish(document, statement, operator="o", release=world.release)


async def test_the_file_is_the_whole_of_what_is_published(world: World, tmp_path: Path) -> None:
    await world.live.refresh()
    additions = keeper(world, tmp_path)
    await additions.attach(world.release)
    desk = publisher(world, tmp_path, additions)
    answer = await publish(desk, world, file_of("new-1", "new-2", "item-7", withdrawn=("item-3",)))
    assert (answer.items, answer.released, answer.withdrawn, answer.before) == (3, 1, 1, "none")
    listed = await shown(world)
    assert {"new-1", "new-2"} <= set(listed)
    assert "item-3" not in listed
    assert (await publish(desk, world, file_of("new-2"))).before == answer.edition
    listed = await shown(world)
    assert "new-2" in listed
    assert "item-3" in listed
    assert "new-1" not in listed
    assert [(one.item, one.published) for one in additions.listed(world.release).items] == [("new-2", True)]


async def test_no_call_changes_what_is_published(world: World, tmp_path: Path) -> None:
    await world.live.refresh()
    additions = keeper(world, tmp_path)
    await additions.attach(world.release)
    await additions.put([drama("new-1"), drama("posted")], world.release)
    desk = publisher(world, tmp_path, additions)
    await publish(desk, world, file_of("new-1"))
    with pytest.raises(PublishedItemError, match=r"items\[1\] is one of the region's published"):
        await additions.put([drama("other"), drama("new-1", price=1.0)], world.release)
    with pytest.raises(PublishedItemError):
        await additions.remove(["new-1"], world.release)
    # Items beside the file are posted as ever.
    assert (await additions.put([drama("new-3")], world.release)).total == 3
    assert {"new-1", "posted", "new-3"} <= set(await shown(world))
    # What the file took over goes with it, and what was posted stays.
    await publish(desk, world, file_of())
    assert [one.item for one in additions.listed(world.release).items] == ["new-3", "posted"]


async def test_a_closed_door_takes_no_item_and_hides_what_was_posted(world: World, tmp_path: Path) -> None:
    await world.live.refresh()
    additions = keeper(world, tmp_path)
    await additions.attach(world.release)
    await additions.put([drama("posted")], world.release)
    desk = publisher(world, tmp_path, additions)
    await publish(desk, world, file_of("new-1", posting=Posting.CLOSED))
    listed = await shown(world)
    assert "new-1" in listed
    assert "posted" not in listed
    with pytest.raises(PublishedItemError, match="close this door"):
        await additions.put([drama("new-2")], world.release)
    await publish(desk, world, file_of("new-1"))
    assert "posted" in await shown(world)


async def test_it_holds_after_a_restart_and_in_a_release_that_comes_later(new_world: NewWorld, tmp_path: Path) -> None:
    before, after = new_world(), new_world(num_items=51)
    await after.live.refresh()
    additions = keeper(before, tmp_path)
    await additions.attach(before.release)
    await publish(publisher(before, tmp_path, additions), before, file_of("new-1", "item-50", withdrawn=("item-2",)))
    again = keeper(after, tmp_path)
    desk = publisher(after, tmp_path, again)
    await desk.start()
    await again.attach(after.release)
    listed = await shown(after)
    assert "new-1" in listed
    assert "item-2" not in listed
    assert after.release.tables.items[50].title == "Title 50"
    assert [(one.item, one.released) for one in again.listed(after.release).items] == [
        ("item-50", True), ("new-1", False),
    ]  # fmt: skip


async def test_other_nodes_take_it_over_once_it_verifies_and_edges_are_told(
    new_world: NewWorld, tmp_path: Path
) -> None:
    one, other = new_world(), new_world()
    await other.live.refresh()
    grid, path = MemoryGrid(clock=one.clock), tmp_path / "key.pem"
    source = Delegating(create_signer(path))
    create_signer(tmp_path / "other.pem")
    first = publisher(one, tmp_path / "a", keeper(one, tmp_path), grid, source)
    mine = keeper(other, tmp_path)
    await mine.attach(other.release)
    second = publisher(other, tmp_path / "b", mine, grid, source)
    abroad = publisher(other, tmp_path / "c", keeper(other, tmp_path), grid, source, region="us-west")
    words = grid.subscribe(INVALIDATION_TOPIC)
    assert await anext(words) is None
    hearing = [asyncio.create_task(work) for work in (first.hear(), second.hear())]
    hearing.append(asyncio.create_task(hear_withdrawals(grid, other.withdrawals)))
    foreign = asyncio.create_task(abroad.hear())
    await asyncio.sleep(0)
    document = file_of("new-1", withdrawn=("item-3",))
    answer = await publish(first, one, document, says(path, document, 1, one))
    assert (answer.version, answer.told) == (1, True)
    await until(lambda: second.edition == answer.edition)
    await until(lambda: "item-3" in other.withdrawals.items)
    await until(lambda: "new-1" in {item.item for item in mine.listed(other.release).items})
    await until_shown(other, "new-1")
    told = await anext(words)
    assert told is not None
    word = msgspec.json.decode(told, type=Invalidation)
    assert (word.withdrawn, word.published_items) == (("item-3",), True)
    # The word to the edges is not an operator's: with the file it goes.
    assert other.withdrawals.called == frozenset()
    # us-west may not take it over, whoever sends it.
    with pytest.raises(ReleaseRefusedError, match="unsigned"):
        await foreign
    assert abroad.edition == "none"
    for forged in (says(tmp_path / "other.pem", document, 9, one), ""):
        with pytest.raises(ReleaseRefusedError):
            await publish(first, one, document, forged)
    late = publisher(new_world(), tmp_path / "d", keeper(one, tmp_path), grid, source)
    hearing.append(asyncio.create_task(late.hear()))
    await until(lambda: late.edition == answer.edition)
    for task in hearing:
        task.cancel()
    await asyncio.gather(*hearing, return_exceptions=True)


def says(key: Path, document: str, version: int, world: World) -> str:
    return commands.sign(document, "us-east", [key], version=version, clock=world.clock)


async def test_what_cannot_be_shown_is_refused_before_anything_changes(world: World, tmp_path: Path) -> None:
    additions = keeper(world, tmp_path)
    await additions.attach(world.release)
    desk = publisher(world, tmp_path, additions)
    opera = file_of("new-1").replace('"drama"', '"opera"')
    for document, told in (
        (opera, r"items\[0\] names a category that is not known"),
        (file_of("new-1", region="us-west"), "items of 'us-west'"),
        (file_of("new-1", format=2), "format 2"),
        (file_of("new-1", "new-1"), "twice"),
        (file_of("new-1", withdrawn=("new-1",)), "listed and withdrawn"),
        (file_of("new-1", withdrawn=("a", "a")), "withdrawn names an item twice"),
        (file_of(*(f"n{number}" for number in range(ITEMS_PUBLISHED_MAX + 1))), "501 entries"),
        (file_of("new-1").replace('"added_at_ms": 0', '"added_at_ms": -1'), "below 0"),
        (file_of("x" * DOCUMENT_BYTES_MAX), "longer than"),
        ("[]", "no file of items"),
    ):
        with pytest.raises(InvalidInputError, match=told):
            await publish(desk, world, document)
    assert desk.edition == "none"
    assert not (tmp_path / "items").exists()
    assert not additions.listed(world.release).items


@pytest.fixture
async def signed_door(world: World, tmp_path: Path) -> AsyncIterator[Door]:
    built = Door(world, tmp_path, Delegating(create_signer(tmp_path / "key.pem")))
    await built.additions.attach(world.release)
    async with built.client:
        yield built


async def test_an_operator_collects_reviews_signs_and_publishes_at_the_terminal(
    signed_door: Door, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    door, world = signed_door, signed_door.world
    keys, file, statement = tmp_path / "keys.json", tmp_path / "items.json", tmp_path / "statement.json"
    msgspec.structs.replace(RegionKeys.generate("us-east"), operator_key="operator-key").save(keys)
    feed, key = tmp_path / "new.csv", tmp_path / "key.pem"
    feed.write_text("item_id,title,category\nnew-2,Two,drama\n")

    async def type_in(*words: str, code: int = 0) -> str:
        full = ["region", "us-east", "items", *words, "--url", door.url(), "--key-file", str(keys)]
        assert await asyncio.to_thread(main, [*full, "--state", str(tmp_path / "state")]) == code
        said = capsys.readouterr()
        return said.out + said.err

    await door.post("add", {"items": [{"item": "new-1", "categories": ["drama"]}]})
    world.withdrawals.change(withdrawn=("item-3", "item-6"), restored=())
    collect = ("collect", "--out", str(file), "--add", str(feed), "--withdraw", "item-9", "--restore", "item-6")
    assert "review it" in await type_in(*collect)
    collected = read_item_file(file.read_text(), "us-east")
    assert [one.item for one in collected.items] == ["new-1", "new-2"]
    assert all(one.added_at_ms for one in collected.items)
    assert collected.withdrawn == ("item-3", "item-9")
    assert "refused as unsigned" in await type_in("publish", str(file), code=2)
    assert "0 of 1 keys" in await type_in(
        "publish", str(file), "--signing-key", str(_other(tmp_path)), code=2
    )  # fmt: skip
    assert "signed as version 1 (before: none): 2 items, 2 withdrawn" in await type_in(
        "publish", str(file), "--signing-key", str(key)
    )
    assert "signed as version 1" in await type_in("published")
    # Signed elsewhere, tampered with on the way.
    await type_in("collect", "--out", str(file), "--leave-out", "new-1", "--posting", "closed")
    signed = await type_in("sign", str(file), "--out", str(statement), "--signing-key", str(key), "--version", "2")
    assert "as version 2" in signed
    reviewed = file.read_text()
    file.write_text(reviewed.replace("closed", "open"))
    assert "refused as tampered" in await type_in("publish", str(file), "--statement", str(statement), code=2)
    file.write_text(reviewed)
    assert "1 items, 3 withdrawn" in await type_in("publish", str(file), "--statement", str(statement))
    assert "refused as rolled-back" in await type_in("publish", str(file), "--statement", str(statement), code=2)
    assert [one.item for one in door.additions.listed(world.release).items] == ["new-2"]
    outcomes = [(entry.action, entry.outcome) for entry in door.audit.latest(9) if entry.action == "publish-items"]
    assert outcomes == [
        ("publish-items", word) for word in ("refused", "refused", "done", "refused", "done", "refused")
    ]


def _other(tmp_path: Path) -> Path:
    create_signer(tmp_path / "other.pem")
    return tmp_path / "other.pem"


async def test_the_feeds_key_posts_and_does_not_publish(signed_door: Door) -> None:
    headers = {"Atoll-Service-Key": "service-key"}
    assert (await signed_door.post("publish", {"document": file_of("new-1")}, **headers))[0] == 401
    response = await signed_door.client.get("/operator/v1/items/published", headers=headers)
    assert response.status == 401
    with pytest.raises((ConflictError, ForbiddenError), match="refused as unsigned"):
        await asyncio.to_thread(commands.publish, signed_door.url(), "operator-key", document=file_of("new-1"))
