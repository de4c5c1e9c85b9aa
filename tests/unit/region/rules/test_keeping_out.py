"""What hard rules keep out, item by item, as edges are told it."""

import pytest

from infra.contracts.kept_out import ItemsKeptOut, kept_out_digest
from infra.contracts.messages import Invalidation
from region.funnel import keeping_out
from region.funnel.keeping_out import KeptOutItems
from region.funnel.ruling import Rulings
from region.publishing.book import edition_of
from tests.unit.region.worlds import World

RULES = """
format: 1
region: us-east
hard:
  - {id: no-drama, because: content-policy, match: '"drama" in item.categories'}
  - {id: recalled, because: legal, items: [item-3, sold-nowhere], when: 'request.country == "DE"'}
  - {id: mail, because: other, surfaces: [email, cart], items: [item-4]}
  - {id: past, because: legal, items: [item-5], until_date: 2001-01-01}
  - {id: broken, because: legal, match: 'item.price / 0.0 > 1.0 || item.brand[7] == ""', surfaces: [feed]}
"""


class Kept:
    def __init__(self, world: World) -> None:
        self.world = world
        self.told = list[Invalidation]()
        rulings = Rulings(world.book, on_error=lambda _: None)
        self.items = KeptOutItems(rulings=rulings, lease=world.recommender._lease, tell=self._tell, clock=world.clock)

    async def _tell(self, message: Invalidation) -> bool:
        self.told.append(message)
        return True

    def publish(self, document: str) -> None:
        self.world.book.publish(document, operator="ada", edition=edition_of(document), clock=self.world.clock)


def groups_of(kept: Kept) -> dict[tuple[str, ...], tuple[str, ...]]:
    assert kept.items.groups is not None
    return {group.surfaces: group.items for group in kept.items.groups}


@pytest.fixture
def kept(world: World) -> Kept:
    return Kept(world)


async def test_rules_become_items_once_and_edges_are_told_of_a_difference(kept: Kept, world: World) -> None:
    assert kept.items.groups is None, "nobody is told before anything was judged"
    await kept.items.refresh()
    assert groups_of(kept) == {}
    kept.publish(RULES)
    await kept.items.refresh()
    groups = groups_of(kept)
    tables = world.release.tables
    drama = {one.item for one in tables.items if "drama" in one.categories}
    assert drama
    assert set(groups[()]) == drama | {"item-3", "sold-nowhere"}, "a `when` holds for everybody there"
    assert groups["cart", "email"] == ("item-4",)
    assert "feed" in {surface for surfaces in groups for surface in surfaces}, "what cannot be judged is not shown"
    assert all("item-5" not in items or surfaces != () or "item-5" in drama for surfaces, items in groups.items())
    told = len(kept.told)
    assert kept.told[-1].kept_out == kept_out_digest(kept.items.groups or ())
    await kept.items.refresh()
    assert len(kept.told) == told
    kept.publish("{format: 1, region: us-east}")
    await kept.items.refresh()
    assert groups_of(kept) == {}
    assert kept.told[-1].kept_out == kept_out_digest(())


async def test_the_rest_of_the_catalogue_is_looked_through_bit_by_bit_and_nothing_is_let_go_of_meanwhile(
    kept: Kept, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping_out, "FAVOURITES_MAX", 2)
    monkeypatch.setattr(keeping_out, "CHUNK", 4)
    monkeypatch.setattr(keeping_out, "WALK_S", 0.0)
    monkeypatch.setattr(keeping_out, "looked_at", lambda release: release.standing.popular[:2])
    tables = world.release.tables
    drama = {one.item for one in tables.items if "drama" in one.categories}
    kept.publish(RULES.replace('"drama" in item.categories', 'item.id == "item-7"'))
    while not kept.items.is_whole:
        await kept.items.refresh()
    assert "item-7" in groups_of(kept)[()]
    kept.publish(RULES)
    await kept.items.refresh()
    assert not kept.items.is_whole
    assert "item-7" in groups_of(kept)[()], "what was kept out before stays out until everything was looked at"
    calls = 0
    while not kept.items.is_whole:
        await kept.items.refresh()
        calls += 1
    assert calls >= tables.shape.num_items // 4 - 1
    assert set(groups_of(kept)[()]) == drama | {"item-3", "sold-nowhere"}
    assert kept.told[-1].kept_out == kept_out_digest(kept.items.groups or ())


async def test_what_edges_are_told_is_bounded_and_what_is_left_out_is_written_down(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeping_out, "TOLD_BYTES_MAX", 60)
    kept.publish(RULES)
    await kept.items.refresh()
    assert sum(len(item) for items in groups_of(kept).values() for item in items) <= 60
    assert {"item-3", "sold-nowhere"} <= set(groups_of(kept)[()]), "what rules name comes first"
    assert "may be shown while this region is away" in caplog.text


async def test_without_a_release_what_held_goes_on(kept: Kept, world: World) -> None:
    kept.publish("{format: 1, region: us-east, hard: [{id: one, because: legal, items: [item-3]}]}")
    await kept.items.refresh()
    world.active[:] = [None]
    kept.publish("{format: 1, region: us-east}")
    await kept.items.refresh()
    assert kept.items.groups == (ItemsKeptOut(items=("item-3",)),)
