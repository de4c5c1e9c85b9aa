"""Items and rows of a mapped catalogue, seats behind it, and what is kept of either stays bounded."""

import numpy as np
import pytest

from infra.contracts.release import CatalogueItem
from infra.plumbing.catalogue.reading import Catalogue
from region.funnel import items as module
from region.funnel.items import NOBODY, Items, RowOf

OWN = tuple(CatalogueItem(item=f"i{row}", categories=("even" if row % 2 == 0 else "odd",)) for row in range(10))
NEW = CatalogueItem(item="new", categories=("even",))


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue.of(OWN, np.zeros(len(OWN)))


def test_rows_are_the_catalogues_and_the_seats(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MADE_MAX", 3)
    items = Items(catalogue, spare_rows=2)
    assert list(items) == [*OWN, NOBODY, NOBODY]
    items[11] = NEW
    assert items[10:] == (NOBODY, NEW)
    assert items[11] is NEW
    assert len(items._made) <= 3
    for row in (3, 12):
        with pytest.raises(IndexError, match="no seat"):
            items[row] = NEW
    with pytest.raises(IndexError, match="no row 12"):
        items[12]
    rows = np.asarray([11, 1, 2, 10], np.int32)
    assert items.are_of(rows, "even").tolist() == [True, False, True, False]
    assert items.are_of(rows[1:3], "odd").tolist() == [True, False]


def test_ids_are_found_and_what_is_kept_of_them_is_bounded(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "ROWS_MAX", 4)
    row_of = RowOf(catalogue)
    for _ in range(2):
        assert [row_of[one.item] for one in OWN] == list(range(10))
        assert len(row_of._known) <= 4
    assert row_of.get("new") is None
    assert "new" not in row_of
    row_of["new"] = 11
    row_of["i3"] = 12  # the catalogue's own word holds
    assert (row_of["new"], row_of["i3"], len(row_of)) == (11, 3, 11)
    assert list(row_of) == [*(one.item for one in OWN), "new"]
    del row_of["new"]
    with pytest.raises(KeyError):
        row_of["new"]
