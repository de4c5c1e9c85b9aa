"""What the region's hard rules keep out is not shown by lists that these rules have not seen, and only by those."""

import asyncio
from pathlib import Path

from edge.cache.kept_out import KeptOut
from infra.contracts.kept_out import KEPT_OUT_ITEMS_MAX, ItemsKeptOut
from infra.contracts.messages import Invalidation, Surface
from tests.unit.edge.conftest import World
from tests.unit.edge.test_api import has_lists, tell
from tests.unit.edge.test_purges import shown, until


async def test_lists_of_another_region_and_of_the_release_obey_the_rules_of_home(world: World) -> None:
    """Told while the region stood; kept over a restart in the dark."""
    directory = str(world.directory / "same")
    world.home.kept_out = (
        ItemsKeptOut(items=("popular-1", "away-1", "r-1", "r-51")),
        ItemsKeptOut(surfaces=("cart",), items=("away-2",)),
    )  # fmt: skip
    client = await world.edge(state_directory=directory)
    await has_lists(world, client)
    assert "popular-1" in await shown(client), "the region knows its own rules: a `when` may not hold here"
    world.kill("home", "replica")
    assert "popular-1" in await shown(client), "made under the rules of now, and still fresh"
    elsewhere = await world.edge(state_directory=directory)
    away = await shown(elsewhere, "trending?n=7")
    assert away[:2] == ["away-0", "away-2"]
    assert len(away) == 7
    assert (await shown(elsewhere, "trending?n=7&surface=cart"))[:2] == ["away-0", "away-3"]
    world.kill("near", "far")
    dark = await world.edge(state_directory=directory)
    await has_lists(world, dark)
    items = await shown(dark, "popular?n=4&category=drama")
    assert items == ["r-50", "r-52", "r-53", "r-54"]
    suggested = await (await dark.get("/v1/suggest", params={"q": "", "n": 20})).json()
    assert "r-1" not in [one["item"] for one in suggested["suggestions"]]
    assert (Path(directory) / "kept-out.json").exists()


async def test_lists_from_before_the_rules_obey_them_while_the_region_is_away(world: World) -> None:
    client = await world.edge(notices_poll_s=3600.0)
    await has_lists(world, client)
    assert "popular-0" in await shown(client)
    world.home.kept_out = (ItemsKeptOut(items=("popular-0",)),)
    await tell(world, Invalidation(rules="next"))
    read = world.home.notices_read
    await tell(world, Invalidation(kept_out="digest"))  # the edge asks at once, however long it would wait
    await until(lambda: world.home.notices_read > read)
    world.kill("home", "replica", "near", "far")

    async with asyncio.timeout(10):
        while "popular-0" in await shown(client):
            pass


def test_what_is_kept_out_is_by_surface_and_bounded() -> None:
    kept = KeptOut()
    groups = (ItemsKeptOut(items=("a",)), ItemsKeptOut(surfaces=("cart", "feed"), items=("b",)))
    assert kept.replace(groups)
    assert not kept.replace(reversed(groups)), "that is no news"
    assert kept.on(Surface.HOME) == frozenset({"a"})
    assert kept.on(Surface.CART) == frozenset({"a", "b"})
    assert kept.replace([ItemsKeptOut(items=tuple(f"item-{number}" for number in range(KEPT_OUT_ITEMS_MAX + 1)))])
    assert len(kept.on(Surface.HOME)) == KEPT_OUT_ITEMS_MAX
    assert kept.replace(())
    assert kept.on(Surface.CART) == frozenset()
