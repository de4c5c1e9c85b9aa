"""The order of interactions, and the splits that evaluation rests on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from central.commands import describe_dataset, import_dataset
from central.datasets.importing import import_source, open_source
from central.datasets.interactions import Interactions, category_weights, given_split, leave_last_out, load_dataset
from central.datasets.text import DatasetError
from central.evaluation.leaks import check_leaks
from central.evaluation.splits import default_protocol, split_for
from central.release.build import _named_extras
from infra.contracts import event_weights
from infra.plumbing.errors import InvalidInputError
from tests.unit.central.conftest import write_csv, write_synthetic


def test_sorted_by_user_time_and_row_of_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    rows = [("b", "i1", 50), ("a", "i2", 30), ("a", "i3", 10), ("b", "i4", 50), ("a", "i5", 10), ("b", "i0", 40)]
    rows += [(f"u{n % 4}", f"i{n % 12}", 100 + n) for n in range(50)]
    write_csv(folder / "interactions.csv", "user_id,item_id,timestamp", list(rows))
    import_dataset(source=str(folder), out=tmp_path / "out")
    data = load_dataset(tmp_path / "out")
    order = {
        user: [data.items.ids[row] for row in data.rows[data.starts[n] : data.starts[n + 1]]]
        for n, user in enumerate(data.user_ids)
    }
    assert order["b"] == ["i0", "i1", "i4"]
    assert order["a"] == ["i3", "i5", "i2"]


def test_a_dataset_may_carry_its_regions_own_weights(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    write_csv(
        folder / "interactions.csv", "user_id,item_id,timestamp,event_type",
        [(f"u{n % 4}", f"i{n % 12}", n, "view") for n in range(60)],
    )  # fmt: skip
    import_dataset(source=str(folder), out=tmp_path / "out")
    assert set(load_dataset(tmp_path / "out").strengths.tolist()) == {3}
    shipped = Path(event_weights.__file__).with_name("event_weights.toml").read_text()
    own = tmp_path / "out" / "event_weights.toml"
    own.write_text(shipped.replace("view = { strength = 3", "view = { strength = 2"))
    assert set(load_dataset(tmp_path / "out").strengths.tolist()) == {2}
    own.write_text("version = 2")
    with pytest.raises(DatasetError, match="cannot be used"):
        load_dataset(tmp_path / "out")


def test_what_nobody_has_touched_belongs_to_a_catalogue_and_not_to_a_mere_collection(tmp_path: Path) -> None:
    rows = [(f"u{n % 4}", f"i{n % 12}", n) for n in range(60)]
    items = [("new", "Out tomorrow", "Film"), *((f"i{n}", f"Item {n}", "Film") for n in range(12))]
    counts = {}
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
        write_csv(tmp_path / name / "interactions.csv", "user_id,item_id,timestamp", list(rows))
        if name == "with":
            write_csv(tmp_path / name / "items.csv", "item_id,title,category", list(items))
        import_dataset(source=str(tmp_path / name), out=tmp_path / f"{name}-out")
        data = load_dataset(tmp_path / f"{name}-out")
        assert data.card.items == len(data.items)
        counts[name] = dict(zip(data.items.ids, np.bincount(data.rows, minlength=len(data.items)), strict=True))
    assert counts["with"] == {"new": 0, **counts["without"]}
    with open_source(tmp_path / "with") as source:
        import_source(replace(source, catalogue=False), tmp_path / "collection")
    assert "new" not in load_dataset(tmp_path / "collection").items.ids


def test_random_ties_shuffle_only_what_is_tied(dataset_folder: Path, data: Interactions) -> None:
    shuffled = load_dataset(dataset_folder, ties="random", seed=3)
    assert np.array_equal(shuffled.times_s, data.times_s)
    assert np.array_equal(shuffled.rows, data.rows)  # no two moments of one user are equal here


def test_leave_last_out_hides_the_last_two_from_training(data: Interactions) -> None:
    split = leave_last_out(data)
    assert np.array_equal(split.test_at, data.starts[1:] - 1)
    assert np.array_equal(split.valid_at, split.test_at - 1)
    assert np.array_equal(split.train_ends, data.starts[1:] - 2)
    assert np.array_equal(split.known_ends, data.starts[1:] - 1)


def test_who_comes_back_to_an_item_is_asked_for_the_last_that_was_new(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    walks = {"back": "abcdcaa", "once": "efghij", "few": "kkkkll", "twice": "abab"}
    rows = [(user, item, n) for user, walk in walks.items() for n, item in enumerate(walk)]
    more = [(f"m{n % 6}", f"i{n % 10}", n) for n in range(60)]
    write_csv(folder / "interactions.csv", "user_id,item_id,timestamp", [*rows, *more])
    import_dataset(source=str(folder), out=tmp_path / "out")
    data = load_dataset(tmp_path / "out")
    split = leave_last_out(data)
    asked = {
        data.user_ids[user]: tuple(data.items.ids[data.rows[at]] for at in (valid, test))
        for user, valid, test in zip(split.users, split.valid_at, split.test_at, strict=True)
    }
    assert asked["back"] == ("c", "d")
    assert asked["once"] == ("i", "j")
    assert {"few", "twice"}.isdisjoint(asked)
    assert not check_leaks(data, split, history_length=20).taken_before
    back = data.user_ids.index("back")
    assert split.train_ends[back] - data.starts[back] == 2
    few = data.user_ids.index("few")
    assert split.train_ends[few] == data.starts[few + 1]
    said = " ".join(describe_dataset(dataset=tmp_path / "out").implies)
    assert "had taken before" in said
    assert "2 users took fewer than 3 different items" in said


def given(tmp_path: Path, tests: list[tuple[str, str, int]]) -> Interactions:
    folder = tmp_path / "raw"
    folder.mkdir()
    rows = [(f"u{n % 4}", f"i{n % 12}", n) for n in range(60)]
    write_csv(folder / "interactions.csv", "user_id,item_id,timestamp", list(rows))
    write_csv(folder / "test.csv", "user_id,item_id,timestamp", list(tests))
    assert import_dataset(source=str(folder), out=tmp_path / "out").test_interactions == len(tests)
    return load_dataset(tmp_path / "out")


def test_a_given_split_predicts_the_first_kept_interaction(tmp_path: Path) -> None:
    # The second test row lies before the training data in time: the split is the file's, not the clock's.
    data = given(tmp_path, [("u0", "i5", 900), ("u0", "i6", 901), ("u1", "i7", 3)])
    split = given_split(data)
    assert [data.user_ids[user] for user in split.users] == ["u0", "u1"]
    assert [data.items.ids[row] for row in data.rows[split.test_at]] == ["i5", "i7"]
    lengths = split.train_ends - data.starts[:-1]
    assert lengths.tolist() == [14, 14, 15, 15]
    assert np.array_equal(split_for(data, "given").test_at, split.test_at)
    assert default_protocol(data.card) == "given"


def test_a_test_of_one_user_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    data = given(tmp_path, [("u0", "i5", 900)])
    with pytest.raises(DatasetError, match="1 users of raw can be tested by given") as caught:
        split_for(data, "given")
    assert "--protocol" in caught.value.fix


def test_no_given_split_and_no_such_protocol(data: Interactions) -> None:
    with pytest.raises(DatasetError, match=r"has no test.csv"):
        given_split(data)
    with pytest.raises(InvalidInputError, match="no protocol is called 'guess'"):
        split_for(data, "guess")


def test_category_weights_are_shares_of_known_categories() -> None:
    weights = category_weights((("a", "b"), ("b", "z"), ()), ("a", "b"))
    assert weights.tolist() == [[0.5, 0.5], [0.0, 1.0], [0.0, 0.0]]


def test_other_columns_of_items_are_kept_for_the_catalogue(tmp_path: Path) -> None:
    folder = write_synthetic(tmp_path / "shop")
    header, *rows = (folder / "items.csv").read_text().splitlines()
    extra = {0: "9.50,red|blue,Acme", 2: "0,green,"}
    lines = [f"{header},price,colour,brand", *(f"{row},{extra.get(at, ',,')}" for at, row in enumerate(rows))]
    (folder / "items.csv").write_text("\n".join(lines) + "\n")
    import_dataset(source=str(folder), out=tmp_path / "out")
    items = load_dataset(tmp_path / "out").items
    known = dict(zip(items.ids, items.extras, strict=True))
    assert known["i0"] == {"price": "9.50", "colour": "red|blue", "brand": "Acme"}
    assert known["i1"] == {}
    assert _named_extras(known["i0"]) == {"price": 9.5, "brand": "Acme", "attributes": {"colour": "red|blue"}}
    assert _named_extras(known["i2"]) == {"price": 0.0, "attributes": {"colour": "green"}}
