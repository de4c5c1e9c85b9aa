"""What regions counted for themselves: read, checked, and what a release's lists make of it."""

from pathlib import Path

import msgspec
import pytest

from central.datasets.aggregates import read_counts
from central.datasets.interactions import Interactions
from central.datasets.text import DatasetError
from central.training.popularity import release_lists
from central.training.similar import similar_items
from infra.contracts.extracts import AggregateExtract, ItemTotal, PairTotal, aggregates_file
from infra.contracts.residency import ExportPolicy, encode_extract


def write_extract(
    folder: Path, region: str, items: dict[str, int], pairs: dict[tuple[str, str], int] | None = None, name: str = ""
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    extract = AggregateExtract(
        region=region, made_hour=480_000, users_min=5, epsilon=0.5, delta=1e-6,
        items=tuple(ItemTotal(item=item, users=users) for item, users in items.items()),
        pairs=tuple(PairTotal(first=one, second=two, users=users) for (one, two), users in (pairs or {}).items()),
    )  # fmt: skip
    (folder / (name or aggregates_file(region))).write_bytes(encode_extract(extract, ExportPolicy.AGGREGATES))
    return folder


def test_a_region_without_users_in_the_data_gets_its_own_popular_list(data: Interactions, tmp_path: Path) -> None:
    write_extract(tmp_path, "eu-north", {"i7": 90, "i31": 55, "elsewhere": 400}, {("i7", "i31"): 20, ("i7", "x"): 9})
    (counted,) = read_counts(tmp_path, data.items.ids)
    assert (counted.region, counted.known, counted.unknown) == ("eu-north", 2, 1)
    rows, _ = similar_items(data, data.starts[1:])
    before = release_lists(data, data.starts[1:], rows)
    lists = release_lists(data, data.starts[1:], rows, counted=[counted])
    mine = lists.popular["region:eu-north"]
    assert mine[:2] == ("i7", "i31")
    # What it did not count follows in the order of everybody.
    assert mine[2:] == tuple(item for item in before.popular["all"] if item not in mine[:2])
    assert {key: own for key, own in lists.popular.items() if key != "region:eu-north"} == before.popular
    assert lists.trending == before.trending  # counts know no time


def test_its_counts_take_the_place_of_what_the_data_says_of_it(data: Interactions, tmp_path: Path) -> None:
    rows, _ = similar_items(data, data.starts[1:])
    least = release_lists(data, data.starts[1:], rows).popular["region:us-east"][-1]
    counted = read_counts(write_extract(tmp_path, "us-east", {least: 12}), data.items.ids)
    lists = release_lists(data, data.starts[1:], rows, counted=counted)
    assert lists.popular["region:us-east"][0] == least
    assert lists.popular["region:us-west"] == release_lists(data, data.starts[1:], rows).popular["region:us-west"]


def test_pairs_fill_up_what_the_data_leaves_of_a_similar_list(data: Interactions, tmp_path: Path) -> None:
    few, _ = similar_items(data, data.starts[1:], neighbours=3)
    pairs = {("i0", "i20"): 8, ("i19", "i0"): 30, ("i0", "i1"): 99}
    counted = read_counts(write_extract(tmp_path, "us-east", {"i0": 50}, pairs), data.items.ids)
    before = release_lists(data, data.starts[1:], few).similar["i0"]
    after = release_lists(data, data.starts[1:], few, counted=counted).similar["i0"]
    assert after == tuple(dict.fromkeys((*before, "i1", "i19", "i20")))


def test_what_is_no_extract_of_this_catalogue_is_refused(data: Interactions, tmp_path: Path) -> None:
    ids = data.items.ids
    with pytest.raises(DatasetError, match="holds no aggregates-REGION"):
        read_counts(tmp_path, ids)
    with pytest.raises(DatasetError, match="none of the 1 items"):
        read_counts(write_extract(tmp_path / "other", "us-east", {"a": 9}), ids)
    with pytest.raises(DatasetError, match="counts no item: at its noise"):
        read_counts(write_extract(tmp_path / "few", "us-east", {}), ids)
    with pytest.raises(DatasetError, match="holds the counts of 'us-west'"):
        read_counts(write_extract(tmp_path / "named", "us-west", {"i1": 9}, name=aggregates_file("us-east")), ids)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / aggregates_file("us-east")).write_bytes(msgspec.json.encode({"region": "us-east"}))
    with pytest.raises(DatasetError, match="no counts of a region"):
        read_counts(broken, ids)
