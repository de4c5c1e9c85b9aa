"""Release tables: read, mapped, and refused with the file's name when they are not what the manifest says."""

import gc
import io
import weakref
from pathlib import Path

import numpy as np
import pytest

from infra.contracts import release as contract
from infra.contracts.messages import ItemFilters
from region import collecting
from region.funnel.tables import ReleaseContentError, load_tables
from tests.unit.region.worlds import bundle_at, npy_bytes


def test_tables_hold_the_catalogue_in_rows(tmp_path: Path) -> None:
    directory, manifest = bundle_at(tmp_path)
    tables = load_tables(directory, manifest)
    assert tables.release_id == manifest.release_id
    assert tables.known_rows(["item-4", "nowhere", "item-0"]) == [4, 0]
    assert tables.by_popularity[0] == int(tables.arrays.popularity.argmax())
    drama = tables.category_rows["drama"]
    assert {tables.items[row].categories for row in drama.tolist()} == {("drama",)}
    assert np.all(np.diff(tables.arrays.popularity[drama]) <= 0)
    assert not tables.arrays.vectors.flags.writeable


def test_a_release_that_nobody_holds_is_gone_without_the_collector(tmp_path: Path) -> None:
    # What is loaded is set aside from the collector (`region.collecting`): a cycle in it would stay for ever.
    with collecting.loading():
        tables = load_tables(*bundle_at(tmp_path))
    tables.facets.allowed(ItemFilters(price_max=1.0))
    held = weakref.ref(tables.seats), weakref.ref(tables.facets), weakref.ref(tables.arrays.vectors.base)
    gc.disable()
    try:
        del tables
        assert [one() for one in held] == [None, None, None]
    finally:
        gc.enable()
        gc.unfreeze()


def _nan_vectors() -> bytes:
    vectors = np.zeros((50, 8), dtype=np.float32)
    vectors[3, 3] = np.nan
    return npy_bytes(vectors)


def _pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (contract.ITEM_VECTORS, b"not an array", "item_vectors.npy cannot be read"),
        (contract.ITEM_VECTORS, b"", "item_vectors.npy cannot be read"),
        (contract.ITEM_VECTORS, _pickled(), "item_vectors.npy cannot be read"),
        (contract.ITEM_VECTORS, _nan_vectors(), "not finite"),
        (contract.ITEM_VECTORS, npy_bytes(np.zeros((50, 9), np.float32)), r"\[50, 9\].*\[50, 8\]"),
        (contract.ITEM_POPULARITY, npy_bytes(np.zeros(50)), "float64"),
        (contract.SIMILAR_ROWS, npy_bytes(np.full((50, 5), 50, np.int32)), "outside the catalogue"),
        (contract.SIMILAR_ROWS, npy_bytes(np.full((50, 5), -2, np.int32)), "outside the catalogue"),
        (contract.SIMILAR_ROWS, npy_bytes(np.zeros((50, 4), np.int32)), "similar_scores.npy"),
        ("catalogue/ids.slots.npy", b"\xff", "ids.slots.npy cannot be read"),
        ("catalogue/ids.starts.npy", npy_bytes(np.arange(3, dtype=np.uint32)), "holds 2 items; the manifest says 50"),
        ("catalogue/years.npy", npy_bytes(np.zeros(49, np.int32)), "years.npy is not of 50 items"),
        ("catalogue/prices.npy", npy_bytes(np.zeros(50, np.float32)), "prices.npy is float32"),
        (contract.LISTS, b"{}", "lists.json cannot be read"),
        (contract.RULES, b'{"diversity": "x"}', "rules.json cannot be read"),
    ],
)
def test_what_the_manifest_does_not_say_is_refused(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    directory, manifest = bundle_at(tmp_path)
    (directory / name).write_bytes(content)
    with pytest.raises(ReleaseContentError, match=told):
        load_tables(directory, manifest)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    directory, manifest = bundle_at(tmp_path)
    (directory / contract.ITEM_TREND).unlink()
    with pytest.raises(ReleaseContentError, match=contract.ITEM_TREND.replace(".", r"\.")):
        load_tables(directory, manifest)
