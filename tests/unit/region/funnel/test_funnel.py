"""The funnel: which plan, what each missing part costs, and that there is always a full slate."""

from collections.abc import Callable

import msgspec
import pytest

from infra.contracts.events import Event, EventType, LoggedEvent
from infra.contracts.messages import Context, HomeRequest, ReasonCode, RecommendationType, Source
from infra.plumbing.errors import InvalidInputError, OverloadedError, UnavailableError
from region.funnel.plans import COLD_PLAN, PERSONAL_PLAN, POPULAR_PLAN, SIMILAR_PLAN, TRENDING_PLAN, slots_for
from region.funnel.understanding import choose_plan
from region.rules.reading import read_rules
from region.store.port import OffsetEvent
from tests.unit.region.worlds import World, personal, row_of

WARM = row_of("item-3", "item-7", "item-12")


async def test_a_known_person_gets_a_full_personal_slate_without_what_they_had(world: World) -> None:
    await world.live.refresh()
    call = world.call(personal(n=10), WARM)
    slate = await world.funnel.run(call)
    assert len(slate) == slots_for(10) == 30
    assert len({item.item for item in slate}) == 30
    assert not {"item-3", "item-7", "item-12"} & {item.item for item in slate}
    assert call.recorder.degraded == []
    assert {Source.ANN, Source.SIMILAR_TO_RECENT} <= {item.source for item in slate}
    assert [stage.stage for stage in call.recorder.stages][-1] == "slate"
    assert {"query", "user-tower", "ann", "merge", "filters", "l1", "ranker", "re-ranking"} <= {
        stage.stage for stage in call.recorder.stages
    }
    assert slate[0].title.startswith("Title ")


async def test_reasons_name_what_they_are_about(world: World) -> None:
    slate = await world.funnel.run(world.call(personal(), WARM))
    because = [item.reason for item in slate if item.reason.code is ReasonCode.BECAUSE_RECENT]
    assert because
    assert any(item.reason.code is ReasonCode.FOR_YOU for item in slate)
    titles = {"Title 3", "Title 7", "Title 12"}
    assert all(reason.text.removeprefix("Because of ") in titles for reason in because)


async def test_nobody_in_particular_gets_trends_and_favourites(world: World) -> None:
    slate = await world.funnel.run(world.call(personal(subject=None)))
    assert {item.source for item in slate} == {Source.TRENDING, Source.POPULAR}
    assert len(slate) == 30


async def test_an_opted_out_person_gets_favourites_that_know_nothing_of_them(world: World) -> None:
    slate = await world.funnel.run(world.call(personal(n=50), row_of("item-0", "item-1", opted_out=True)))
    assert {item.source for item in slate} == {Source.POPULAR}
    assert {"item-0", "item-1"} <= {item.item for item in slate}


async def test_a_session_is_read_from_what_the_visitor_brought(world: World) -> None:
    request = HomeRequest(type=RecommendationType.SESSION, recent=("item-4", "item-9", "nowhere"))
    call = world.call(request)
    slate = await world.funnel.run(call)
    assert Source.ANN in {item.source for item in slate}
    assert not {"item-4", "item-9"} & {item.item for item in slate}
    query = next(stage for stage in call.recorder.stages if stage.stage == "query")
    assert (query.candidates_in, query.candidates_out) == (3, 2)


async def test_similar_items_leave_the_anchor_out_and_name_it(world: World) -> None:
    request = HomeRequest(type=RecommendationType.SIMILAR, item="item-5", n=5)
    slate = await world.funnel.run(world.call(request))
    neighbours = world.release.tables.arrays.similar_rows[5].tolist()
    assert [item.item for item in slate[:5]] == [f"item-{row}" for row in neighbours]
    assert "item-5" not in {item.item for item in slate}
    assert slate[0].reason.text == "Similar to Title 5"
    assert len(slate) == slots_for(5)


async def test_an_unknown_item_is_answered_with_favourites_and_a_note(world: World) -> None:
    call = world.call(HomeRequest(type=RecommendationType.SIMILAR, item="nowhere"))
    slate = await world.funnel.run(call)
    assert {item.source for item in slate} == {Source.POPULAR}
    assert call.recorder.degraded == ["unknown-item"]


