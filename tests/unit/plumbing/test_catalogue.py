"""A catalogue in columns says what its items said, finds them by name, and is refused when its files do not fit."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from infra.contracts.release import CATALOGUE_FILES, CatalogueItem
from infra.plumbing.catalogue import columns, writing
from infra.plumbing.catalogue.columns import value_key
from infra.plumbing.catalogue.reading import Catalogue, CatalogueError, check_catalogue, open_catalogue
from infra.plumbing.catalogue.writing import (
    MAKER_ROWS_MAX,
    CatalogueContentError,
    attribute_values,
    catalogue_arrays,
    write_catalogue,
)
from infra.plumbing.deltas import apply_delta, make_delta

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
names = st.text("abc|:é", max_size=3)
numbers = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))
items_of = st.lists(
    st.builds(
        CatalogueItem,
        item=texts, title=texts, categories=st.lists(names.filter(bool), max_size=3, unique=True).map(tuple),
        year=st.one_of(st.none(), st.integers(1, 2100)), interactions=st.integers(0, 2**40), brand=names, creator=names,
        price=numbers, created_s=numbers, attributes=st.dictionaries(names, names, max_size=2),
    ),
    max_size=12, unique_by=lambda one: one.item,
)  # fmt: skip


@settings(deadline=None)
@given(items_of, st.integers(0, 2**32 - 1))
def test_what_was_written_is_read(items: list[CatalogueItem], seed: int) -> None:
    popularity = np.random.default_rng(seed).random(len(items)).astype(np.float32)
    arrays = catalogue_arrays(items, popularity)
    assert sorted(arrays) == sorted(CATALOGUE_FILES)
    catalogue = Catalogue(arrays.__getitem__)
    check_catalogue(catalogue, arrays.__getitem__)
    assert list(catalogue) == items
    assert catalogue[:2] == tuple(items[:2])
    assert [catalogue.ids.find(one.item) for one in items] == list(range(len(items)))
    assert catalogue.ids.find("nobody\0") == catalogue.ids.find("\ud800") == -1
    order = np.argsort(-popularity, kind="stable").tolist()
    assert catalogue.by_popularity.tolist() == order
    wanted: dict[str, list[int]] = {}
    for row in order:
        for name in items[row].categories:
            wanted.setdefault(name, []).append(row)
    assert {name: rows.tolist() for name, rows in catalogue.categories.items()} == wanted
    rows = np.asarray(order, dtype=np.int32)
    for name in (*wanted, "unknown"):
        assert catalogue.are_of(rows, name).tolist() == [name in items[row].categories for row in order]
    for row, item in enumerate(items):
        for name, value in attribute_values(item):
            found = catalogue.having(name, value)
            assert found is not None
            assert row in found
        assert not item.brand or row in catalogue.makers[f"brand:{item.brand}"]
    assert catalogue.having("colour", "none such") is None


@given(st.tuples(names, names), st.tuples(names, names))
def test_two_attributes_never_share_a_key(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (value_key(*one) == value_key(*other)) == (one == other)


def catalogue_of(count: int, **more: object) -> list[CatalogueItem]:
    return [
        CatalogueItem(item=f"item-{row}", title=f"Title of {row}", categories=("a", f"c{row % 3}"), brand="b", **more)  # type: ignore[arg-type]
        for row in range(count)
    ]


def test_sums_are_over_the_items_of_each_name() -> None:
    items = [CatalogueItem(item="1", categories=("a", "b"), brand="x", creator="x"), CatalogueItem(item="2")]
    items.append(CatalogueItem(item="3", categories=("b",), brand="y"))
    catalogue = Catalogue.of(items, np.asarray([0.5, 0.25, 1.0], np.float32))
    values = np.asarray([1.0, 2.0, 4.0], np.float32)
    by_category, by_brand = catalogue.summed_by_category(values), catalogue.summed_by_brand(values)
    assert dict(zip(by_category[0], by_category[1].tolist(), strict=True)) == {"a": 1.0, "b": 5.0}
    assert dict(zip(by_brand[0], by_brand[1].tolist(), strict=True)) == {"x": 1.0, "y": 4.0}


def test_of_a_brand_only_the_most_popular_are_listed() -> None:
    count = MAKER_ROWS_MAX + 50
    catalogue = Catalogue.of(catalogue_of(count), np.arange(count, dtype=np.float32))
    assert catalogue.makers["brand:b"].tolist() == list(range(count - 1, 49, -1))
    assert catalogue[0].brand == "b"


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (CatalogueItem(item="item-1"), "stands twice"),
        (CatalogueItem(item="x", title="nul\0"), "ends with a NUL"),
        (CatalogueItem(item="x", price=float("inf")), "not finite"),
    ],
)
def test_items_that_no_catalogue_can_hold_are_refused(item: CatalogueItem, told: str) -> None:
    with pytest.raises(CatalogueContentError, match=told):
        Catalogue.of([*catalogue_of(3), item], np.zeros(4))
    with pytest.raises(CatalogueContentError, match="popularities"):
        Catalogue.of(catalogue_of(3), np.zeros(4))


def written(folder: Path) -> Path:
    write_catalogue(folder, catalogue_of(20), np.linspace(1.0, 0.0, 20))
    return folder


def test_a_catalogue_on_the_disk_is_mapped(tmp_path: Path) -> None:
    catalogue = open_catalogue(written(tmp_path), num_items=20)
    assert list(catalogue) == catalogue_of(20)
    assert not catalogue.by_popularity.flags.owndata
    assert not catalogue.prices.flags.writeable
    with pytest.raises(IndexError):
        catalogue[20]


@pytest.mark.parametrize(
    ("name", "column", "told"),
    [
        ("ids.starts", np.asarray([0, *range(1, 20), 9], np.uint32), "points outside"),
        ("ids.places", np.zeros(20, np.int32), "is no order"),
        ("ids.places", np.arange(20, dtype=np.int32)[::-1], "does not find the items"),
        ("ids.hashes", np.arange(20, dtype=np.uint64)[::-1], "is not in order"),
        ("ids.hashes", np.arange(19, dtype=np.uint64), "does not fit"),
        ("labels", np.full(40, 9, np.int32), "points outside"),
        ("brands", np.full(20, 1, np.int32), "points outside"),
        ("categories.rows", np.full(40, 20, np.int32), "points outside"),
        ("by_popularity", np.zeros(20, np.int32), "is no order"),
        ("years", np.zeros(19, np.int32), "is not of 20 items"),
        ("titles.starts", np.zeros(20, np.uint32), "is not of 20 items"),
        ("titles.slots", np.zeros((40, 8), np.uint8), "which no such column is"),
        ("prices", np.zeros(20, np.float32), "which no such column is"),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path: Path, name: str, column: np.ndarray, told: str) -> None:
    np.save(written(tmp_path) / "catalogue" / f"{name}.npy", np.ascontiguousarray(column))
    with pytest.raises(CatalogueError, match=told):
        open_catalogue(tmp_path, num_items=20)


def test_missing_and_other_numbers_of_items_are_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="holds 20 items; the manifest says 21"):
        open_catalogue(written(tmp_path), num_items=21)
    (tmp_path / "catalogue" / "labels.npy").unlink()
    with pytest.raises(CatalogueError, match=r"labels\.npy cannot be read"):
        open_catalogue(tmp_path)


def test_an_item_that_stands_twice_on_the_disk_is_refused(tmp_path: Path) -> None:
    arrays = catalogue_arrays(catalogue_of(20), np.zeros(20))
    slots, hashes, places = (arrays[f"catalogue/ids.{part}.npy"].copy() for part in ("slots", "hashes", "places"))
    slots[1] = slots[0]
    hashes[places == 1] = hashes[places == 0]
    order = np.argsort(hashes, kind="stable")
    arrays |= {
        "catalogue/ids.slots.npy": slots, "catalogue/ids.hashes.npy": hashes[order],
        "catalogue/ids.places.npy": places[order],
    }  # fmt: skip
    (tmp_path / "catalogue").mkdir()
    for name, column in arrays.items():
        np.save(tmp_path / name, column)
    with pytest.raises(CatalogueError, match="names an item twice"):
        open_catalogue(tmp_path)


def test_a_delta_carries_the_texts_that_are_new(tmp_path: Path) -> None:
    before = catalogue_of(2_000)
    changed = [
        replace(before[7], title="Another title"),
        *before[:7],
        *before[8:],
        CatalogueItem(item="new", title="New"),
    ]
    contents = []
    for number, items in enumerate((before, changed)):
        (tmp_path / str(number)).mkdir()
        write_catalogue(tmp_path / str(number), items, np.zeros(len(items)))
        contents.append((tmp_path / str(number) / "catalogue" / "titles.slots.npy").read_bytes())
    delta = make_delta(*contents)
    assert delta is not None
    assert apply_delta(contents[0], delta, length=len(contents[1])) == contents[1]
    assert len(delta) < 400


@pytest.mark.parametrize("crowded", [lambda number: number, lambda number: (1 << 64) - 1 - number, lambda _: 1 << 63])
def test_ids_are_found_however_their_hashes_lie(
    monkeypatch: pytest.MonkeyPatch, crowded: Callable[[int], int]
) -> None:  # fmt: skip
    items = [CatalogueItem(item=str(number)) for number in range(500)]

    def hashed(raw: bytes) -> int:
        return crowded(int(raw)) if raw.isdigit() else 7

    monkeypatch.setattr(columns, "text_hash", hashed)
    monkeypatch.setattr(writing, "text_hash", hashed)
    ids = Catalogue.of(items, np.zeros(len(items))).ids
    assert [ids.find(item.item) for item in items] == list(range(len(items)))
    assert ids.find("other") == -1
    assert ids.find("1234") == -1
