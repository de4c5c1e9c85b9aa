"""Suggestions: what a prefix finds in any script, case or typo; never what may not be shown; built by the side."""

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from infra.contracts.discovery import NO_WORDS, SuggestAnswer, SuggestCall
from infra.contracts.features import DecayedValue
from infra.contracts.release import CatalogueItem
from infra.plumbing.text import folded, is_typed, word_starts
from region.api.suggesting import Suggester
from region.funnel.release import LoadedRelease
from region.funnel.seats import Placement
from region.store.port import pack_affinities
from region.suggest import terms
from region.suggest.building import build_index
from region.suggest.index import SuggestIndex
from region.suggest.keeping import SuggestKeeper
from region.suggest.terms import TermIndex, build_terms
from region.suggest.typos import Speller
from tests.unit.region.worlds import SUBJECT, World, bundle_at, row_of

WIDE = "".join(chr(ord(letter) + 0xFEE0) for letter in "Totoro")
TITLES = ("The Matrix", "Matrix Reloaded", "Amélie", WIDE, "トトロ の森", "千と千尋の神隠し", "Straße", "Up")


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("  The   MATRIX: Reloaded! ", "the matrix reloaded"), ("Amélie", "amelie"), ("Straße", "strasse"),
        (WIDE, "totoro"), ("トトロ", "ととろ"), ("ガギグ", "がぎぐ"), ("ÅNGSTRÖM", "angstrom"),
        ("", ""), ("!?", ""),
    ],
)  # fmt: skip
def test_text_is_folded_as_people_type_it(text: str, form: str) -> None:
    assert folded(text) == form


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("", True), ("進撃\u3000巨人", True), ("می\u200cشد", True), ("👨\u200d👩\u200d👧", True), ("\U0001fae8", True),
        ("a\xa0b", True), ("a\x00b", False), ("a\x7f", False), ("a\nb", False), ("a\u2028b", False), ("\udcff", False),
        ("cba\u202eabc", False),
    ],
)  # fmt: skip
def test_what_people_type_is_told_from_what_they_cannot(text: str, typed: bool) -> None:
    assert is_typed(text) is typed


@settings(deadline=None)
@given(st.text(max_size=60))
def test_folding_twice_changes_nothing(text: str) -> None:
    assert folded(folded(text)) == folded(text)


def titles_of(folder: Path, query: str) -> list[str]:
    return [TITLES[place] for place in TermIndex.load(folder).find(folded(query)).tolist()]


def test_a_word_of_any_script_is_found_by_its_beginning(tmp_path: Path) -> None:
    build_terms(TITLES, np.linspace(1.0, 0.1, len(TITLES)).astype(np.float32), tmp_path)
    assert titles_of(tmp_path, "mat") == ["The Matrix", "Matrix Reloaded"]
    assert titles_of(tmp_path, "THE m") == ["The Matrix"]
    assert titles_of(tmp_path, "ame") == titles_of(tmp_path, "AMÉ") == ["Amélie"]
    assert titles_of(tmp_path, "toto") == [WIDE]
    assert titles_of(tmp_path, "とと") == titles_of(tmp_path, "トト") == ["トトロ の森"]
    assert titles_of(tmp_path, "千と") == ["千と千尋の神隠し"]
    assert titles_of(tmp_path, "stras") == ["Straße"]
    assert titles_of(tmp_path, "atrix") == []
    assert titles_of(tmp_path, "")[:2] == ["The Matrix", "Matrix Reloaded"]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text("abc ", min_size=1, max_size=8), min_size=1, max_size=60), st.text("abc", max_size=4))
def test_ready_answers_and_looked_up_ones_are_what_a_scan_finds(texts: list[str], prefix: str) -> None:
    popularity = np.linspace(1.0, 0.0, len(texts)).astype(np.float32)
    before, terms.HEAVY = terms.HEAVY, 4
    try:
        with tempfile.TemporaryDirectory() as name:
            build_terms(texts, popularity, Path(name))
            found = TermIndex.load(Path(name)).find(prefix).tolist()
    finally:
        terms.HEAVY = before
    scanned = [
        place for place, text in enumerate(texts)
        if any(start and start.startswith(prefix) for start in word_starts(folded(text), limit=6))
    ]  # fmt: skip
    assert found == scanned[: terms.TOP]


def test_typos_are_held_against_known_words() -> None:
    speller = Speller(["matrix", "matter", "reloaded", "star", "wars"])
    assert speller.corrections("matirx")[0] == "matrix"
    assert speller.corrections("marix")[0] == "matrix"
    assert speller.corrections("star wras") == ["star wars"]
    assert speller.corrections("relaoded")[0] == "reloaded"
    assert speller.corrections("star war") == []  # known as far as it goes
    assert speller.corrections("zzzzzz") == []
    assert speller.corrections("x" * 100) == []


@contextmanager
def leased(release: LoadedRelease) -> Iterator[LoadedRelease]:
    yield release


@pytest.fixture
def index(world: World, tmp_path: Path) -> SuggestIndex:
    root, _ = bundle_at(tmp_path / "again", num_items=50)
    build_index(root, tmp_path / "suggest" / root.name)
    return SuggestIndex.load(tmp_path / "suggest" / root.name)