async def test_a_category_holds_for_every_item_and_its_reason_names_it(world: World) -> None:
    tables = world.release.tables
    for kind in RecommendationType:
        request = HomeRequest(type=kind, category="drama", n=3, item="item-5", subject=None)
        call = world.call(request, WARM)
        slate = await world.funnel.run(call)
        wanted = {tables.items[row].item for row in tables.category_rows["drama"]}
        assert slate
        assert {item.item for item in slate} <= wanted
        popular = [item for item in slate if item.source is Source.POPULAR]
        assert all(item.reason.text == "Popular in drama" for item in popular)


async def test_an_unknown_category_is_dropped_with_a_note(world: World) -> None:
    call = world.call(HomeRequest(type=RecommendationType.POPULAR, category="westerns"))
    assert len(await world.funnel.run(call)) == 30
    assert call.recorder.degraded == ["unknown-category"]


async def test_live_counts_move_the_trend(world: World) -> None:
    now_ms = world.clock.now_ms()
    events = [
        OffsetEvent(
            offset=index + 1,
            logged=LoggedEvent(
                subject=f"{index:032x}",
                event=Event(event_id=f"event-{index:04}", type=EventType.LIKE, item="item-49", at_ms=now_ms),
                received_ms=now_ms,
            ),
        )
        for index in range(300)
    ]
    request = HomeRequest(type=RecommendationType.TRENDING)
    await world.live.refresh()
    before = await world.funnel.run(world.call(request))
    await world.store.apply(events)
    await world.live.refresh()
    after = await world.funnel.run(world.call(request))
    places = [[item.item for item in slate].index("item-49") for slate in (before, after) if "item-49" in str(slate)]
    assert places[-1] < 5
    assert before != after
    world.clock.advance(61)
    stale = world.call(request)
    assert await world.funnel.run(stale) == before
    assert stale.recorder.degraded == ["trending"]


@pytest.mark.parametrize("error", [UnavailableError("gone"), TimeoutError(), RuntimeError("broken")])
async def test_without_the_index_similar_and_trending_items_remain(world: World, error: Exception) -> None:
    await world.live.refresh()
    world.retrieval.error = error
    call = world.call(personal(), WARM)
    slate = await world.funnel.run(call)
    assert len(slate) == 30
    assert call.recorder.degraded == ["ann"]
    assert Source.ANN not in {item.source for item in slate}
    skipped = {stage.stage: stage.skipped for stage in call.recorder.stages if stage.skipped}
    assert set(skipped) == {"ann"}


async def test_without_the_ranker_the_light_order_stands(world: World) -> None:
    await world.live.refresh()
    world.towers.ranker_error = RuntimeError("broken")
    call = world.call(personal(), WARM)
    assert len(await world.funnel.run(call)) == 30
    assert call.recorder.degraded == ["ranker"]


async def test_without_the_user_tower_neighbours_of_the_history_remain(world: World) -> None:
    await world.live.refresh()
    world.towers.user_error = RuntimeError("broken")
    call = world.call(personal(), WARM)
    slate = await world.funnel.run(call)
    assert len(slate) == 30
    assert Source.SIMILAR_TO_RECENT in {item.source for item in slate}
    assert call.recorder.degraded == ["user-tower"]
    assert world.retrieval.asked == 0


async def test_models_that_speak_nonsense_are_left_out(world: World) -> None:
    await world.live.refresh()
    world.towers.spoiled = True
    call = world.call(personal(), WARM)
    assert len(await world.funnel.run(call)) == 30
    assert call.recorder.degraded == ["user-tower"]
    vector = (0.5,) * world.release.tables.shape.dim
    own = world.call(personal(vector=vector, vector_release=world.release.release_id), WARM)
    assert len(await world.funnel.run(own)) == 30
    assert own.recorder.degraded == ["ranker"]


