"""The region's rules file and its withdrawals."""

import json
from pathlib import Path

import pytest

from infra.plumbing.errors import InvalidInputError, SettingsError
from region.rules import regional
from region.rules.regional import WITHDRAWN_FILE, Withdrawals, load_rules


def test_no_file_leaves_the_releases_defaults() -> None:
    assert load_rules("") is None


def test_rules_are_read_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    path.write_text('{"diversity": 0.4, "category_share_max": 0.5, "withdrawn": ["a"]}')
    rules = load_rules(str(path))
    assert rules is not None
    assert (rules.diversity, rules.category_share_max, rules.withdrawn) == (0.4, 0.5, ("a",))
    for content, told in (
        ('{"diversity": 1.5}', "from 0 to 1"),
        ('{"diversity": -0.1}', "from 0 to 1"),
        ('{"category_share_max": 0}', "above 0"),
        ('{"category_share_max": 2}', "above 0"),
        ('{"diversity": "much"}', "not usable"),
        ("{", "not usable"),
    ):
        path.write_text(content)
        with pytest.raises(SettingsError, match=told):
            load_rules(str(path))
    with pytest.raises(SettingsError, match="cannot read"):
        load_rules(str(tmp_path / "nowhere.json"))


def test_withdrawals_are_durable_and_count_their_editions(tmp_path: Path) -> None:
    withdrawals = Withdrawals(tmp_path)
    withdrawals.change(withdrawn=("b", "a"), restored=())
    withdrawals.change(withdrawn=("a",), restored=())
    assert withdrawals.edition == 1
    withdrawals.change(withdrawn=(), restored=("a", "never"))
    assert (withdrawals.edition, set(withdrawals.items)) == (2, {"b"})
    assert json.loads((tmp_path / WITHDRAWN_FILE).read_text()) == ["b"]
    assert Withdrawals(tmp_path).items == {"b"}


def test_an_unreadable_list_does_not_pass_for_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / WITHDRAWN_FILE).write_text("{")
    with pytest.raises(SettingsError, match="cannot be read"):
        Withdrawals(tmp_path)


def test_withdrawals_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regional, "WITHDRAWN_MAX", 2)
    withdrawals = Withdrawals(tmp_path)
    with pytest.raises(InvalidInputError, match="more than 2"):
        withdrawals.change(withdrawn=("a", "b", "c"), restored=())
    assert withdrawals.items == frozenset()


def test_a_disk_that_does_not_take_it_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    withdrawals = Withdrawals(tmp_path)
    monkeypatch.setattr(regional, "write_atomically", full)
    with pytest.raises(OSError, match="No space"):
        withdrawals.change(withdrawn=("a",), restored=())
    assert withdrawals.items == frozenset()