def suggester_of(world: World, index: SuggestIndex | None) -> Suggester:
    return Suggester(
        region="us-east", index=lambda: index, funnel=world.funnel, compute=world.compute, store=world.store,
        lease=lambda: leased(world.release), clock=world.clock, registry=CollectorRegistry(),
    )  # fmt: skip


def items_of(answer: SuggestAnswer) -> list[str]:
    return [one.item for one in answer.suggestions if one.kind == "item"]


async def test_items_and_names_are_suggested_and_nothing_withdrawn(world: World, index: SuggestIndex) -> None:
    suggester = suggester_of(world, index)
    answer = await suggester.answer(SuggestCall(q="title 1", n=20))
    assert items_of(answer)[:3] == ["item-1", "item-10", "item-11"]
    assert answer.meant == ""
    drama = await suggester.answer(SuggestCall(q="DRA"))
    assert [(one.kind, one.text) for one in drama.suggestions] == [("category", "drama")]
    world.withdrawals.change(withdrawn=("item-10",), restored=())
    again = await suggester.answer(SuggestCall(q="title 1", n=20))
    assert items_of(again)[:2] == ["item-1", "item-11"]
    corrected = await suggester.answer(SuggestCall(q="tilte 1", n=20))
    assert (corrected.meant, items_of(corrected)[:1]) == ("title 1", ["item-1"])
    assert (await suggester.answer(SuggestCall(q="nothing like it"))).suggestions == ()
    assert len((await suggester.answer(SuggestCall(q="", n=5))).suggestions) == 5
    for typed in ("\U0001f389", "\U0001fae8 !?"):
        wordless = await suggester.answer(SuggestCall(q=typed))
        assert (wordless.suggestions, wordless.degraded) == ((), (NO_WORDS,)), "not what is popular"
    assert items_of(await suggester.answer(SuggestCall(q="\U0001f389 title 1"))), "beside words it is passed over"


async def test_what_somebody_leans_to_comes_earlier(world: World, index: SuggestIndex) -> None:
    suggester = suggester_of(world, index)
    tables = world.release.tables
    plain = items_of(await suggester.answer(SuggestCall(q="title", n=20)))
    category = tables.items[tables.row_of[plain[5]]].categories[0]
    leaning = pack_affinities({"category": {category: DecayedValue(5.0, world.clock.now_ms())}})
    await world.store.write_rows([replace(row_of(), affinities_packed=leaning)])
    own = await suggester.answer(SuggestCall(q="title", n=20, subject=SUBJECT))
    assert own.personal
    assert items_of(own).index(plain[5]) < 5
    world.store.available = False
    assert items_of(await suggester.answer(SuggestCall(q="title", n=20, subject=SUBJECT))) == plain


async def test_what_came_after_the_release_is_suggested_too(world: World, index: SuggestIndex) -> None:
    seats, suggester = world.release.tables.seats, suggester_of(world, index)
    item = CatalogueItem(item="new-1", title="Zyx Novelty", categories=("drama",), brand="Zoe & Co")
    shares, nowhere = np.asarray([0, 0, 1], np.float32), np.zeros(0, np.int32)
    placement = Placement(
        item=item, vector=np.ones(8, np.float32), categories=shares, similar_rows=nowhere,
        similar_scores=np.zeros(0, np.float32), strength=0.5, first_seen_s=1e9,
    )  # fmt: skip
    assert items_of(await suggester.answer(SuggestCall(q="nove"))) == []
    seats.seat([placement, replace_item(placement, title="Title 1 again")], now_s=0.0)
    found = await suggester.answer(SuggestCall(q="NOVE"))
    assert (items_of(found), found.meant) == (["new-1"], "")
    assert [(one.kind, one.text) for one in (await suggester.answer(SuggestCall(q="zo"))).suggestions] == [
        ("brand", "Zoe & Co")
    ]
    assert items_of(await suggester.answer(SuggestCall(q="title 1", n=20)))[-1] == "new-2"
    seats.leave(["new-1"], now_s=1.0)
    assert items_of(await suggester.answer(SuggestCall(q="nove"))) == []


def replace_item(placement: Placement, *, title: str) -> Placement:
    return dataclasses.replace(placement, item=CatalogueItem(item="new-2", title=title, categories=("drama",)))


async def test_without_an_index_it_says_so(world: World) -> None:
    assert (await suggester_of(world, None).answer(SuggestCall(q="a"))).degraded == ("suggest",)


async def test_another_process_builds_it_and_a_restart_finds_it(world: World, tmp_path: Path) -> None:
    root, _ = bundle_at(tmp_path / "again", num_items=50)
    active: list[tuple[str, Path] | None] = [None]
    keeper = SuggestKeeper(
        tmp_path / "s", release=lambda: active[0], clock=world.clock, registry=CollectorRegistry()
    )  # fmt: skip
    await keeper.refresh()
    assert keeper.current is None
    active[0] = (root.name, root)
    await keeper.refresh()
    assert keeper.current is not None
    assert keeper.current.find("title 1").items[0][0] == "item-1"
    built = (tmp_path / "s" / root.name).stat().st_mtime_ns
    for name in ("older", "oldest"):
        (tmp_path / "s" / name).mkdir()
    again = SuggestKeeper(tmp_path / "s", release=lambda: active[0], clock=world.clock, registry=CollectorRegistry())
    await again.refresh()
    assert (tmp_path / "s" / root.name).stat().st_mtime_ns == built
    assert len(list((tmp_path / "s").iterdir())) == 2
