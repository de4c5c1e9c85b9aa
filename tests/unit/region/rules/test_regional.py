"""The items that a region withdraws."""

import json
from pathlib import Path

import pytest

from infra.plumbing.errors import InvalidInputError, SettingsError
from region.rules import regional
from region.rules.regional import WITHDRAWN_FILE, Withdrawals


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
