"""Candidates that somebody chose, with reasons in every language: follows, editorial lists; beginners and context."""

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from infra.contracts.events import followed
from infra.contracts.messages import Context, ReasonCode, RecommendationType, Source, Surface
from infra.contracts.reasons import languages
from infra.plumbing.clock import ManualClock
from region.funnel.chosen import followed_by, of_followed
from region.funnel.contexts import FILE, ContextTastes, circumstances
from region.rules.reading import RuleFileError, read_rules
from tests.unit.region.conftest import NewWorld
from tests.unit.region.worlds import World, personal, row_of

RULES = """
format: 1
region: us-east
editorial:
  - {id: evenings, title: Evenings, titles: {de: Abende, ja: 夜}, surfaces: [home], items: [item-30, nowhere, item-41]}
  - {id: gone, title: Gone, until_date: 2001-01-01, items: [item-2]}
"""


def test_what_can_be_followed_is_written_as_kind_and_name() -> None:
    assert followed("brand:acme: the best") == ("brand", "acme: the best")
    assert [followed(text) for text in ("acme", "item:1", "brand:", "")] == [None] * 4


async def test_somebody_new_who_follows_a_category_is_shown_it_and_told_why(world: World) -> None:
    row = replace(row_of(), follows=("creator:nobody", "category:drama"))
    call = world.call(personal(n=10, explain=True), row)
    slate = await world.funnel.run(call)
    assert call.recorder.degraded == ["trending"]  # nobody has read live counts yet
    followed_items = [item for item in slate[:10] if item.source is Source.FOLLOWS]
    assert len(followed_items) >= 4
    assert {item.reason.text for item in followed_items} == {"Because you follow drama"}
    tables = world.release.tables
    assert all("drama" in tables.items[tables.row_of[item.item]].categories for item in followed_items)
    plain = await world.funnel.run(world.call(personal(n=10), row_of()))
    assert Source.FOLLOWS not in {item.source for item in plain}


async def test_what_a_beginner_follows_weighs_until_there_is_a_history(world: World) -> None:
    tables = world.release.tables

    async def share(count: int, *follows: str) -> float:
        row = replace(row_of(*(f"item-{3 * number}" for number in range(count))), follows=follows)
        slate = await world.funnel.run(world.call(personal(n=9), row))
        return sum("drama" in tables.items[tables.row_of[item.item]].categories for item in slate[:9]) / 9

    beginner, plain = await share(2, "category:drama"), await share(2)
    assert beginner > plain
    assert beginner - plain >= await share(12, "category:drama") - await share(12)


def test_follows_come_in_turn_the_latest_first(world: World) -> None:
    tables = world.release.tables
    found = of_followed(tables, ("category:drama", "category:comedy"), limit=4)
    names = [tables.items[row].categories[0] for row in found.rows.tolist()]
    assert names == ["comedy", "drama", "comedy", "drama"]
    assert followed_by(tables, int(found.rows[0]), ("category:drama", "category:comedy")) == "comedy"
    assert followed_by(tables, int(found.rows[0]), ("brand:x",)) == ""
    assert of_followed(tables, ("brand:unknown",), limit=4).rows.size == 0


async def test_editors_lists_come_from_the_rules_and_name_themselves(new_world: NewWorld) -> None:
    world = new_world(rules=read_rules(RULES))
    texts = {}
    for language in languages():
        request = personal(n=30, context=Context(locale=language))
        slate = await world.funnel.run(world.call(request, row_of()))
        edited = [item for item in slate if item.source is Source.EDITORIAL]
        assert {item.item for item in edited} == {"item-30", "item-41"}
        assert {item.reason.code for item in edited} == {ReasonCode.EDITORIAL}
        texts[language] = edited[0].reason.text
    assert texts == {
        "en": "From our editors: Evenings", "es": "De nuestra redacción: Evenings",
        "de": "Aus unserer Redaktion: Abende", "ja": "編集部のおすすめ: 夜",
    }  # fmt: skip
    elsewhere = await world.funnel.run(world.call(personal(n=30, surface=Surface.CART), row_of()))
    assert Source.EDITORIAL not in {item.source for item in elsewhere}


async def test_hard_rules_hold_for_what_was_chosen(new_world: NewWorld) -> None:
    rules = RULES + "hard: [{id: kept-out, items: [item-30]}]\n"
    world = new_world(rules=read_rules(rules))
    world.withdrawals.change(withdrawn=("item-41",), restored=())
    slate = await world.funnel.run(world.call(personal(n=50), replace(row_of(), follows=("category:drama",))))
    assert not {"item-30", "item-41"} & {item.item for item in slate}


def test_a_list_without_items_is_refused() -> None:
    with pytest.raises(RuleFileError, match="line 5"):
        read_rules("format: 1\nregion: x\neditorial:\n  - id: a\n    items: []\n    title: t\n")


def taught(directory: Path) -> ContextTastes:
    tastes = ContextTastes(directory, clock=ManualClock())
    for number in range(400):
        evening = number % 2 == 0
        subject = f"{number:032x}"
        tastes.note_call(subject, Context(device="tv" if evening else "phone", local_hour=21 if evening else 9))
        tastes.note_taken(subject, ("drama",) if evening else ("comedy",))
    return tastes


def test_circumstances_are_what_is_known_of_a_call() -> None:
    assert circumstances(Context(locale="de-AT", local_hour=23, device="tv", country="AT")) == (
        "hour:5", "device:tv", "language:de", "country:AT"
    )  # fmt: skip
    assert circumstances(Context()) == ("language:en",)


async def test_somebody_unknown_is_shown_what_is_liked_in_their_circumstances(world: World, tmp_path: Path) -> None:
    tastes = taught(tmp_path)
    lifts = tastes.lifts(Context(device="tv", local_hour=21))
    assert lifts["drama"] > 1.5
    assert lifts["comedy"] < 0.7
    world.funnel._lifts = tastes.lifts
    tables = world.release.tables

    async def dramas(context: Context) -> int:
        request = personal(n=12, context=context, type=RecommendationType.SESSION)
        slate = await world.funnel.run(world.call(request, row_of()))
        assert any(item.reason.code is ReasonCode.POPULAR_IN_CONTEXT for item in slate)
        return sum("drama" in tables.items[tables.row_of[item.item]].categories for item in slate[:12])

    tv, phone = Context(device="tv", local_hour=21), Context(device="phone", local_hour=9)
    assert await dramas(tv) > await dramas(phone)


async def test_tastes_are_sums_without_subjects_that_outlive_the_process(tmp_path: Path) -> None:
    tastes = taught(tmp_path)
    await tastes.keep()
    assert f"{7:032x}" not in (tmp_path / FILE).read_text()
    again = ContextTastes(tmp_path, clock=ManualClock())
    assert again.lifts(Context(device="tv")) == tastes.lifts(Context(device="tv"))
    assert tastes.count_of(f"{7:032x}") == 1
    tastes.forget(f"{7:032x}")
    assert tastes.count_of(f"{7:032x}") == 0
    tastes.note_taken(f"{7:032x}", ("horror",))  # nobody knows in which circumstances
    assert "horror" not in tastes.lifts(Context(device="tv"))
    (tmp_path / FILE).write_text("{")
    assert ContextTastes(tmp_path, clock=ManualClock()).lifts(Context(device="tv")) == {}


def test_the_row_carries_what_is_followed_to_whoever_exports_it() -> None:
    assert msgspec.json.decode(msgspec.json.encode(replace(row_of(), follows=("brand:a",))))["follows"] == ["brand:a"]
