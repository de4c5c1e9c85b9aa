"""New items between releases: shown at once, durable, told to other nodes, carried to the releases that come."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from infra.cli.__main__ import main
from infra.contracts.messages import INVALIDATION_TOPIC, Invalidation, RecommendationType
from infra.plumbing.errors import InvalidInputError, SettingsError
from infra.plumbing.grid.memory import MemoryGrid
from infra.plumbing.keys import RegionKeys
from region.additions.book import ADDITIONS_FILE, ADDITIONS_MAX, REMOVALS_KEPT, AdditionBook, TooManyAdditionsError
from region.additions.checking import ReleasedItemError
from region.additions.messages import ITEMS_PER_CALL_MAX, Addition, NewItem
from region.additions.reading import read_items
from region.exploration.counters import Tally
from region.funnel.sampling import sample_of
from tests.unit.region.additions.support import DRAMAS, Door, drama, hearing, keeper, shown, until, until_shown
from tests.unit.region.conftest import NewWorld
from tests.unit.region.worlds import World, personal, row_of


async def test_an_item_is_shown_to_whom_its_category_pleases_from_the_next_answer_on(
    world: World, tmp_path: Path
) -> None:
    await world.live.refresh()
    additions = keeper(world, tmp_path)
    await additions.attach(world.release)
    assert "new-1" not in await shown(world)
    answer = await additions.put([drama()], world.release)
    assert (answer.added, answer.total, answer.release) == (1, 1, world.release.release_id)
    listed = await shown(world)
    assert "new-1" in listed[:10]
    slate = await world.funnel.run(world.call(personal(n=50), row_of(*DRAMAS)))
    assert [one.title for one in slate if one.item == "new-1"] == ["Title of new-1"]
    for fields in ({"category": "drama"}, {"among": ("new-1", "item-3")}):
        assert "new-1" in await shown(world, **fields)
    tables = world.release.tables
    near = [tables.items[row].item for row in tables.arrays.similar_rows[tables.row_of["new-1"]].tolist()]
    similar = await shown(world, type=RecommendationType.SIMILAR, item="new-1")
    assert set(similar) & set(near) == set(near)


async def test_hard_filters_hold_for_new_items(world: World, tmp_path: Path) -> None:
    await world.live.refresh()
    additions = keeper(world, tmp_path)
    await additions.attach(world.release)
    await additions.put([drama()], world.release)
    assert "new-1" not in await shown(world, exclude=("new-1",))
    call = world.call(personal(n=50), row_of(*DRAMAS, "new-1"))
    assert sample_of(call, row_of(*DRAMAS), name="s").leanings
    # No batch job knows the item yet: such a row is no sample of what the ranker saw.
    assert sample_of(call, row_of(*DRAMAS, "new-1"), name="s").leanings is None
    seen = await world.funnel.run(call)
    assert "new-1" not in [item.item for item in seen]
    world.withdrawals.change(withdrawn=("new-1",), restored=())
    assert "new-1" not in await shown(world)
    world.withdrawals.change(withdrawn=(), restored=("new-1",))
    assert "new-1" in await shown(world)


async def test_posting_again_changes_nothing_and_removing_holds_at_once(world: World, tmp_path: Path) -> None:
    await world.live.refresh()
    additions = keeper(world, tmp_path)
    await additions.attach(world.release)
    await additions.put([drama()], world.release)
    file = (tmp_path / ADDITIONS_FILE).read_bytes()
    world.clock.advance(5)
    assert (await additions.put([drama()], world.release)).unchanged == 1
    assert (tmp_path / ADDITIONS_FILE).read_bytes() == file
    answer = await additions.put([drama(price=2.0)], world.release)
    assert (answer.added, answer.updated, answer.total) == (0, 1, 1)
    assert world.release.tables.items[world.release.tables.row_of["new-1"]].price == 2.0
    removed = await additions.remove(["new-1", "item-1", "nobody"], world.release)
    assert (removed.removed, removed.unchanged, removed.total) == (1, 2, 0)
    listed = await shown(world)
    assert "new-1" not in listed
    assert "item-1" in listed
    assert (await additions.put([drama()], world.release)).added == 1
    assert "new-1" in await shown(world)


async def test_a_node_that_starts_anew_seats_what_was_added(new_world: NewWorld, tmp_path: Path) -> None:
    before, after = new_world(), new_world()
    await after.live.refresh()
    additions = keeper(before, tmp_path)
    await additions.attach(before.release)
    await additions.put([drama("new-1"), drama("new-2")], before.release)
    again = keeper(after, tmp_path)
    await again.attach(after.release)
    assert {"new-1", "new-2"} <= set(await shown(after))
    assert after.retrieval.side is not None
    assert sorted(after.retrieval.side[0].tolist()) == [50, 51]
    assert [one.item for one in again.listed(after.release).items] == ["new-1", "new-2"]


async def test_a_release_that_holds_the_item_shows_its_own_and_the_addition_goes(
    new_world: NewWorld, tmp_path: Path
) -> None:
    old, new = new_world(num_items=50), new_world(num_items=51)
    await new.live.refresh()
    additions = keeper(old, tmp_path)
    await additions.attach(old.release)
    await additions.put([drama("item-50"), drama("new-1")], old.release)
    await additions.attach(new.release)
    assert new.release.tables.row_of["item-50"] == 50
    assert new.release.tables.items[50].title == "Title 50"
    assert "new-1" in await shown(new)
    with pytest.raises(ReleasedItemError):
        await additions.put([drama("item-50", price=3.0)], new.release)
    await additions.tidy()
    # Rolling back would need it still.
    assert [(one.item, one.released) for one in additions.listed(new.release).items] == [
        ("item-50", True), ("new-1", False),
    ]  # fmt: skip
    newest = new_world(num_items=51)
    third = keeper(newest, tmp_path)
    await third.attach(newest.release)
    await third.attach(new.release)
    await third.tidy()
    assert [one.item for one in third.listed(new.release).items] == ["new-1"]


async def test_nodes_tell_each_other_and_ask_after_they_were_away(new_world: NewWorld, tmp_path: Path) -> None:
    one, other = new_world(), new_world()
    await other.live.refresh()
    grid = MemoryGrid(clock=one.clock)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = keeper(one, tmp_path / "a", grid, "r1"), keeper(other, tmp_path / "b", grid, "r2")
    await first.attach(one.release)
    await second.attach(other.release)
    await first.put([drama(f"new-{number}") for number in range(25)], one.release)
    async with hearing(first, second):
        await until(lambda: len(second.listed(other.release).items) == 25)
        await first.remove(["new-0"], one.release)
        await until(lambda: len(second.listed(other.release).items) == 24)
        # A word that is older than what is known comes late.
        late = Addition(name="new-0", item=drama("new-0").as_catalogued(created_s=0.0), added_at_ms=0, changed_at_ms=0)
        await second._tell([late])
        await second.put([drama("from-r2")], other.release)
        await until(lambda: len(first.listed(one.release).items) == 25)
    assert "new-0" not in {entry.item for entry in first.listed(one.release).items}
    await until_shown(other, "new-1", gone="new-0")


async def test_edges_are_told_once_which_lists_to_make_anew(world: World, tmp_path: Path) -> None:
    grid = MemoryGrid(clock=world.clock)
    additions = keeper(world, tmp_path, grid)
    await additions.attach(world.release)
    heard = grid.subscribe(INVALIDATION_TOPIC)
    assert await anext(heard) is None
    grid.available = False
    await additions.put([drama("new-1")], world.release)
    await additions.tidy()
    grid.available = True
    await additions.put([drama("new-2")], world.release)
    await additions.tidy()
    message = await anext(heard)
    assert message is not None
    assert msgspec.json.decode(message, type=Invalidation).purged == ("category:drama", "item:new-1", "item:new-2")


async def test_an_index_that_is_away_costs_neighbours_only(world: World, tmp_path: Path) -> None:
    await world.live.refresh()
    world.retrieval.error = TimeoutError()
    additions = keeper(world, tmp_path)
    await additions.attach(world.release)
    await additions.put([drama()], world.release)
    row = world.release.tables.row_of["new-1"]
    assert (world.release.tables.arrays.similar_rows[row] == -1).all()
    assert "new-1" in await shown(world, category="drama")


def addition(name: str, at_ms: int, *, removed: bool = False) -> Addition:
    item = None if removed else drama(name).as_catalogued(created_s=1.0)
    return Addition(name=name, item=item, added_at_ms=at_ms, changed_at_ms=at_ms)


def test_the_book_is_bounded_and_keeps_the_latest_word(tmp_path: Path) -> None:
    book = AdditionBook(tmp_path)
    book.take(addition(f"n{number}", 10) for number in range(ADDITIONS_MAX))
    with pytest.raises(TooManyAdditionsError):
        book.take([addition("one-more", 10)])
    assert book.take([addition("n1", 9, removed=True), addition("n2", 10, removed=True)])[0].name == "n2"
    book.take(addition(f"n{number}", 20 + number, removed=True) for number in range(ADDITIONS_MAX))
    book.take(addition(f"m{number}", 1000 + number, removed=True) for number in range(10))
    again = AdditionBook(tmp_path)
    assert len(again.entries) == REMOVALS_KEPT
    assert again.get("n9") is None
    assert again.get("m9") == book.get("m9")
    (tmp_path / ADDITIONS_FILE).write_bytes(b"{")
    with pytest.raises(SettingsError, match="added items"):
        AdditionBook(tmp_path)


@pytest.fixture
async def door(world: World, tmp_path: Path) -> AsyncIterator[Door]:
    built = Door(world, tmp_path)
    await built.additions.attach(world.release)
    async with built.client:
        yield built


GOOD = {"item": "new-1", "title": "New", "categories": ["drama"]}


async def test_the_door_adds_lists_removes_and_writes_the_audit(door: Door) -> None:
    status, answer = await door.post("add", {"items": [GOOD]})
    assert (status, answer["added"], answer["total"]) == (200, 1, 1)
    status, answer = await door.post("add", {"items": [GOOD]}, **{"Atoll-Service-Key": "service-key"})
    assert (status, answer["unchanged"]) == (200, 1)
    response = await door.client.get("/operator/v1/items", headers={"Atoll-Service-Key": "service-key"})
    assert [one["item"] for one in (await response.json())["items"]] == ["new-1"]
    status, answer = await door.post("remove", {"items": ["new-1"]})
    assert (status, answer["removed"], answer["total"]) == (200, 1, 0)
    entries = door.audit.latest(10)
    assert [(entry.operator, entry.action, entry.outcome) for entry in entries] == [
        ("operator", "add-items", "done"), ("service", "add-items", "done"), ("operator", "remove-items", "done"),
    ]  # fmt: skip
    assert entries[0].detail == "1 added, 0 renewed, 0 removed, 0 as before: new-1"


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"items": [{**GOOD, "categories": ["opera"]}]}, 400, "items[0] names a category that is not known"),
        ({"items": [{**GOOD, "categories": []}]}, 400, "items[0].categories"),
        ({"items": [{**GOOD, "item": "item-7"}]}, 409, "items[0] is an item of release"),
        ({"items": [GOOD, GOOD]}, 400, "named twice"),
        ({"items": []}, 400, "no item is named"),
        ({"items": [{**GOOD, "item": f"n{number}"} for number in range(ITEMS_PER_CALL_MAX + 1)]}, 400, "101 entries"),
        ({"items": [{**GOOD, "price": -1.0}]}, 400, "items[0].price"),
        ({"items": [{**GOOD, "year": -1}]}, 400, "items[0].year"),
        ({"items": [{**GOOD, "title": "x" * 301}]}, 400, "items[0].title"),
        ({"items": [{**GOOD, "item": "x\n"}]}, 400, "items[0].item"),
        ({"items": [{**GOOD, "attributes": {"": "x"}}]}, 400, "items[0].attributes"),
        ({"items": [{**GOOD, "attributes": {str(n): "" for n in range(40)}}]}, 400, "items[0].attributes"),
        ({"items": [{**GOOD, "colour": "red"}]}, 400, "items[0] holds a value that is not allowed"),
        ({}, 400, "missing"),
    ],
)
async def test_what_cannot_be_added_is_refused_with_its_place(
    door: Door, body: dict[str, Any], status: int, told: str
) -> None:
    found, answer = await door.post("add", body)
    assert found == status, answer
    assert told in answer["detail"]
    assert not door.additions.listed(door.world.release).items
    assert door.audit.latest(1)[0].outcome == "refused"


async def test_a_feed_is_added_at_the_terminal(door: Door, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys, feed = tmp_path / "keys.json", tmp_path / "new.csv"
    msgspec.structs.replace(RegionKeys.generate("us-east"), operator_key="operator-key").save(keys)
    feed.write_text("item_id,title,category\n" + "".join(f"n{n},New {n},drama\n" for n in range(150)))

    async def type_in(*words: str, code: int = 0) -> str:
        url = str(door.client.make_url("")).rstrip("/")
        full = ["region", "us-east", "items", *words, "--url", url, "--key-file", str(keys)]
        assert await asyncio.to_thread(main, full) == code
        said = capsys.readouterr()
        return said.out + said.err

    assert "(none)" in await type_in("list")
    assert "150 added, 0 renewed, 0 as before; 150 stand beside release" in await type_in("add", str(feed))
    assert "150 as before" in await type_in("add", str(feed))
    assert "1 removed, 1 were not there" in await type_in("remove", "n7", "nobody")
    listed = await type_in("list")
    assert "New 8" in listed
    assert "New 7 " not in listed
    feed.write_text("item_id,category\nn1,opera\n")
    refused = await type_in("add", str(feed), code=2)
    assert "items[0] names a category that is not known" in refused
    assert "action, comedy, drama" in refused


async def test_who_is_not_signed_in_adds_nothing(door: Door) -> None:
    assert (await door.post("add", {"items": [GOOD]}, X="y"))[0] == 401
    assert (await door.post("add", {"items": [GOOD]}, Authorization="Operator other"))[0] == 403
    assert (await door.post("remove", {"items": ["new-1"]}, **{"Atoll-Service-Key": "other"}))[0] == 401
    assert not door.audit.latest(10)
    assert (await door.post("remove", {"items": []}))[0] == 400


def test_files_of_items_are_read_and_refused_by_line(tmp_path: Path) -> None:
    csv, js = tmp_path / "items.csv", tmp_path / "items.json"
    csv.write_text("item_id,title,category,price,colour\nn1,One,drama|comedy,2.5,red\nn2,Two,drama,,\n")
    one = NewItem(item="n1", title="One", categories=("drama", "comedy"), price=2.5, attributes={"colour": "red"})
    two = NewItem(item="n2", title="Two", categories=("drama",))
    assert read_items(csv) == (one, two)
    js.write_bytes(msgspec.json.encode([one, two]))
    assert read_items(js) == (one, two)
    js.write_bytes(msgspec.json.encode(two))
    assert read_items(js) == (two,)
    for content, told in (("a,b\n1,2\n", "item_id"), ("item_id,price\nx,much\n", "line 2"), ('[{"item": 3}]', "item")):
        csv.write_text(content)
        with pytest.raises(InvalidInputError, match=told):
            read_items(csv)
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_items(tmp_path / "nowhere")


async def test_the_clock_going_back_does_not_lose_a_change(world: World, tmp_path: Path) -> None:
    AdditionBook(tmp_path).take([addition("new-1", world.clock.now_ms() + 60_000)])
    additions = keeper(world, tmp_path)
    await additions.attach(world.release)
    assert (await additions.put([drama(price=2.0)], world.release)).updated == 1
    assert world.release.tables.items[world.release.tables.row_of["new-1"]].price == 2.0


async def test_an_item_of_no_taste_gets_its_chance_until_it_was_shown_enough(world: World, tmp_path: Path) -> None:
    await world.live.refresh()
    additions = keeper(world, tmp_path)
    await additions.attach(world.release)
    tally = Tally()
    world.funnel._tally = lambda: tally

    async def pages_with(item: str) -> int:
        found = 0
        for number in range(60):
            slate = await world.funnel.run(world.call(personal(request_id=f"r{number}"), row_of(*DRAMAS)))
            found += item in [one.item for one in slate[:10]]
        return found

    before = await pages_with("new-1")
    await additions.put([NewItem(item="new-1", categories=("action",))], world.release)
    assert before == 0
    assert 12 <= await pages_with("new-1") <= 48
    tally = Tally({"new-1": (0.0, 10_000.0)})
    assert await pages_with("new-1") == 0
