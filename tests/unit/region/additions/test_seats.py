"""Spare rows behind a release's tables, and who sits there."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from infra.contracts.features import FloatArray
from infra.contracts.messages import AttributeFilter, ItemFilters
from infra.contracts.release import CatalogueItem
from region.funnel.chosen import of_followed
from region.funnel.seats import REST_S, SEATS, NoSeatError, Placement, Seats
from region.funnel.spare import map_with_spare
from region.funnel.tables import ReleaseTables
from tests.unit.region.worlds import bundle_tables

ROWS = 50


@pytest.fixture
def tables(tmp_path: Path) -> ReleaseTables:
    return bundle_tables(tmp_path)


def placement(name: str, **more: object) -> Placement:
    return Placement(
        item=CatalogueItem(item=name, categories=("drama",), **more),  # type: ignore[arg-type]
        vector=np.full(8, 2.0, np.float32), categories=np.asarray([0, 0, 1], np.float32),
        similar_rows=np.asarray([4, 7], np.int32), similar_scores=np.asarray([0.9, 0.5], np.float32), strength=0.25,
        first_seen_s=1e9,
    )  # fmt: skip


@given(
    content=arrays_of.arrays(np.float32, st.tuples(st.integers(0, 3000), st.integers(1, 3)), elements=st.just(1.5)),
    spare_rows=st.integers(1, 2000),
)
def test_spare_rows_are_zeros_that_can_be_written_to_and_the_file_stays(
    tmp_path_factory: pytest.TempPathFactory, content: FloatArray, spare_rows: int
) -> None:
    path = tmp_path_factory.mktemp("spare") / "table.npy"
    np.save(path, content)
    before = path.read_bytes()
    offset = len(before) - content.nbytes
    whole, spare = map_with_spare(
        path, offset=offset, dtype=content.dtype, shape=content.shape, spare_rows=spare_rows
    )  # fmt: skip
    assert (whole[: len(content)] == content).all()
    assert not whole[len(content) :].any()
    assert whole.shape == (len(content) + spare_rows, content.shape[1])
    spare[...] = 3.0
    assert (whole[len(content) :] == 3.0).all()
    assert (whole[: len(content)] == content).all()
    with pytest.raises(ValueError, match="read-only"):
        whole[0] = 0.0
    assert path.read_bytes() == before


def test_a_file_that_is_too_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table.npy").write_bytes(b"x" * 100)
    with pytest.raises(OSError, match="shorter"):
        map_with_spare(tmp_path / "table.npy", offset=128, dtype=np.dtype(np.float32), shape=(10,), spare_rows=1)


def test_who_sits_has_a_row_in_every_table(tables: ReleaseTables) -> None:
    tables.seats.seat([placement("new", price=3.0, attributes={"colour": "red"})], now_s=0.0)
    row = tables.row_of["new"]
    assert row >= ROWS
    assert tables.seats.rows.tolist() == [row]
    assert tables.items[row].item == "new"
    arrays = tables.arrays
    assert arrays.vectors[row].tolist() == [2.0] * 8
    assert arrays.similar_rows[row].tolist() == [4, 7, -1, -1, -1]
    assert (arrays.followers.rows[row] == -1).all()
    assert (arrays.strength[row], arrays.popularity[row], arrays.first_seen_s[row]) == (0.25, 0.0, 1e9)
    every = np.arange(len(tables.items), dtype=np.int32)
    red = ItemFilters(price_max=5.0, attributes=(AttributeFilter(name="colour", values=("red",)),))
    assert np.flatnonzero(tables.facets.allowed(red)[every]).tolist() == [row]
    tables.seats.seat([placement("new", price=9.0)], now_s=1.0)
    assert tables.row_of["new"] == row
    assert not tables.facets.allowed(red)[every].any()
    assert not tables.holds("new")
    assert tables.holds("item-3")


def test_a_row_that_was_left_rests_before_another_item_gets_it(tables: ReleaseTables) -> None:
    seats = tables.seats
    seats.seat([placement(f"new-{number}") for number in range(SEATS)], now_s=0.0)
    seats.check_room(0, now_s=0.0)
    with pytest.raises(NoSeatError):
        seats.check_room(1, now_s=0.0)
    left = tables.row_of["new-3"]
    seats.leave(["new-3", "item-1", "nobody"], now_s=10.0)
    assert "new-3" not in tables.row_of
    assert tables.row_of["item-1"] == 1
    assert seats.left == {left}
    with pytest.raises(NoSeatError):
        seats.seat([placement("late")], now_s=10.0)
    seats.seat([placement("late")], now_s=10.0 + REST_S)
    assert tables.row_of["late"] == left
    assert not seats.left


def test_who_follows_something_finds_its_new_items_without_looking_through_every_seat(tables: ReleaseTables) -> None:
    seats, looked = tables.seats, 0
    whole = Seats._targets

    def counted(self: Seats) -> dict[str, list[int]]:
        nonlocal looked
        looked += 1
        return whole(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Seats, "_targets", counted)
        seats.seat([placement("n-1", brand="acme"), placement("n-2"), placement("n-3", brand="acme")], now_s=0.0)
        one, two, three = (tables.row_of[f"n-{number}"] for number in (1, 2, 3))
        assert seats.followed_as("category:drama").tolist() == [three, two, one]
        assert seats.followed_as("brand:acme").tolist() == [three, one]
        assert seats.followed_as("creator:nobody").tolist() == []
        assert of_followed(tables, ("brand:acme",), limit=5).rows.tolist() == [three, one]
        assert looked == 1
        seats.leave(["n-3"], now_s=1.0)
        seats.seat([placement("n-1", brand="other")], now_s=2.0)
        assert seats.followed_as("brand:acme").tolist() == []
        assert seats.followed_as("category:drama").tolist() == [one, two]
        assert looked == 2