async def test_late_calls_skip_the_heavy_stages_and_say_so(world: World) -> None:
    await world.live.refresh()
    call = world.call(personal(), WARM, budget_s=0.1)
    world.clock.advance(0.09)
    slate = await world.funnel.run(call)
    assert len(slate) == 30
    assert call.recorder.degraded == ["user-tower"]
    own = personal(vector=(0.1,) * 8, vector_release=world.release.release_id)
    call = world.call(own, WARM, budget_s=0.1)
    world.clock.advance(0.09)
    assert len(await world.funnel.run(call)) == 30
    assert call.recorder.degraded == ["ann", "ranker"]


async def test_a_broken_table_source_is_left_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.live.refresh()
    monkeypatch.setattr("region.funnel.sources.popular", None)
    call = world.call(personal(subject=None))
    assert len(await world.funnel.run(call)) == 30
    assert call.recorder.degraded == ["popular"]


async def test_the_callers_own_vector_takes_the_towers_place(world: World) -> None:
    await world.live.refresh()
    vector = tuple(float(number) for number in world.release.tables.arrays.vectors[17])
    request = personal(vector=vector, vector_release=world.release.release_id)
    call = world.call(request, WARM)
    slate = await world.funnel.run(call)
    assert world.towers.ranked > 0
    assert call.recorder.degraded == []
    assert Source.ANN in {item.source for item in slate}
    assert "user-tower" not in {stage.stage for stage in call.recorder.stages}


async def test_a_vector_without_a_history_ranks_by_itself(world: World) -> None:
    """Another region's user, with what the phone computed: the ranker learned from histories and is not asked."""
    await world.live.refresh()
    vector = tuple(float(number) for number in world.release.tables.arrays.vectors[17])
    call = world.call(personal(vector=vector, vector_release=world.release.release_id, subject=None, explain=True))
    slate = await world.funnel.run(call)
    assert world.towers.ranked == 0
    assert call.recorder.degraded == []
    near = [item.stages["vector"] for item in slate if "vector" in item.stages]
    assert near[0] == max(near)


async def test_a_vector_of_another_release_is_ignored_with_a_note(world: World) -> None:
    call = world.call(personal(vector=(1.0,), vector_release="f" * 20), WARM)
    assert len(await world.funnel.run(call)) == 30
    assert "vector-release" in call.recorder.degraded
    assert "user-tower" in {stage.stage for stage in call.recorder.stages}


async def test_a_vector_of_the_wrong_length_is_refused(world: World) -> None:
    with pytest.raises(InvalidInputError, match="have 8"):
        await world.funnel.run(world.call(personal(vector=(1.0,), vector_release=world.release.release_id)))


async def test_withdrawn_items_never_come_back_whatever_gives_way(world: World) -> None:
    world.withdrawals.change(withdrawn=("item-1", "item-2"), restored=())
    everything = tuple(item.item for item in world.release.tables.items)
    call = world.call(personal(exclude=everything, category="drama"), WARM)
    slate = await world.funnel.run(call)
    assert slate
    assert "filters-relaxed" in call.recorder.degraded
    assert not {"item-1", "item-2"} & {item.item for item in slate}
    world.withdrawals.change(withdrawn=(), restored=("item-1",))
    slate = await world.funnel.run(world.call(HomeRequest(type=RecommendationType.POPULAR)))
    assert "item-1" in {item.item for item in slate}


async def test_an_exhausted_category_is_filled_from_elsewhere(world: World) -> None:
    dramas = tuple(world.release.tables.items[row].item for row in world.release.tables.category_rows["drama"])
    call = world.call(personal(category="drama"), row_of(*dramas))
    slate = await world.funnel.run(call)
    assert slate
    assert not set(dramas) & {item.item for item in slate}
    assert "filters-relaxed" in call.recorder.degraded


OWN_RULES = """
format: 1
region: us-east
slate: {diversity: {strength: 0.0}, category_share_max: 0.4}
hard: [{id: not-twenty, because: legal, items: [item-20]}]
"""


async def test_the_regions_own_rules_stand_over_the_releases(new_world: Callable[..., World]) -> None:
    world = new_world(rules=read_rules(OWN_RULES))
    slate = await world.funnel.run(world.call(personal(n=10), WARM))
    categories = [world.release.tables.items[world.release.tables.row_of[item.item]].categories[0] for item in slate]
    assert max(categories[:10].count(name) for name in set(categories)) <= 4
    assert "item-20" not in {item.item for item in slate}


async def test_a_full_queue_refuses_before_it_computes(new_world: Callable[..., World]) -> None:
    world = new_world(pending_max=0)
    with pytest.raises(OverloadedError):
        await world.funnel.run(world.call(personal(), WARM))


def test_plans_by_type() -> None:
    def plan(kind: RecommendationType, *, opted_out: bool = False, warm: bool = True, anchored: bool = True) -> object:
        return choose_plan(kind, opted_out=opted_out, warm=warm, anchored=anchored)

    assert plan(RecommendationType.PERSONAL) is PERSONAL_PLAN
    assert plan(RecommendationType.SESSION, warm=False) is COLD_PLAN
    assert plan(RecommendationType.PERSONAL, opted_out=True) is POPULAR_PLAN
    assert plan(RecommendationType.SIMILAR) is SIMILAR_PLAN
    assert plan(RecommendationType.SIMILAR, anchored=False) is POPULAR_PLAN
    assert plan(RecommendationType.TRENDING) is TRENDING_PLAN
    assert plan(RecommendationType.POPULAR) is POPULAR_PLAN


async def test_the_same_call_gives_the_same_slate(world: World) -> None:
    first = await world.funnel.run(world.call(personal(), WARM))
    second = await world.funnel.run(world.call(personal(), WARM))
    assert msgspec.json.encode(first) == msgspec.json.encode(second)


async def test_items_taken_together_name_the_item_in_the_callers_language(world: World) -> None:
    request = HomeRequest(type=RecommendationType.TOGETHER, item="item-5", n=3, context=Context(locale="de-CH"))
    slate = await world.funnel.run(world.call(request))
    neighbours = world.release.tables.arrays.soon.rows[5]
    expected = [f"item-{row}" for row in neighbours[neighbours >= 0].tolist() if row != 5]
    assert expected
    assert [item.item for item in slate[: len(expected)]] == expected
    assert slate[0].source is Source.TOGETHER
    assert slate[0].reason.text == "Oft zusammen mit Title 5"
    assert len(slate) == slots_for(3)


async def test_who_asks_to_explain_sees_every_stages_score(world: World) -> None:
    await world.live.refresh()
    slate = await world.funnel.run(world.call(personal(explain=True), WARM))
    ranked = [item for item in slate if item.stages]
    assert ranked
    assert set(ranked[0].stages) == {"fused", "l1", "ranker"}
    assert ranked[0].stages["ranker"] == pytest.approx(ranked[0].score, abs=1e-5)
    assert not any(item.stages for item in await world.funnel.run(world.call(personal(), WARM)))


async def test_items_that_the_caller_names_are_ranked_seen_ones_too(world: World) -> None:
    among = ("item-7", "item-3", "unknown", "item-0")
    call = world.call(personal(among=among), row_of("item-0", "item-9"))
    items = [item.item for item in await world.funnel.run(call)]
    assert sorted(items) == ["item-0", "item-3", "item-7"]
    vector = world.release.tables.arrays.vectors[[0, 9]].mean(axis=0)
    scores = {f"item-{row}": float(world.release.tables.arrays.vectors[row] @ vector) for row in (0, 3, 7)}
    assert items == sorted(scores, key=lambda item: -scores[item])


NEW_ITEMS_RULES = """
format: 1
region: us-east
slate: {mix: {ann: 1.0, new: 1.0}}
floors: [{id: new-items, match: 'item.id == "item-44" || item.id == "item-45"', share_min: 0.2}]
quotas: [{id: few-new, match: 'item.id == "item-44" || item.id == "item-45"', count_max: 2}]
"""


async def test_new_items_come_by_a_source_and_their_place_is_guaranteed_and_bounded(
    new_world: Callable[..., World],
) -> None:
    world = new_world(rules=read_rules(NEW_ITEMS_RULES))
    slate = await world.funnel.run(world.call(personal(n=10), WARM))
    assert [item.item in ("item-44", "item-45") for item in slate[:10]].count(True) == 2
    fresh = [item for item in slate if item.source is Source.NEW]
    assert fresh
    assert {item.reason.code for item in fresh} <= {ReasonCode.NEW_ITEM, ReasonCode.BECAUSE_RECENT}
